//! The conformance cases in Rust: `conformance write|check|repeat`, at `TREERING_SERVER`. See
//! client/conformance/README.md.

use std::collections::{BTreeMap, HashMap};
use std::env;
use std::error::Error;
use std::fmt::Debug;
use std::fs;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use prost_types::Timestamp;
use serde::{Deserialize, Deserializer};
use tonic::transport::Channel;
use treering_example::treering::{self, CallOptions, failure_of};
use treering_example::v1::event_store_service_client::EventStoreServiceClient;
use treering_example::v1::read_request::{After, Source};
use treering_example::v1::{
    AppendItem, AppendManyRequest, AppendRequest, AppendResponse, Direction, Event, FailureReason,
    Query, ReadRequest, RecordedEvent, StreamAppend, StreamVersion, VersionConflict, append_result,
    failure, stream_append, version_conflict,
};

const CASES: &str = "../conformance/cases.json"; // From client/rust, where run.sh goes.

type Checked<T = ()> = Result<T, Box<dyn Error>>;

#[derive(Deserialize)]
struct Cases {
    events: Vec<Case>,
    expectations: Vec<Expectation>,
    request_ids: Vec<Number>,
    limits: Vec<Number>,
    before_positions: Vec<Number>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    #[serde(rename = "case")]
    about: String,
    #[serde(default)]
    stream: String,
    event: Fields,
    #[serde(default)]
    recorded: Fields,
}

/// Fields of an event; those that are not there are not given.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    id: Option<String>,
    r#type: Option<String>,
    data: Option<Data>,
    content_type: Option<String>,
    tags: Option<Vec<String>>,
    metadata: Option<HashMap<String, String>>,
    time: Option<Time>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Data {
    text: Option<String>,
    base64: Option<String>,
    times: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Time {
    seconds: String,
    nanos: i32,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Expectation {
    ExpectedVersion(Number),
    ExpectedExists(bool),
}

/// One of 64 bits, in a string.
#[derive(Clone, Copy)]
struct Number(u64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let digits = String::deserialize(deserializer)?;
        digits.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

impl Case {
    /// What is appended.
    fn event(&self) -> Checked<Event> {
        let Fields { id, r#type, data, content_type, tags, metadata, time } = &self.event;
        Ok(Event {
            id: id.clone().unwrap_or_default(),
            r#type: r#type.clone().unwrap_or_default(),
            data: data.as_ref().map(Data::bytes).transpose()?.unwrap_or_default(),
            content_type: content_type.clone().unwrap_or_default(),
            tags: tags.clone().unwrap_or_default(),
            metadata: metadata.clone().unwrap_or_default(),
            time: time.as_ref().map(Time::timestamp).transpose()?,
        })
    }

    /// What is to be read.
    fn recorded(&self, position: u64, version: u64) -> Checked<RecordedEvent> {
        let sent = self.event()?;
        let Fields { id, r#type, data, content_type, tags, metadata, time } = &self.recorded;
        Ok(RecordedEvent {
            id: id.clone().unwrap_or(sent.id),
            r#type: r#type.clone().unwrap_or(sent.r#type),
            data: data.as_ref().map(Data::bytes).transpose()?.unwrap_or(sent.data),
            content_type: content_type.clone().unwrap_or(sent.content_type),
            tags: tags.clone().unwrap_or(sent.tags),
            metadata: metadata.clone().unwrap_or(sent.metadata),
            time: time.as_ref().map(Time::timestamp).transpose()?.or(sent.time),
            position,
            stream: self.stream.clone(),
            version,
            recorded_at: None,
        })
    }
}

impl Data {
    fn bytes(&self) -> Checked<Vec<u8>> {
        let once = match (&self.text, &self.base64) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, Some(base64)) => BASE64_STANDARD.decode(base64)?,
            (None, None) => return Err("data is neither text nor base64".into()),
        };
        Ok(once.repeat(self.times.unwrap_or(1)))
    }
}

impl Time {
    fn timestamp(&self) -> Checked<Timestamp> {
        Ok(Timestamp { seconds: self.seconds.parse()?, nanos: self.nanos })
    }
}

impl Expectation {
    /// An append whose expectation is not met, and what it is to be refused with.
    fn refused(&self, stream: &str, actual_version: u64) -> (AppendRequest, VersionConflict) {
        let (sent, told) = match *self {
            Self::ExpectedVersion(Number(version)) => (
                stream_append::Expectation::ExpectedVersion(version),
                version_conflict::Expectation::ExpectedVersion(version),
            ),
            Self::ExpectedExists(exists) => (
                stream_append::Expectation::ExpectedExists(exists),
                version_conflict::Expectation::ExpectedExists(exists),
            ),
        };
        let event = Event {
            id: "0192f0c1-ffff-7000-8000-000000000000".to_owned(),
            r#type: "Refused".to_owned(),
            ..Default::default()
        };
        let append = StreamAppend {
            stream: stream.to_owned(),
            expectation: Some(sent),
            events: vec![event],
        };
        let conflict =
            VersionConflict { stream: stream.to_owned(), expectation: Some(told), actual_version };
        (AppendRequest { appends: vec![append], ..Default::default() }, conflict)
    }
}

struct Conformance {
    store: EventStoreServiceClient<Channel>,
    options: CallOptions,
    cases: Cases,
    expected: Vec<RecordedEvent>,
}

impl Conformance {
    fn new() -> Checked<Self> {
        let cases: Cases = serde_json::from_slice(&fs::read(CASES)?)?;
        let mut versions = HashMap::<&str, u64>::new();
        let mut expected = Vec::new();
        for (position, case) in (1..).zip(&cases.events) {
            let mut version = 0;
            if !case.stream.is_empty() {
                let last = versions.entry(&case.stream).or_default();
                *last += 1;
                version = *last;
            }
            expected.push(case.recorded(position, version)?);
        }
        let connection = treering::connect(&env::var("TREERING_SERVER")?)?;
        Ok(Self {
            store: EventStoreServiceClient::new(connection),
            options: CallOptions::within(Duration::from_secs(60)),
            cases,
            expected,
        })
    }

    async fn append(&mut self, are_there: bool) -> Checked {
        for (case, expected) in self.cases.events.iter().zip(&self.expected) {
            let mut request = AppendRequest::default();
            let mut answer = AppendResponse {
                first_position: expected.position,
                last_position: expected.position,
                duplicate: are_there,
                ..Default::default()
            };
            if case.stream.is_empty() {
                request.events = vec![case.event()?];
            } else {
                let (stream, version) = (case.stream.clone(), expected.version);
                request.appends = vec![StreamAppend {
                    stream: stream.clone(),
                    expectation: Some(stream_append::Expectation::ExpectedVersion(version - 1)),
                    events: vec![case.event()?],
                }];
                answer.versions = vec![StreamVersion { stream, version }];
            }
            let response = self.store.append(self.options.request(request)).await?.into_inner();
            let found = AppendResponse { recorded_at: None, log_id: String::new(), ..response };
            same(&case.about, &found, &answer)?;
        }
        Ok(())
    }

    async fn check(&mut self) -> Checked {
        let state = treering::read(&self.store, everything(), &self.options).await?;
        same("events", &state.events.len(), &self.expected.len())?;
        same("head", &state.head_position, &(self.expected.len() as u64))?;
        let mut positions = BTreeMap::<&str, Vec<u64>>::new();
        for ((case, mut found), expected) in
            self.cases.events.iter().zip(state.events).zip(&self.expected)
        {
            same(&case.about, &found.recorded_at.take().is_some(), &true)?;
            same(&case.about, &found, expected)?;
            if !case.stream.is_empty() {
                positions.entry(&case.stream).or_default().push(expected.position);
            }
        }
        for (stream, expected) in positions {
            let source = Some(Source::Stream(stream.to_owned()));
            let request = ReadRequest { source, ..Default::default() };
            let state = treering::read(&self.store, request, &self.options).await?;
            let found: Vec<_> = state.events.iter().map(|event| event.position).collect();
            same(stream, &found, &expected)?;
            same(stream, &state.stream_version, &(expected.len() as u64))?;
        }
        self.check_expectations().await?;
        self.check_request_ids().await?;
        self.check_reads().await
    }

    /// The stream of the first event, and its version.
    fn first_stream(&self) -> (&str, u64) {
        let stream = &self.expected[0].stream;
        let of_it = self.expected.iter().filter(|event| event.stream == *stream);
        (stream, of_it.map(|event| event.version).max().unwrap_or_default())
    }

    async fn check_expectations(&self) -> Checked {
        let (stream, version) = self.first_stream();
        for expectation in &self.cases.expectations {
            let (request, conflict) = expectation.refused(stream, version);
            let mut store = self.store.clone();
            let Err(status) = store.append(self.options.request(request)).await else {
                return Err(format!("met: {:?}", conflict.expectation).into());
            };
            let found = failure_of(&status).and_then(|failure| failure.detail);
            same("expectation", &found, &Some(failure::Detail::VersionConflict(conflict)))?;
        }
        Ok(())
    }

    async fn check_request_ids(&mut self) -> Checked {
        let (stream, version) = self.first_stream();
        let (append, _) = self.cases.expectations[0].refused(stream, version);
        let ids: Vec<_> = self.cases.request_ids.iter().map(|&Number(id)| id).collect();
        let items =
            ids.iter().map(|&id| AppendItem { request_id: id, append: Some(append.clone()) });
        let message = AppendManyRequest { items: items.collect() };
        let request = self.options.request(tokio_stream::once(message));
        let mut responses = self.store.append_many(request).await?.into_inner();
        let mut found = Vec::new();
        while let Some(response) = responses.message().await? {
            for result in response.results {
                found.push(result.request_id);
                let Some(append_result::Outcome::Failure(failure)) = result.outcome else {
                    return Err(format!("request id {}: {result:?}", result.request_id).into());
                };
                same("request id", &failure.reason(), &FailureReason::VersionConflict)?;
            }
        }
        same("request ids", &found, &ids)
    }

    async fn check_reads(&self) -> Checked {
        let count = self.expected.len() as u64;
        for &Number(limit) in &self.cases.limits {
            let request = ReadRequest { limit: Some(limit), ..everything() };
            let state = treering::read(&self.store, request, &self.options).await?;
            same(&format!("limit {limit}"), &(state.events.len() as u64), &limit.min(count))?;
        }
        for &Number(before) in &self.cases.before_positions {
            let request = ReadRequest {
                direction: Direction::Backwards.into(),
                after: Some(After::AfterPosition(before)),
                limit: Some(1),
                ..everything()
            };
            let state = treering::read(&self.store, request, &self.options).await?;
            let found: Vec<_> = state.events.iter().map(|event| event.position).collect();
            same(&format!("before {before}"), &found, &vec![count])?;
        }
        Ok(())
    }
}

fn everything() -> ReadRequest {
    let all = Query { all: true, ..Default::default() };
    ReadRequest { source: Some(Source::Query(all)), ..Default::default() }
}

fn same<T: Debug + PartialEq>(what: &str, found: &T, expected: &T) -> Checked {
    if found == expected {
        return Ok(());
    }
    let [found, expected] =
        [found, expected].map(|value| format!("{value:?}").chars().take(1_000).collect::<String>());
    Err(format!("{what}: {found} instead of {expected}").into())
}

#[tokio::main]
async fn main() -> Checked {
    let mode = env::args().nth(1).unwrap_or_default();
    let mut conformance = Conformance::new()?;
    match mode.as_str() {
        "write" => conformance.append(false).await?,
        "repeat" => conformance.append(true).await?,
        "check" => conformance.check().await?,
        _ => return Err("usage: conformance write|check|repeat".into()),
    }
    println!("{mode}: {} events", conformance.expected.len());
    Ok(())
}
