//! The service, against the server at `TREERING_SERVER`.

use std::collections::BTreeMap;
use std::env;
use std::ops::ControlFlow;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::task::{JoinSet, block_in_place};
use tokio::time::{Instant, sleep, timeout};
use tonic::metadata::MetadataMap;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};
use treering_example::example::{Accounts, Balances, Error, follow_balances};
use treering_example::treering::{CallOptions, append, connect, read};
use treering_example::v1::event_store_service_client::EventStoreServiceClient;
use treering_example::v1::read_request::{Source, Until};
use treering_example::v1::{
    AppendRequest, Event, FailureReason, Query, QueryItem, ReadRequest, RecordedEvent,
};
use uuid::Uuid;

use crate::scripted::{Script, Scripted};

/// Connects to the server under test. Each test does, since a connection lives in its runtime.
fn connected() -> Channel {
    connect(&env::var("TREERING_SERVER").expect("TREERING_SERVER names no server")).unwrap()
}

fn unused() -> String {
    Uuid::now_v7().to_string()
}

/// Opens an account with some money in it.
async fn opened(accounts: &Accounts<Channel>, cents: i64) -> String {
    let id = unused();
    accounts.open(&id, "Anna").await.unwrap();
    if cents > 0 {
        accounts.deposit(&id, cents).await.unwrap();
    }
    id
}

#[tokio::test]
async fn an_account_is_opened_once() {
    let accounts = Accounts::new(connected());
    let id = opened(&accounts, 0).await;
    let error = accounts.open(&id, "Bert").await.unwrap_err();
    assert_eq!(error.to_string(), format!("{id} exists already, at version 1"));
}

#[tokio::test]
async fn what_is_refused_says_why() {
    let accounts = Accounts::new(connected());
    let error = accounts.open(&"x".repeat(300), "Anna").await.unwrap_err().to_string();
    assert!(error.starts_with("appends[0].stream: ") && error.ends_with(" (limit 255)"), "{error}");
    let error = accounts.deposit(&unused(), 1).await.unwrap_err();
    assert!(matches!(error, Error::NoAccount(_)), "{error}");
}

#[tokio::test]
async fn withdrawals_at_once_never_take_more_than_there_is() {
    let accounts = Accounts::new(connected());
    let id = opened(&accounts, 500).await;
    let mut withdrawals = JoinSet::new();
    for _ in 0..8 {
        let (accounts, id) = (accounts.clone(), id.clone());
        withdrawals.spawn(async move { accounts.withdraw(&id, 100).await });
    }
    let mut refused = 0;
    for result in withdrawals.join_all().await {
        match result {
            Ok(()) => {}
            Err(Error::InsufficientFunds) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((refused, accounts.balance(&id).await.unwrap()), (3, 0));
}

#[tokio::test]
async fn a_name_is_given_once_however_many_claim_it() {
    let accounts = Accounts::new(connected());
    let name = format!("Zoë {}", unused());
    let mut claims = JoinSet::new();
    for _ in 0..6 {
        let (accounts, id, name) = (accounts.clone(), opened(&accounts, 0).await, name.clone());
        claims.spawn(async move { accounts.claim_name(&id, &name).await });
    }
    let mut given = 0;
    for result in claims.join_all().await {
        match result {
            Ok(()) => given += 1,
            Err(Error::NameTaken(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(given, 1);
    let error = accounts.claim_name(&unused(), &format!("{name}?")).await.unwrap_err();
    assert!(matches!(error, Error::NoAccount(_)), "{error}");
}

#[tokio::test]
async fn a_transfer_moves_all_or_nothing() {
    let accounts = Accounts::new(connected());
    let (from, to) = (opened(&accounts, 1_000).await, opened(&accounts, 0).await);
    accounts.transfer(&from, &to, 300).await.unwrap();
    let error = accounts.transfer(&from, &to, 701).await.unwrap_err();
    assert!(matches!(error, Error::InsufficientFunds), "{error}");
    let error = accounts.transfer(&from, &unused(), 1).await.unwrap_err();
    assert!(matches!(error, Error::NoAccount(_)), "{error}");
    assert_eq!(accounts.balance(&from).await.unwrap(), 700);
    assert_eq!(accounts.balance(&to).await.unwrap(), 300);
    let latest = accounts.latest(2, &[&from, &to]).await.unwrap();
    assert_eq!(latest[0].position, latest[1].position + 1);
    assert_eq!(latest[0].recorded_at, latest[1].recorded_at);
}

#[tokio::test]
async fn ten_thousand_events_are_pipelined() {
    let accounts = Accounts::new(connected());
    let id = opened(&accounts, 0).await;
    let amounts: Vec<i64> = (0..10_000).collect();
    let begin = Instant::now();
    let refused = accounts.deposit_all(&id, &amounts, 500).await.unwrap();
    println!("10000 appends in {:?}", begin.elapsed());
    assert_eq!(refused, BTreeMap::new());
    assert_eq!(accounts.balance(&id).await.unwrap(), amounts.iter().sum::<i64>());
}

#[tokio::test(start_paused = true)]
async fn a_pipeline_has_no_more_unanswered_than_it_may() {
    for most in [1, 7, 500] {
        let server = Scripted::default();
        let accounts = Accounts::new(server.connection());
        accounts.deposit_all("1", &[1; 1_200], most).await.unwrap();
        assert_eq!(server.look(|script| script.most_unanswered), most);
        assert_eq!(server.look(|script| script.appended.len()), 1_200);
    }
}

#[tokio::test(start_paused = true)]
async fn a_broken_pipeline_goes_on_with_the_first_without_an_answer() {
    let lost = || Err(Status::unavailable("connection lost"));
    let ends = [(0, lost()), (3, Ok(())), (0, lost()), (0, lost()), (0, Ok(())), (250, lost())];
    let server = Scripted::new(Script { ends: ends.into(), ..Default::default() });
    let accounts = Accounts::new(server.connection());
    let done = timeout(Duration::from_secs(3_600), accounts.deposit_all("1", &[1; 300], 50)).await;
    done.expect("no end").unwrap();
    let appended = server.look(|script| std::mem::take(&mut script.appended));
    let mut ids: Vec<_> = appended.iter().map(|each| &each.appends[0].events[0].id).collect();
    assert_eq!(ids.len(), 300);
    assert!(ids.is_sorted(), "in order");
    ids.dedup();
    assert_eq!(ids.len(), 300, "each once");
}

#[tokio::test]
async fn refused_appends_of_a_pipeline_are_told() {
    let accounts = Accounts::new(connected());
    let refused = accounts.deposit_all(&unused(), &[1, 2], 10).await.unwrap();
    let found: Vec<_> =
        refused.into_iter().map(|(index, failure)| (index, failure.reason())).collect();
    let conflict = FailureReason::VersionConflict;
    assert_eq!(found, [(0, conflict), (1, conflict)]);
}

#[tokio::test]
async fn reads_backwards_with_a_query() {
    let accounts = Accounts::new(connected());
    let (anna, bert) = (opened(&accounts, 100).await, opened(&accounts, 200).await);
    let other = opened(&accounts, 300).await;
    accounts.withdraw(&anna, 1).await.unwrap();
    accounts.withdraw(&other, 1).await.unwrap();
    let show = |event: RecordedEvent| {
        format!("{} {} {}", event.stream, event.r#type, String::from_utf8(event.data).unwrap())
    };
    let latest = accounts.latest(2, &[&anna, &bert]).await.unwrap();
    let found: Vec<_> = latest.into_iter().map(show).collect();
    let expected = [
        format!(r#"account-{anna} MoneyWithdrawn {{"amount":1}}"#),
        format!(r#"account-{bert} MoneyDeposited {{"amount":200}}"#),
    ];
    assert_eq!(found, expected);
}

#[tokio::test]
async fn reads_as_of_a_time() {
    let accounts = Accounts::new(connected());
    let id = opened(&accounts, 100).await;
    let deposited = accounts.latest(1, &[&id]).await.unwrap().swap_remove(0);
    let then: SystemTime = deposited.recorded_at.unwrap().try_into().unwrap();
    sleep(Duration::from_millis(1)).await; // The next one is recorded later than this one.
    accounts.withdraw(&id, 40).await.unwrap();
    let before = then - Duration::from_micros(1);
    let after = SystemTime::now() + Duration::from_secs(3_600);
    for (time, cents) in [(then, 100), (before, 0), (after, 60)] {
        assert_eq!(accounts.balance_at(&id, time).await.unwrap(), cents);
    }
}

#[tokio::test]
async fn calls_have_a_deadline_and_a_trace() {
    let sent = Arc::new(Mutex::new(MetadataMap::new()));
    let kept = Arc::clone(&sent);
    let watch = move |request: Request<()>| -> Result<Request<()>, Status> {
        *kept.lock().unwrap() = request.metadata().clone();
        Ok(request)
    };
    let accounts = Accounts::new(InterceptedService::new(connected(), watch));
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let traced = accounts.traced(traceparent.parse().unwrap());
    let id = unused();
    traced.open(&id, "Anna").await.unwrap();
    traced.deposit(&id, 1).await.unwrap();
    let metadata = sent.lock().unwrap().clone();
    assert_eq!(metadata.get("traceparent").unwrap(), traceparent);
    let time = metadata.get("grpc-timeout").unwrap().to_str().unwrap();
    let microseconds: u64 = time.strip_suffix('u').unwrap().parse().unwrap();
    assert!((9_000_000..=10_000_000).contains(&microseconds), "{time}");
    let latest = accounts.latest(1, &[&id]).await.unwrap();
    assert_eq!(latest[0].metadata["traceparent"], traceparent);
}

#[tokio::test]
async fn the_same_append_again_is_found_by_its_ids() {
    let store = EventStoreServiceClient::new(connected());
    let event = Event { id: unused(), r#type: "Happened".to_owned(), ..Default::default() };
    let request = AppendRequest { events: vec![event], ..Default::default() };
    let options = CallOptions::within(Duration::from_secs(10));
    let first = append(&store, request.clone(), &options).await.unwrap();
    let again = append(&store, request, &options).await.unwrap();
    assert_eq!((first.duplicate, again.duplicate), (false, true));
    assert_eq!(first.last_position, again.last_position);
}

/// The read model is stopped and started, and the server restarted, while money moves.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_resumes_without_loss_or_repetition() {
    let Ok(restart) = env::var("TREERING_RESTART") else {
        println!("skipped: TREERING_RESTART names no command that restarts the server");
        return;
    };
    let connection = connected();
    let accounts = Accounts::new(connection.clone());
    let store = EventStoreServiceClient::new(connection);
    let id = opened(&accounts, 1).await;
    let path = &env::temp_dir().join(format!("balances-{id}"));

    follow_balances(&store, path, |_| ControlFlow::Break(())).await.unwrap(); // Up to now.
    let stored = Balances::load(path).unwrap();
    assert_eq!(stored.cents[&id], 1);
    assert!(stored.checkpoint.position > 0 && !stored.checkpoint.log_id.is_empty());

    accounts.deposit(&id, 2).await.unwrap(); // Nobody follows.
    let write = async {
        for cents in 0..60 {
            accounts.deposit(&id, cents * 1_000).await.unwrap();
            sleep(Duration::from_millis(20)).await;
        }
    };
    let interrupt = async {
        sleep(Duration::from_millis(300)).await; // Some of them are there.
        let restarted = block_in_place(|| Command::new("sh").args(["-c", &restart]).status());
        assert!(restarted.unwrap().success());
    };
    let work = async {
        tokio::join!(write, interrupt);
        let moved = accounts.latest(1_000, &[&id]).await.unwrap();
        assert_eq!(moved.len(), 62);
        while Balances::load(path).unwrap().checkpoint.position < moved[0].position {
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        ended = follow_balances(&store, path, |_| ControlFlow::Continue(())) => panic!("{ended:?}"),
        () = work => {}
        () = sleep(Duration::from_secs(60)) => panic!("it has not caught up"),
    }

    let stored = Balances::load(path).unwrap();
    let expected = 3 + (0..60).sum::<i64>() * 1_000;
    assert_eq!(accounts.balance(&id).await.unwrap(), expected);
    assert_eq!(stored.cents[&id], expected);
    let all = QueryItem { categories: vec!["account".to_owned()], ..Default::default() };
    let request = ReadRequest {
        source: Some(Source::Query(Query { items: vec![all], ..Default::default() })),
        until: Some(Until::UntilPosition(stored.checkpoint.position)),
        ..Default::default()
    };
    let options = CallOptions::within(Duration::from_secs(10));
    let count = read(&store, request, &options).await.unwrap().events.len();
    println!("{count} events, each once, over a restart of the server");
    assert_eq!(stored.events, count as u64);
    std::fs::remove_file(path).unwrap();
}
