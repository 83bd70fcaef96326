use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::ops::ControlFlow;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tokio::task::block_in_place;

use super::accounts::change;
use super::error::Error;
use crate::treering::{Checkpoint, Transport, follow, start_at};
use crate::v1::event_store_service_client::EventStoreServiceClient;
use crate::v1::subscribe_request::Source;
use crate::v1::subscribe_response::Content;
use crate::v1::{Query, QueryItem, RecordedEvent, SubscribeRequest};

/// A read model: what is in every account. It is kept in a file, together with the checkpoint up to
/// which it was made, so that after a crash no event counts twice and none is missed.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Balances {
    /// Up to where it was made.
    pub checkpoint: Checkpoint,
    /// What is in each account.
    pub cents: HashMap<String, i64>,
    /// How many events it was made of.
    pub events: u64,
}

impl Balances {
    /// What is in the file; nothing, from before all events, if there is none.
    ///
    /// # Errors
    ///
    /// If it can't be read.
    pub fn load(path: &Path) -> io::Result<Self> {
        match fs::read(path) {
            Ok(content) => Ok(serde_json::from_slice(&content)?),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    fn apply(&mut self, event: &RecordedEvent) -> Result<(), Error> {
        if event.position <= self.checkpoint.position {
            return Err(Error::Repeated(event.position));
        }
        let id = event.stream.strip_prefix("account-").unwrap_or(&event.stream);
        *self.cents.entry(id.to_owned()).or_default() += change(event)?;
        self.events += 1;
        Ok(())
    }

    /// Replaces the file as a whole: a crash leaves the old one or the new one.
    fn save(&self, path: &Path) -> io::Result<()> {
        let new = path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(new, path)
    }
}

/// Keeps the file up to date, until it is dropped or `caught_up` ends it, which is called whenever
/// all history is in it.
///
/// # Errors
///
/// If the store ends the subscription for good, or the file can't be kept.
///
/// # Panics
///
/// In a runtime of one thread.
pub async fn follow_balances<T: Transport>(
    store: &EventStoreServiceClient<T>,
    path: &Path,
    mut caught_up: impl FnMut(&Balances) -> ControlFlow<()>,
) -> Result<(), Error> {
    let mut balances = block_in_place(|| Balances::load(path))?;
    let accounts = QueryItem { categories: vec!["account".to_owned()], ..Default::default() };
    let mut request = SubscribeRequest {
        source: Some(Source::Query(Query { items: vec![accounts], ..Default::default() })),
        ..Default::default()
    };
    start_at(&mut request, &balances.checkpoint);
    let mut subscription = follow(store, request);
    loop {
        let (response, checkpoint) = subscription.next().await?;
        if let Some(Content::Events(batch)) = &response.content {
            for event in &batch.events {
                balances.apply(event)?;
            }
        }
        balances.checkpoint = checkpoint;
        // Not with `tokio::fs`, whose work goes on by itself when a task is aborted: it could meet
        // that of a task that was started in its place.
        block_in_place(|| balances.save(path))?;
        let is_caught_up = matches!(response.content, Some(Content::CaughtUp(_)));
        if is_caught_up && caught_up(&balances).is_break() {
            return Ok(());
        }
    }
}
