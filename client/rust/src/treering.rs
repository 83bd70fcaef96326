//! What every caller of Treering in Rust would write: what a failed call means, an append that is
//! repeated safely, a subscription that goes on after any break. It is one file, to copy; everything
//! else is in the stubs, in `v1`.

use std::error::Error;
use std::iter::successors;
use std::time::Duration;

use prost::Message;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::{Body as HttpBody, Bytes, StdError};
use tonic::metadata::MetadataMap;
use tonic::transport::{self, Channel, Endpoint};
use tonic::{Code, Extensions, Request, Status, Streaming, TimeoutExpired};

use crate::v1::event_store_service_client::EventStoreServiceClient;
use crate::v1::subscribe_request::Start;
use crate::v1::subscribe_response::Content;
use crate::v1::{
    AppendRequest, AppendResponse, Failure, FailureReason, ReadRequest, ReadResponse,
    SubscribeRequest, SubscribeResponse,
};

/// What carries the calls: a [`Channel`], or one with interceptors and layers around it.
pub trait Transport:
    GrpcService<
        Body,
        Error: Into<StdError>,
        ResponseBody: HttpBody<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static,
    > + Clone
{
}

impl<T> Transport for T where
    T: GrpcService<
            Body,
            Error: Into<StdError>,
            ResponseBody: HttpBody<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static,
        > + Clone
{
}

/// Makes a connection to keep for the life of the process, to an address as in `127.0.0.1:7464`. It
/// connects when it is first used, and again when it is broken; pings notice a server that is gone
/// without a word. Clones of it share the connection.
///
/// # Errors
///
/// If the address is not one.
///
/// # Panics
///
/// Outside of a Tokio runtime.
pub fn connect(address: &str) -> Result<Channel, transport::Error> {
    let uri =
        if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let endpoint = Endpoint::from_shared(uri)?
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10));
    Ok(endpoint.connect_lazy())
}

/// What the server says about a failed call: the reason and the facts. `None` if it said nothing,
/// as when it could not be reached.
#[must_use]
pub fn failure_of(status: &Status) -> Option<Failure> {
    let state = tonic_types::Status::decode(status.details()).ok()?;
    let detail = state.details.iter().find(|any| any.type_url.ends_with("/treering.v1.Failure"))?;
    Failure::decode(detail.value.as_slice()).ok()
}

/// Whether something came between a decision and its append. Nothing was written: load again,
/// decide again.
#[must_use]
pub fn is_conflict(status: &Status) -> bool {
    let reason = failure_of(status).map(|failure| failure.reason());
    matches!(reason, Some(FailureReason::VersionConflict | FailureReason::ConditionFailed))
}

/// What the calls have in common that are made for one piece of work.
#[derive(Clone, Debug)]
pub struct CallOptions {
    /// When all of it, with all repeats, must be over.
    pub deadline: Instant,
    /// What is sent along, `traceparent` above all.
    pub metadata: MetadataMap,
}

impl CallOptions {
    /// From now on no longer than this.
    #[must_use]
    pub fn within(time: Duration) -> Self {
        Self { deadline: Instant::now() + time, metadata: MetadataMap::new() }
    }

    /// A request that tells the server how much time is left.
    pub fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::from_parts(self.metadata.clone(), Extensions::new(), message);
        request.set_timeout(self.deadline.saturating_duration_since(Instant::now()));
        request
    }
}

/// Appends, and repeats the request for as long as that can help and there is time. That is safe
/// because of the events' ids, which must be set: what was recorded is found by them and answered
/// as the first time.
///
/// # Errors
///
/// If it is refused: with a [`Failure`] that is neither UNAVAILABLE nor `OUTCOME_UNKNOWN`. After any
/// other error the events may have been recorded: the same request again will tell.
pub async fn append<T: Transport>(
    store: &EventStoreServiceClient<T>,
    request: AppendRequest,
    options: &CallOptions,
) -> Result<AppendResponse, Status> {
    let mut events = request.appends.iter().flat_map(|each| &each.events).chain(&request.events);
    if events.any(|event| event.id.is_empty()) {
        return Err(Status::invalid_argument(
            "an event has no id, and could not be appended again safely",
        ));
    }
    repeat(options.deadline, || {
        let (mut store, request) = (store.clone(), options.request(request.clone()));
        async move { Ok(store.append(request).await?.into_inner()) }
    })
    .await
}

/// Reads to the end: all events, and the state that was read.
///
/// # Errors
///
/// If it is refused, or does not come to its end in time.
pub async fn read<T: Transport>(
    store: &EventStoreServiceClient<T>,
    request: ReadRequest,
    options: &CallOptions,
) -> Result<ReadResponse, Status> {
    repeat(options.deadline, || {
        let (mut store, request) = (store.clone(), options.request(request.clone()));
        async move {
            let mut responses = store.read(request).await?.into_inner();
            let mut events = Vec::new();
            let mut state = ReadResponse::default();
            while let Some(mut response) = responses.message().await? {
                events.append(&mut response.events);
                state = response;
            }
            Ok(ReadResponse { events, ..state })
        }
    })
    .await
}

/// Makes a call again for as long as that can help and there is time. For appends with ids, and for
/// all that writes nothing.
///
/// # Errors
///
/// With the call's last one.
pub async fn repeat<A, F>(deadline: Instant, mut call: impl FnMut() -> F) -> Result<A, Status>
where
    F: Future<Output = Result<A, Status>>,
{
    let mut retry = Retry::default();
    loop {
        // tonic's own time-out ends with the first part of an answer.
        let status = match timeout_at(deadline, call()).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(status)) if !has_expired(&status) => status,
            _ => Status::deadline_exceeded("there was no answer in time"),
        };
        match retry.delay_after(&status) {
            Some(delay) if Instant::now() + delay < deadline => sleep(delay).await,
            _ => return Err(status),
        }
    }
}

/// Whether tonic's own time-out ended a call, which it calls CANCELLED.
fn has_expired(status: &Status) -> bool {
    successors(status.source(), |&error| error.source()).any(<dyn Error>::is::<TimeoutExpired>)
}

/// Decides whether a call is worth repeating, and when: with delays that grow, and that differ from
/// caller to caller. One for the attempts at one call; a new one once it works again.
#[derive(Debug, Default)]
pub struct Retry {
    delay: Duration,
    doubtful: u32,
}

impl Retry {
    /// How long to wait before the next attempt; `None` if that can't help.
    pub fn delay_after(&mut self, status: &Status) -> Option<Duration> {
        let failure = failure_of(status);
        if !may_pass(status, failure.as_ref()) {
            if !is_doubtful(status.code()) {
                return None;
            }
            self.doubtful += 1;
            if self.doubtful == 3 {
                return None;
            }
        }
        self.delay = (2 * self.delay).clamp(Duration::from_millis(50), Duration::from_secs(3));
        let asked = failure.and_then(|failure| failure.retry_after.map(span)).unwrap_or_default();
        Some(asked + self.delay.mul_f64(f64::midpoint(1.0, fastrand::f64())))
    }
}

fn may_pass(status: &Status, failure: Option<&Failure>) -> bool {
    if let Some(failure) = failure {
        return failure.retry_after.is_some()
            || failure.reason() == FailureReason::Overloaded
            || status.code() == Code::Unavailable;
    }
    match status.code() {
        Code::Unavailable => true,
        // A connection that broke is one of these in tonic, and has a source, which the server's
        // word never has.
        Code::Unknown | Code::Cancelled | Code::Internal => status.source().is_some(),
        _ => false,
    }
}

/// A proxy's doing, perhaps, or a defect that will be there again. The others are final: ABORTED
/// above all, where a repeat would overrule the decision.
fn is_doubtful(code: Code) -> bool {
    matches!(
        code,
        Code::Internal | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded | Code::DataLoss
    )
}

/// A duration of protobuf as one of Rust, which is never negative.
fn span(duration: prost_types::Duration) -> Duration {
    duration.try_into().unwrap_or_default()
}

/// How far a subscriber has come. Store it together with what was made of the events.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Checkpoint {
    /// Id of the log.
    pub log_id: String,
    /// Everything up to here was looked at.
    pub position: u64,
    /// Id of the event there, if it is known.
    pub event_id: String,
}

impl Checkpoint {
    fn reach(&mut self, position: u64, event_id: &str) {
        self.position = position;
        event_id.clone_into(&mut self.event_id);
    }
}

/// Lets a subscription begin at a checkpoint; at the default one, with the whole log.
pub fn start_at(request: &mut SubscribeRequest, checkpoint: &Checkpoint) {
    request.start = Some(Start::AfterPosition(checkpoint.position));
    request.expected_log_id.clone_from(&checkpoint.log_id);
    request.after_event_id.clone_from(&checkpoint.event_id);
}

/// Subscribes, and after any break that may pass subscribes again, where it had stopped. The request
/// may start anywhere, and at a checkpoint with [`start_at`]. It ends when it is dropped.
pub fn follow<T: Transport>(
    store: &EventStoreServiceClient<T>,
    request: SubscribeRequest,
) -> Subscription<T> {
    let position = match request.start {
        Some(Start::AfterPosition(position)) => position,
        _ => 0,
    };
    let checkpoint = Checkpoint {
        log_id: request.expected_log_id.clone(),
        position,
        event_id: request.after_event_id.clone(),
    };
    let heartbeat = request.heartbeat_interval.map_or(Duration::from_secs(10), span);
    Subscription {
        store: store.clone(),
        request,
        checkpoint,
        silence: 3 * heartbeat,
        responses: None,
        retry: Retry::default(),
        not_before: None,
        silent_at: None,
    }
}

/// What [`follow`] gives.
#[derive(Debug)]
pub struct Subscription<T> {
    store: EventStoreServiceClient<T>,
    request: SubscribeRequest,
    checkpoint: Checkpoint,
    /// How long nothing may come.
    silence: Duration,
    /// Those of the call that is open.
    responses: Option<Streaming<SubscribeResponse>>,
    retry: Retry,
    /// When to call again, after a break.
    not_before: Option<Instant>,
    /// When nothing will have come for too long, while the next response is waited for.
    silent_at: Option<Instant>,
}

impl<T: Transport> Subscription<T> {
    /// The next response, and the checkpoint to store once that response has been dealt with. Every
    /// event comes once. What is dropped while it waits loses nothing, so it can stand in a
    /// `select!`.
    ///
    /// # Errors
    ///
    /// When the server's answer is final: `LOG_DIVERGED` above all, for a log that has lost what the
    /// subscriber saw.
    pub async fn next(&mut self) -> Result<(SubscribeResponse, Checkpoint), Status> {
        loop {
            if let Some(time) = self.not_before {
                sleep_until(time).await;
                self.not_before = None;
            }
            // A connection can die without a word; heartbeats tell. What is done between two calls
            // of this is no silence.
            let silent_at = *self.silent_at.get_or_insert(Instant::now() + self.silence);
            let silence = self.silence;
            let received = timeout_at(silent_at, self.receive()).await.unwrap_or_else(|_| {
                Err(Status::unavailable(format!("nothing came for {silence:?}")))
            });
            self.silent_at = None;
            match received {
                Ok(response) => {
                    self.move_on(&response);
                    return Ok((response, self.checkpoint.clone()));
                }
                Err(status) => {
                    self.responses = None;
                    let Some(delay) = self.retry.delay_after(&status) else {
                        return Err(status);
                    };
                    self.not_before = Some(Instant::now() + delay);
                }
            }
        }
    }

    async fn receive(&mut self) -> Result<SubscribeResponse, Status> {
        let responses = match &mut self.responses {
            Some(responses) => responses,
            none => {
                let call = self.store.subscribe(self.request.clone()).await?;
                none.insert(call.into_inner())
            }
        };
        let ended = || Status::unavailable("the subscription was ended");
        responses.message().await?.ok_or_else(ended)
    }

    /// Moves the checkpoint to where it is once a response was dealt with, and lets the next call
    /// begin there, wherever this one had begun.
    fn move_on(&mut self, response: &SubscribeResponse) {
        let checkpoint = &mut self.checkpoint;
        match &response.content {
            Some(Content::Started(started)) => {
                if started.after_position != checkpoint.position {
                    checkpoint.reach(started.after_position, "");
                }
                // After a restore that has all of what was seen, the log has another id.
                checkpoint.log_id.clone_from(&started.log_id);
            }
            Some(Content::Events(batch)) => {
                if let Some(last) = batch.events.last() {
                    checkpoint.reach(last.position, &last.id);
                }
            }
            Some(Content::CaughtUp(here)) => checkpoint.reach(here.position, &here.event_id),
            Some(Content::Heartbeat(here)) => checkpoint.reach(here.position, &here.event_id),
            // The log went on under another id, with all of what was seen.
            Some(Content::FellBehind(behind)) if !behind.log_id.is_empty() => {
                checkpoint.log_id.clone_from(&behind.log_id);
            }
            // `None` is content of a later version of the API.
            Some(Content::FellBehind(_)) | None => {}
        }
        start_at(&mut self.request, &self.checkpoint);
        if !matches!(response.content, Some(Content::Started(_))) {
            self.retry = Retry::default(); // It works again.
        }
    }
}
