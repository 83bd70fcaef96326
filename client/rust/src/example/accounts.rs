use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tonic::metadata::{Ascii, MetadataValue};
use uuid::Uuid;

use super::error::Error;
use crate::treering::{self, CallOptions, Transport, failure_of, is_conflict};
use crate::v1::event_store_service_client::EventStoreServiceClient;
use crate::v1::failure::Detail;
use crate::v1::read_request::{Source, Until};
use crate::v1::stream_append::Expectation;
use crate::v1::{
    AppendCondition, AppendRequest, Direction, Event, FailureReason, Query, QueryItem, ReadRequest,
    ReadResponse, RecordedEvent, StreamAppend,
};

/// How long a request to the service may take, with all its calls and repeats.
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Serialize)]
struct AccountOpened<'a> {
    owner: &'a str,
}

#[derive(Serialize)]
struct NameClaimed<'a> {
    name: &'a str,
}

/// In cents.
#[derive(Deserialize, Serialize)]
struct MoneyMoved {
    amount: i64,
}

/// The service. Clones of it share the connection, so every task has its own.
#[derive(Clone, Debug)]
pub struct Accounts<T> {
    pub(super) store: EventStoreServiceClient<T>,
    traceparent: Option<MetadataValue<Ascii>>,
}

impl<T: Transport> Accounts<T> {
    /// Makes the service over a connection.
    pub fn new(connection: T) -> Self {
        Self { store: EventStoreServiceClient::new(connection), traceparent: None }
    }

    /// The service for one request: says which trace its calls belong to, and the events that it
    /// appends. With OpenTelemetry, a layer around the connection does the first half.
    #[must_use]
    pub fn traced(&self, traceparent: MetadataValue<Ascii>) -> Self {
        Self { store: self.store.clone(), traceparent: Some(traceparent) }
    }

    /// Opens an account that is not there yet.
    ///
    /// # Errors
    ///
    /// If it is there, or can't be named so.
    pub async fn open(&self, id: &str, owner: &str) -> Result<(), Error> {
        let opened = self.event("AccountOpened", &AccountOpened { owner }, [account(id)]);
        let request = AppendRequest {
            appends: vec![StreamAppend {
                stream: stream(id),
                // 0 is not the same as none: the stream must not exist.
                expectation: Some(Expectation::ExpectedVersion(0)),
                events: vec![opened],
            }],
            ..Default::default()
        };
        let Err(status) = treering::append(&self.store, request, &self.options()).await else {
            return Ok(());
        };
        Err(match failure_of(&status).and_then(|failure| failure.detail) {
            Some(Detail::VersionConflict(conflict)) => {
                Error::AccountExists { id: id.to_owned(), version: conflict.actual_version }
            }
            Some(Detail::InvalidRequest(mut invalid)) if !invalid.violations.is_empty() => {
                let violation = invalid.violations.swap_remove(0);
                Error::OverLimit {
                    field: violation.field,
                    description: violation.description,
                    limit: violation.limit,
                }
            }
            _ => Error::Store(status),
        })
    }

    /// Pays in.
    ///
    /// # Errors
    ///
    /// If there is no such account.
    pub async fn deposit(&self, id: &str, cents: i64) -> Result<(), Error> {
        match treering::append(&self.store, self.depositing(id, cents), &self.options()).await {
            Err(status) if is_conflict(&status) => Err(Error::NoAccount(id.to_owned())),
            Err(status) => Err(status.into()),
            Ok(_) => Ok(()),
        }
    }

    pub(super) fn depositing(&self, id: &str, cents: i64) -> AppendRequest {
        let deposited = self.event("MoneyDeposited", &MoneyMoved { amount: cents }, [account(id)]);
        AppendRequest {
            appends: vec![StreamAppend {
                stream: stream(id),
                expectation: Some(Expectation::ExpectedExists(true)),
                events: vec![deposited],
            }],
            ..Default::default()
        }
    }

    /// Pays out what is there.
    ///
    /// # Errors
    ///
    /// If it is not, or there is no such account.
    pub async fn withdraw(&self, id: &str, cents: i64) -> Result<(), Error> {
        let options = self.options();
        loop {
            let (balance, version) = self.load(id, &options).await?;
            if balance < cents {
                return Err(Error::InsufficientFunds);
            }
            let withdrawn =
                self.event("MoneyWithdrawn", &MoneyMoved { amount: cents }, [account(id)]);
            let request = AppendRequest {
                appends: vec![StreamAppend {
                    stream: stream(id),
                    // Only if nothing has come in between.
                    expectation: Some(Expectation::ExpectedVersion(version)),
                    events: vec![withdrawn],
                }],
                ..Default::default()
            };
            match treering::append(&self.store, request, &options).await {
                Err(status) if is_conflict(&status) => {} // Something has: load again, decide again.
                Err(status) => return Err(status.into()),
                Ok(_) => return Ok(()),
            }
        }
    }

    /// Gives an account a name that no other one has, whatever stream it is in.
    ///
    /// # Errors
    ///
    /// If another one has it, or there is no such account.
    pub async fn claim_name(&self, id: &str, name: &str) -> Result<(), Error> {
        let options = self.options();
        let tag = format!("name:{name}");
        let claims = Query {
            items: vec![QueryItem {
                types: vec!["NameClaimed".to_owned()],
                tags: vec![tag.clone()],
                ..Default::default()
            }],
            ..Default::default()
        };
        loop {
            let request =
                ReadRequest { source: Some(Source::Query(claims.clone())), ..Default::default() };
            let state = treering::read(&self.store, request, &options).await?;
            if !state.events.is_empty() {
                return Err(Error::NameTaken(name.to_owned()));
            }
            let tags = [account(id), tag.clone()];
            let request = AppendRequest {
                appends: vec![StreamAppend {
                    stream: stream(id),
                    expectation: Some(Expectation::ExpectedExists(true)),
                    events: vec![self.event("NameClaimed", &NameClaimed { name }, tags)],
                }],
                // Only if nobody has claimed it since we looked.
                conditions: vec![AppendCondition {
                    fail_if_match: Some(claims.clone()),
                    after_position: state.head_position,
                }],
                ..Default::default()
            };
            let Err(status) = treering::append(&self.store, request, &options).await else {
                return Ok(());
            };
            match failure_of(&status).map(|failure| failure.reason()) {
                Some(FailureReason::ConditionFailed) => {}
                Some(FailureReason::VersionConflict) => {
                    return Err(Error::NoAccount(id.to_owned()));
                }
                _ => return Err(status.into()),
            }
        }
    }

    /// Moves money from one account to another: both events are recorded, or none.
    ///
    /// # Errors
    ///
    /// If there is not enough, or no such account.
    pub async fn transfer(&self, from: &str, to: &str, cents: i64) -> Result<(), Error> {
        let options = self.options();
        loop {
            let (balance, version) = self.load(from, &options).await?;
            self.load(to, &options).await?;
            if balance < cents {
                return Err(Error::InsufficientFunds);
            }
            let moved = MoneyMoved { amount: cents };
            let request = AppendRequest {
                appends: vec![
                    StreamAppend {
                        stream: stream(from),
                        expectation: Some(Expectation::ExpectedVersion(version)),
                        events: vec![self.event("MoneyWithdrawn", &moved, [account(from)])],
                    },
                    StreamAppend {
                        stream: stream(to),
                        // What else comes in there does not matter.
                        expectation: Some(Expectation::ExpectedExists(true)),
                        events: vec![self.event("MoneyDeposited", &moved, [account(to)])],
                    },
                ],
                ..Default::default()
            };
            match treering::append(&self.store, request, &options).await {
                Err(status) if is_conflict(&status) => {}
                Err(status) => return Err(status.into()),
                Ok(_) => return Ok(()),
            }
        }
    }

    /// What is there now.
    ///
    /// # Errors
    ///
    /// If there is no such account.
    pub async fn balance(&self, id: &str) -> Result<i64, Error> {
        let (balance, _) = self.load(id, &self.options()).await?;
        Ok(balance)
    }

    /// What was there at a time.
    ///
    /// # Errors
    ///
    /// If the store can't tell.
    pub async fn balance_at(&self, id: &str, time: SystemTime) -> Result<i64, Error> {
        let request = ReadRequest {
            source: Some(Source::Stream(stream(id))),
            until: Some(Until::UntilTime(time.into())),
            ..Default::default()
        };
        sum(&treering::read(&self.store, request, &self.options()).await?.events)
    }

    /// The last movements of some accounts, the newest first.
    ///
    /// # Errors
    ///
    /// If the store can't tell.
    pub async fn latest(&self, limit: u64, ids: &[&str]) -> Result<Vec<RecordedEvent>, Error> {
        // An event matches if any item does; an item, if all its parts do.
        let items = ids.iter().map(|id| QueryItem {
            types: vec!["MoneyDeposited".to_owned(), "MoneyWithdrawn".to_owned()],
            tags: vec![account(id)],
            ..Default::default()
        });
        let request = ReadRequest {
            source: Some(Source::Query(Query { items: items.collect(), ..Default::default() })),
            direction: Direction::Backwards.into(),
            limit: Some(limit),
            ..Default::default()
        };
        Ok(treering::read(&self.store, request, &self.options()).await?.events)
    }

    /// An account as its events have made it, and its version.
    async fn load(&self, id: &str, options: &CallOptions) -> Result<(i64, u64), Error> {
        let request =
            ReadRequest { source: Some(Source::Stream(stream(id))), ..Default::default() };
        let ReadResponse { events, stream_version, .. } =
            treering::read(&self.store, request, options).await?;
        if stream_version == 0 {
            return Err(Error::NoAccount(id.to_owned()));
        }
        Ok((sum(&events)?, stream_version))
    }

    /// The deadline goes along with a call, and so does the trace.
    fn options(&self) -> CallOptions {
        let mut options = CallOptions::within(TIMEOUT);
        if let Some(traceparent) = &self.traceparent {
            options.metadata.insert("traceparent", traceparent.clone());
        }
        options
    }

    /// Makes an event, with the id by which its append is found if it has to be repeated.
    fn event(
        &self,
        kind: &str,
        data: &impl Serialize,
        tags: impl IntoIterator<Item = String>,
    ) -> Event {
        let mut metadata = HashMap::new();
        if let Some(Ok(traceparent)) = self.traceparent.as_ref().map(MetadataValue::to_str) {
            metadata.insert("traceparent".to_owned(), traceparent.to_owned());
        }
        Event {
            id: Uuid::now_v7().to_string(),
            r#type: kind.to_owned(),
            data: serde_json::to_vec(data).expect("our own types can all be encoded"),
            tags: tags.into_iter().collect(),
            time: Some(SystemTime::now().into()),
            metadata,
            ..Default::default()
        }
    }
}

fn sum(events: &[RecordedEvent]) -> Result<i64, Error> {
    events.iter().map(change).sum()
}

/// What an event does to a balance. Events of types that it does not know do nothing.
pub(super) fn change(event: &RecordedEvent) -> Result<i64, Error> {
    let sign = match event.r#type.as_str() {
        "MoneyDeposited" => 1,
        "MoneyWithdrawn" => -1,
        _ => return Ok(0),
    };
    let moved: MoneyMoved = serde_json::from_slice(&event.data)
        .map_err(|source| Error::Unreadable { position: event.position, source })?;
    Ok(sign * moved.amount)
}

fn stream(id: &str) -> String {
    format!("account-{id}")
}

fn account(id: &str) -> String {
    format!("account:{id}")
}
