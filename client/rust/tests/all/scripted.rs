//! A store that does what the test says, and keeps what it was asked: for what a real server can't
//! be made to do at a given moment. A client calls it without any network, so a test can have its
//! clock stand still, which goes on when nobody has anything to do.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::timeout;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming, async_trait};
use treering_example::v1::append_result::Outcome;
use treering_example::v1::event_store_service_server::{
    EventStoreService, EventStoreServiceServer,
};
use treering_example::v1::{
    AppendManyRequest, AppendManyResponse, AppendRequest, AppendResponse, AppendResult,
    GetHeadRequest, GetHeadResponse, ReadRequest, ReadResponse, SubscribeRequest,
    SubscribeResponse,
};

/// What is answered, one call after the other, and what was asked.
#[derive(Default)]
pub(crate) struct Script {
    pub(crate) appends: VecDeque<Result<AppendResponse, Status>>,
    pub(crate) reads: VecDeque<BoxStream<ReadResponse>>,
    pub(crate) subscribes: VecDeque<BoxStream<SubscribeResponse>>,
    /// Of each `append_many`, how many appends are answered before it ends so; none: all are.
    pub(crate) ends: VecDeque<(usize, Result<(), Status>)>,
    pub(crate) appended: Vec<AppendRequest>,
    pub(crate) subscribed: Vec<SubscribeRequest>,
    /// The most appends that were unanswered at a time.
    pub(crate) most_unanswered: usize,
}

#[derive(Clone, Default)]
pub(crate) struct Scripted(Arc<Mutex<Script>>);

impl Scripted {
    pub(crate) fn new(script: Script) -> Self {
        Self(Arc::new(Mutex::new(script)))
    }

    pub(crate) fn connection(&self) -> EventStoreServiceServer<Self> {
        EventStoreServiceServer::new(self.clone())
    }

    /// For a moment: it is locked meanwhile.
    pub(crate) fn look<A>(&self, at: impl FnOnce(&mut Script) -> A) -> A {
        at(&mut self.0.lock().unwrap())
    }
}

#[async_trait]
impl EventStoreService for Scripted {
    type AppendManyStream = BoxStream<AppendManyResponse>;
    type ReadStream = BoxStream<ReadResponse>;
    type SubscribeStream = BoxStream<SubscribeResponse>;

    /// Without an answer in the script it says nothing for ever.
    async fn append(
        &self,
        request: Request<AppendRequest>,
    ) -> Result<Response<AppendResponse>, Status> {
        let answer = self.look(|script| {
            script.appended.push(request.into_inner());
            script.appends.pop_front()
        });
        match answer {
            Some(answer) => answer.map(Response::new),
            None => std::future::pending().await,
        }
    }

    /// Answers only when nothing more is sent, and then one.
    async fn append_many(
        &self,
        request: Request<Streaming<AppendManyRequest>>,
    ) -> Result<Response<Self::AppendManyStream>, Status> {
        let mut messages = request.into_inner();
        let (sender, results) = tokio::sync::mpsc::channel(1);
        let this = self.clone();
        let (mut before_end, end) =
            self.look(|script| script.ends.pop_front()).unwrap_or((usize::MAX, Ok(())));
        tokio::spawn(async move {
            let mut unanswered = VecDeque::new();
            let mut has_ended = false;
            loop {
                while !has_ended {
                    match timeout(Duration::from_secs(1), messages.message()).await {
                        Ok(Ok(Some(message))) => unanswered.extend(message.items),
                        Ok(_) => has_ended = true,
                        Err(_) => break, // It waits for us.
                    }
                    this.look(|script| {
                        script.most_unanswered = script.most_unanswered.max(unanswered.len());
                    });
                }
                let Some(item) = unanswered.pop_front() else { return };
                if before_end == 0 {
                    if let Err(status) = end {
                        let _ = sender.send(Err(status)).await;
                    }
                    return;
                }
                before_end -= 1;
                this.look(|script| script.appended.extend(item.append));
                let outcome = Some(Outcome::Appended(AppendResponse::default()));
                let results = vec![AppendResult { request_id: item.request_id, outcome }];
                if sender.send(Ok(AppendManyResponse { results })).await.is_err() {
                    return;
                }
            }
        });
        let results = tokio_stream::wrappers::ReceiverStream::new(results);
        Ok(Response::new(Box::pin(results)))
    }

    async fn read(&self, _: Request<ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let responses = self.look(|script| script.reads.pop_front());
        Ok(Response::new(responses.expect("one call too many")))
    }

    async fn subscribe(
        &self,
        request: Request<SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let responses = self.look(|script| {
            script.subscribed.push(request.into_inner());
            script.subscribes.pop_front()
        });
        Ok(Response::new(responses.expect("one call too many")))
    }

    async fn get_head(
        &self,
        _: Request<GetHeadRequest>,
    ) -> Result<Response<GetHeadResponse>, Status> {
        unimplemented!()
    }
}
