//! The helper, against a store that does what the test says.

use std::time::Duration;

use prost::Message;
use prost_types::Any;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::{StreamExt, iter, pending};
use tonic::codegen::BoxStream;
use tonic::{Code, Status};
use treering_example::treering::{
    CallOptions, Checkpoint, append, connect, failure_of, follow, is_conflict, read, start_at,
};
use treering_example::v1::event_store_service_client::EventStoreServiceClient;
use treering_example::v1::failure::Detail;
use treering_example::v1::subscribe_request::{Source, Start};
use treering_example::v1::subscribe_response::Content;
use treering_example::v1::version_conflict::Expectation;
use treering_example::v1::{
    AppendRequest, AppendResponse, Event, EventBatch, Failure, FailureReason, FellBehind,
    Heartbeat, ReadRequest, ReadResponse, RecordedEvent, StreamAppend, SubscribeRequest,
    SubscribeResponse, SubscriptionStarted, VersionConflict,
};

use crate::scripted::{Script, Scripted};

/// On a clock that stands still it is over at once.
const FOREVER: Duration = Duration::from_secs(86_400);

const ID: &str = "018bcfe5-6800-7000-8000-000000000001";

fn failed(code: Code, failure: &Failure) -> Status {
    let detail = Any {
        type_url: "type.googleapis.com/treering.v1.Failure".to_owned(),
        value: failure.encode_to_vec(),
    };
    let state = tonic_types::Status { details: vec![detail], ..Default::default() };
    Status::with_details(code, "refused", state.encode_to_vec().into())
}

fn lost() -> Status {
    Status::unavailable("connection lost")
}

fn defect() -> Status {
    Status::internal("reference 17")
}

fn conflict() -> Status {
    let facts = VersionConflict {
        stream: "order-1".to_owned(),
        expectation: Some(Expectation::ExpectedVersion(0)),
        actual_version: i64::MAX.unsigned_abs(),
    };
    let failure = Failure {
        reason: FailureReason::VersionConflict.into(),
        detail: Some(Detail::VersionConflict(facts)),
        ..Default::default()
    };
    failed(Code::Aborted, &failure)
}

fn overloaded() -> Status {
    let failure = Failure {
        reason: FailureReason::Overloaded.into(),
        retry_after: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        ..Default::default()
    };
    failed(Code::ResourceExhausted, &failure)
}

fn diverged() -> Status {
    let reason = FailureReason::LogDiverged.into();
    failed(Code::FailedPrecondition, &Failure { reason, ..Default::default() })
}

fn recorded() -> AppendResponse {
    AppendResponse { last_position: 7, ..Default::default() }
}

fn request() -> AppendRequest {
    let event = Event { id: ID.to_owned(), r#type: "OrderPlaced".to_owned(), ..Default::default() };
    let append =
        StreamAppend { stream: "order-1".to_owned(), expectation: None, events: vec![event] };
    AppendRequest { appends: vec![append], ..Default::default() }
}

/// Appends to a store that answers so, within some seconds; gives what came of it, and how often
/// it was tried.
async fn appended(
    answers: impl IntoIterator<Item = Result<AppendResponse, Status>>,
    seconds: u64,
) -> (Result<AppendResponse, Status>, usize) {
    let server =
        Scripted::new(Script { appends: answers.into_iter().collect(), ..Default::default() });
    let store = EventStoreServiceClient::new(server.connection());
    let options = CallOptions::within(Duration::from_secs(seconds));
    let result = timeout(FOREVER, append(&store, request(), &options)).await.expect("no end");
    server.look(|script| {
        for each in &script.appended {
            assert_eq!(each.appends[0].events[0].id, ID);
        }
        (result, script.appended.len())
    })
}

#[tokio::test(start_paused = true)]
async fn the_failure_of_an_error_has_its_reason_and_facts() {
    let (result, _) = appended([Err(conflict())], 10).await;
    let status = result.unwrap_err();
    let failure = failure_of(&status).unwrap();
    assert!(is_conflict(&status));
    assert_eq!(failure.reason(), FailureReason::VersionConflict);
    let Some(Detail::VersionConflict(conflict)) = failure.detail else { panic!("{failure:?}") };
    assert_eq!(conflict.actual_version, (1 << 63) - 1);
    assert_eq!(conflict.expectation, Some(Expectation::ExpectedVersion(0)));
}

#[test]
fn no_failure_where_the_server_said_none() {
    let other =
        Any { type_url: "type.googleapis.com/google.rpc.ErrorInfo".to_owned(), value: vec![] };
    let state = tonic_types::Status { details: vec![other], ..Default::default() };
    let with_another = Status::with_details(Code::Aborted, "", state.encode_to_vec().into());
    let of_no_use = Status::with_details(Code::Aborted, "", b"\xff".as_slice().into());
    for status in [lost(), with_another, of_no_use] {
        assert_eq!(failure_of(&status), None);
        assert!(!is_conflict(&status));
    }
}

#[tokio::test(start_paused = true)]
async fn an_append_is_repeated_with_the_same_ids() {
    let begin = Instant::now();
    let answers = [Err(lost()), Err(overloaded()), Err(defect()), Ok(recorded())];
    let (result, count) = appended(answers, 10).await;
    assert_eq!(result.unwrap(), recorded());
    assert_eq!(count, 4);
    let took = begin.elapsed().as_millis();
    assert!((1_175..=1_360).contains(&took), "{took} ms: of 50, 1000 + 100, 200, or half of it");
}

#[tokio::test(start_paused = true)]
async fn delays_grow_to_three_seconds_at_most() {
    let begin = Instant::now();
    let answers = (0..40).map(|_| Err(lost())).chain([Ok(recorded())]);
    let (result, count) = appended(answers, 1_000).await;
    assert_eq!((result.unwrap(), count), (recorded(), 41));
    let took = begin.elapsed().as_secs();
    assert!((53..=107).contains(&took), "{took} s: 34 of 3 s and six less, or half of it");
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_not_repeated_and_a_defect_a_few_times_only() {
    let (result, count) = appended([Err(conflict())], 10).await;
    assert_eq!((result.unwrap_err().code(), count), (Code::Aborted, 1));
    let (result, count) = appended((0..4).map(|_| Err(defect())), 10).await;
    assert_eq!((result.unwrap_err().code(), count), (Code::Internal, 3));
    let refused = Err(Status::invalid_argument("by somebody else"));
    let (result, count) = appended([refused], 10).await;
    assert_eq!((result.unwrap_err().code(), count), (Code::InvalidArgument, 1));
}

#[tokio::test(start_paused = true)]
async fn repeats_end_with_the_time() {
    let begin = Instant::now();
    let (result, count) = appended((0..100).map(|_| Err(lost())), 4).await;
    assert_eq!(result.unwrap_err().code(), Code::Unavailable);
    assert!(count > 2 && begin.elapsed() < Duration::from_secs(4));
}

#[tokio::test(start_paused = true)]
async fn an_append_without_an_answer_ends_with_the_time() {
    let begin = Instant::now();
    let (result, count) = appended([], 4).await;
    assert_eq!((result.unwrap_err().code(), count), (Code::DeadlineExceeded, 1));
    assert_eq!(begin.elapsed().as_secs(), 4);
}

#[tokio::test]
async fn an_append_without_ids_is_not_begun() {
    let server = Scripted::default();
    let store = EventStoreServiceClient::new(server.connection());
    let event = Event { r#type: "OrderPlaced".to_owned(), ..Default::default() };
    let request = AppendRequest { events: vec![event], ..Default::default() };
    let options = CallOptions::within(Duration::from_secs(10));
    assert_eq!(append(&store, request, &options).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(server.look(|script| script.appended.len()), 0);
}

#[allow(clippy::unnecessary_wraps)] // As a script has it.
fn part(position: u64) -> Result<ReadResponse, Status> {
    let event = RecordedEvent { position, ..Default::default() };
    Ok(ReadResponse { events: vec![event], head_position: 9, ..Default::default() })
}

/// Reads from a store that answers so, within four seconds.
async fn was_read(
    answers: impl IntoIterator<Item = BoxStream<ReadResponse>>,
) -> Result<ReadResponse, Status> {
    let server =
        Scripted::new(Script { reads: answers.into_iter().collect(), ..Default::default() });
    let store = EventStoreServiceClient::new(server.connection());
    let options = CallOptions::within(Duration::from_secs(4));
    timeout(FOREVER, read(&store, ReadRequest::default(), &options)).await.expect("no end")
}

#[tokio::test(start_paused = true)]
async fn a_read_that_breaks_begins_anew() {
    let broken = [part(1), Err(lost())];
    let whole = [part(1), part(2), part(3)];
    let state = was_read([Box::pin(iter(broken)) as BoxStream<_>, Box::pin(iter(whole))]).await;
    let state = state.unwrap();
    let positions: Vec<_> = state.events.iter().map(|event| event.position).collect();
    assert_eq!((positions, state.head_position), (vec![1, 2, 3], 9));
}

/// tonic's own time-out is over once the answer has begun.
#[tokio::test(start_paused = true)]
async fn a_read_that_stops_halfway_ends_with_the_time() {
    let begin = Instant::now();
    let halfway = iter([part(1)]).chain(pending());
    let status = was_read([Box::pin(halfway) as BoxStream<_>]).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(begin.elapsed().as_secs(), 4);
}

/// tonic has no code of its own for it, and a defect would be repeated twice only.
#[tokio::test]
async fn an_append_over_a_connection_that_breaks_is_repeated_for_as_long_as_there_is_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let four_break = async {
        for _ in 0..4 {
            let (connection, _) = listener.accept().await.unwrap();
            // What is dropped with something unread is reset.
            connection.readable().await.unwrap();
        }
    };
    let store = EventStoreServiceClient::new(connect(&address).unwrap());
    let options = CallOptions::within(Duration::from_secs(60));
    tokio::select! {
        result = append(&store, request(), &options) => panic!("{result:?}"),
        () = four_break => {}
    }
}

/// tonic ends it by itself, but as CANCELLED.
#[tokio::test]
async fn a_call_to_a_server_that_says_nothing_ends_with_deadline_exceeded() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let store = EventStoreServiceClient::new(connect(&address).unwrap());
    let options = CallOptions::within(Duration::from_millis(200));
    let status = append(&store, request(), &options).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
}

#[allow(clippy::unnecessary_wraps)] // As a script has it.
fn content(content: Content) -> Result<SubscribeResponse, Status> {
    Ok(SubscribeResponse { content: Some(content) })
}

fn started(log_id: &str, after_position: u64) -> Result<SubscribeResponse, Status> {
    let log_id = log_id.to_owned();
    content(Content::Started(SubscriptionStarted { log_id, after_position, head_position: 9 }))
}

fn batch(positions: &[u64]) -> Result<SubscribeResponse, Status> {
    let events = positions.iter().map(|&position| RecordedEvent {
        position,
        id: format!("id{position}"),
        ..Default::default()
    });
    content(Content::Events(EventBatch { events: events.collect() }))
}

fn heartbeat(position: u64, event_id: &str) -> Result<SubscribeResponse, Status> {
    content(Content::Heartbeat(Heartbeat { position, event_id: event_id.to_owned() }))
}

fn new_log(position: u64, log_id: &str) -> Result<SubscribeResponse, Status> {
    content(Content::FellBehind(FellBehind { position, log_id: log_id.to_owned() }))
}

fn checkpoint(log_id: &str, position: u64, event_id: &str) -> Checkpoint {
    Checkpoint { log_id: log_id.to_owned(), position, event_id: event_id.to_owned() }
}

/// A store whose subscriptions say this, one after the other, and then nothing for ever.
fn subscribing(
    calls: impl IntoIterator<Item = Vec<Result<SubscribeResponse, Status>>>,
) -> Scripted {
    let says = |responses| Box::pin(iter(responses).chain(pending())) as BoxStream<_>;
    let subscribes = calls.into_iter().map(says).collect();
    Scripted::new(Script { subscribes, ..Default::default() })
}

/// Follows to the end; gives the positions that were handed out, the checkpoint after each
/// response, and why it ended.
async fn followed(
    server: &Scripted,
    request: SubscribeRequest,
) -> (Vec<u64>, Vec<Checkpoint>, Status) {
    let source = Some(Source::Stream("order-1".to_owned()));
    let store = EventStoreServiceClient::new(server.connection());
    let mut subscription = follow(&store, SubscribeRequest { source, ..request });
    let (mut seen, mut kept) = (Vec::new(), Vec::new());
    loop {
        match timeout(FOREVER, subscription.next()).await.expect("no end") {
            Ok((response, checkpoint)) => {
                if let Some(Content::Events(batch)) = response.content {
                    seen.extend(batch.events.iter().map(|event| event.position));
                }
                kept.push(checkpoint);
            }
            Err(status) => return (seen, kept, status),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_broken_subscription_goes_on_where_it_stopped() {
    let server = subscribing([
        vec![Err(lost())], // Before anything came.
        vec![started("A", 4), batch(&[5, 6]), Err(lost())],
        vec![started("A", 6), heartbeat(8, "x"), new_log(8, "B"), Err(lost())],
        vec![started("B", 8), new_log(8, ""), batch(&[9]), Err(diverged())],
    ]);
    let start = Some(Start::AfterTime(prost_types::Timestamp { seconds: 1, nanos: 0 }));
    let request = SubscribeRequest { start, ..Default::default() };
    let (seen, kept, status) = followed(&server, request).await;
    assert_eq!(failure_of(&status).unwrap().reason(), FailureReason::LogDiverged);
    assert_eq!(seen, [5, 6, 9]);
    let expected = [
        checkpoint("A", 4, ""),
        checkpoint("A", 6, "id6"),
        checkpoint("A", 6, "id6"),
        checkpoint("A", 8, "x"),
        checkpoint("B", 8, "x"),
        checkpoint("B", 8, "x"),
        checkpoint("B", 8, "x"),
        checkpoint("B", 9, "id9"),
    ];
    assert_eq!(kept, expected);
    server.look(|script| {
        assert_eq!(script.subscribed[1].start, start, "it was never accepted");
        let mut expected = script.subscribed[1].clone();
        start_at(&mut expected, &checkpoint("A", 6, "id6"));
        assert_eq!(script.subscribed[2], expected);
        start_at(&mut expected, &checkpoint("B", 8, "x"));
        assert_eq!(script.subscribed[3], expected);
    });
}

#[tokio::test(start_paused = true)]
async fn content_of_a_later_version_is_passed_on() {
    let unknown = Ok(SubscribeResponse { content: None });
    let server = subscribing([vec![started("A", 4), unknown, Err(diverged())]]);
    let (_, kept, _) = followed(&server, SubscribeRequest::default()).await;
    assert_eq!(kept, [checkpoint("A", 4, ""), checkpoint("A", 4, "")]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_subscription_is_begun_again() {
    let server = subscribing([vec![started("A", 0), batch(&[1])], vec![Err(diverged())]]);
    let begin = Instant::now();
    let (seen, _, status) = followed(&server, SubscribeRequest::default()).await;
    assert_eq!((seen, status.code()), (vec![1], Code::FailedPrecondition));
    assert_eq!(begin.elapsed().as_secs(), 30, "three heartbeats");
    assert_eq!(server.look(|script| script.subscribed.len()), 2);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_breaks_again_and_again_is_begun_more_slowly_until_it_works() {
    let useless = (0..40).map(|_| vec![started("A", 0), Err(lost())]);
    let server = subscribing(useless.chain([vec![Err(diverged())]]));
    let begin = Instant::now();
    followed(&server, SubscribeRequest::default()).await;
    let took = begin.elapsed().as_secs();
    assert!((53..=107).contains(&took), "{took} s: 34 of 3 s and six less, or half of it");

    let useful = (0..40).map(|_| vec![started("A", 0), heartbeat(1, "x"), Err(lost())]);
    let server = subscribing(useful.chain([vec![Err(diverged())]]));
    let begin = Instant::now();
    followed(&server, SubscribeRequest::default()).await;
    let took = begin.elapsed().as_millis();
    assert!((1_000..=2_100).contains(&took), "{took} ms: 40 of 50 ms, or half of it");
}

#[tokio::test(start_paused = true)]
async fn the_time_that_the_caller_takes_is_no_silence() {
    let late = [(5, started("A", 0)), (45, batch(&[1])), (45, batch(&[2]))];
    let responses = iter(late).then(|(seconds, response)| async move {
        sleep(Duration::from_secs(seconds)).await;
        response
    });
    let subscribes = [Box::pin(responses) as BoxStream<_>].into();
    let server = Scripted::new(Script { subscribes, ..Default::default() });
    let store = EventStoreServiceClient::new(server.connection());
    let mut subscription = follow(&store, SubscribeRequest::default());
    for _ in 0..3 {
        subscription.next().await.unwrap();
        sleep(Duration::from_secs(40)).await;
    }
    assert_eq!(server.look(|script| script.subscribed.len()), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_dropped_while_it_waits_loses_nothing_and_hides_no_silence() {
    let calls = [vec![started("A", 0), batch(&[1])]]
        .into_iter()
        .chain((0..5).map(|_| vec![Err(lost())]))
        .chain([vec![started("A", 1), batch(&[2]), Err(diverged())]]);
    let server = subscribing(calls);
    let store = EventStoreServiceClient::new(server.connection());
    let mut subscription = follow(&store, SubscribeRequest::default());
    let begin = Instant::now();
    let mut seen = Vec::new();
    while begin.elapsed() < Duration::from_secs(60) {
        match timeout(Duration::from_millis(20), subscription.next()).await {
            Ok(Ok((SubscribeResponse { content: Some(Content::Events(batch)) }, _))) => {
                seen.extend(batch.events.iter().map(|event| event.position));
            }
            Ok(Err(status)) => {
                assert_eq!(status.code(), Code::FailedPrecondition);
                break;
            }
            Ok(Ok(_)) | Err(_) => {} // Time for something else.
        }
    }
    assert_eq!(seen, [1, 2]);
    assert_eq!(server.look(|script| script.subscribed.len()), 7);
    let took = begin.elapsed().as_millis();
    assert!(
        (31_575..=33_400).contains(&took),
        "{took} ms: 30 s, then 50 ms to 1.6 s, or half of it"
    );
}
