use std::collections::BTreeMap;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Accounts, Error};
use crate::treering::{Retry, Transport};
use crate::v1::append_result::Outcome;
use crate::v1::event_store_service_client::EventStoreServiceClient;
use crate::v1::{AppendItem, AppendManyRequest, AppendRequest, Failure};

/// A message costs more than an append in it, so several go in one, if there is room for them.
const MOST_IN_A_MESSAGE: usize = 100;

impl<T: Transport> Accounts<T> {
    /// Pays in many amounts, pipelined: at most `in_flight` appends wait for their answers at any
    /// time. Gives what was refused, by index. It goes on for as long as the store may come back,
    /// until it is dropped.
    ///
    /// # Errors
    ///
    /// If the call fails for good.
    pub async fn deposit_all(
        &self,
        id: &str,
        amounts: &[i64],
        in_flight: usize,
    ) -> Result<BTreeMap<usize, Failure>, Error> {
        let requests: Vec<_> = amounts.iter().map(|&cents| self.depositing(id, cents)).collect();
        let mut pipeline = Pipeline { answered: 0, refused: BTreeMap::new() };
        let mut retry = Retry::default();
        loop {
            let before = pipeline.answered;
            let status = match pipeline.run(self.store.clone(), &requests, in_flight).await {
                Ok(()) => return Ok(pipeline.refused),
                Err(Error::Store(status)) => status,
                Err(error) => return Err(error),
            };
            if pipeline.answered > before {
                retry = Retry::default(); // It has got on.
            }
            // A broken call is gone on with from the first one without an answer. What of it was
            // recorded all the same is found by its ids.
            match retry.delay_after(&status) {
                Some(delay) => sleep(delay).await,
                None => return Err(status.into()),
            }
        }
    }
}

/// How far it has come.
struct Pipeline {
    answered: usize,
    refused: BTreeMap<usize, Failure>,
}

impl Pipeline {
    /// Appends, on one call, what is not answered yet.
    async fn run<T: Transport>(
        &mut self,
        store: EventStoreServiceClient<T>,
        requests: &[AppendRequest],
        in_flight: usize,
    ) -> Result<(), Error> {
        let slots = Semaphore::new(in_flight);
        let (sender, messages) = mpsc::channel(1);
        // Both at once: the server answers while we send, and may wait until we take it.
        let sending = send(requests, self.answered, &slots, sender);
        let receiving = self.receive(store, messages, requests.len(), &slots);
        tokio::try_join!(sending, receiving)?;
        Ok(())
    }

    async fn receive<T: Transport>(
        &mut self,
        mut store: EventStoreServiceClient<T>,
        messages: mpsc::Receiver<AppendManyRequest>,
        count: usize,
        slots: &Semaphore,
    ) -> Result<(), Error> {
        let call = store.append_many(ReceiverStream::new(messages));
        let mut responses = call.await?.into_inner();
        while let Some(response) = responses.message().await? {
            for result in response.results {
                let expected = self.answered as u64;
                if result.request_id != expected {
                    return Err(Error::OutOfOrder(result.request_id, expected));
                }
                if let Some(Outcome::Failure(failure)) = result.outcome {
                    self.refused.insert(self.answered, failure);
                }
                self.answered += 1;
                slots.add_permits(1);
            }
        }
        if self.answered < count {
            return Err(Status::unavailable("the call was ended early").into());
        }
        Ok(())
    }
}

/// Sends all from `first` on, as slots are free.
async fn send(
    requests: &[AppendRequest],
    first: usize,
    slots: &Semaphore,
    messages: mpsc::Sender<AppendManyRequest>,
) -> Result<(), Error> {
    let mut next = first;
    while next < requests.len() {
        slots.acquire().await.expect("it is never closed").forget();
        let room = (requests.len() - next).min(MOST_IN_A_MESSAGE) - 1;
        let end = next + 1 + slots.forget_permits(room);
        let items = (next..end).map(|index| AppendItem {
            request_id: index as u64,
            append: Some(requests[index].clone()),
        });
        if messages.send(AppendManyRequest { items: items.collect() }).await.is_err() {
            break; // The call is over; why, the receiving half says.
        }
        next = end;
    }
    Ok(())
}
