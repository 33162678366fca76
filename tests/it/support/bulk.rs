//! `RecordIncrements`, as its clients use it.

use sumd::proto::sum::v1::counter_service_client::CounterServiceClient;
use sumd::proto::sum::v1::{RecordIncrementsRequest, RecordIncrementsResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::soon;

/// A stream of a session.
pub struct Stream {
    pub requests: Option<mpsc::Sender<RecordIncrementsRequest>>,
    pub answers: Streaming<RecordIncrementsResponse>,
    /// The revision in the last answer.
    pub revision: i64,
}

impl Stream {
    pub async fn open(client: &mut CounterServiceClient<Channel>) -> Self {
        let (requests, receiver) = mpsc::channel(1024);
        let answers = soon(client.record_increments(ReceiverStream::new(receiver))).await;
        Self {
            requests: Some(requests),
            answers: answers.expect("a stream").into_inner(),
            revision: 0,
        }
    }

    pub async fn send(&self, request: RecordIncrementsRequest) {
        let requests = self.requests.as_ref().expect("it is open");
        soon(requests.send(request)).await.expect("it is read");
    }

    /// Reads until a message is acknowledged, and returns all failures up to then.
    pub async fn acknowledged(&mut self, sequence: u64) -> Result<Vec<(u64, u32, i32)>, Status> {
        let mut failures = Vec::new();
        loop {
            let answer = soon(self.answers.message()).await?.expect("an answer");
            assert_eq!(answer.window, 256);
            // A read at that revision sees all acknowledged messages.
            assert_eq!(answer.revision > 0, answer.acknowledged > 0, "{answer:?}");
            self.revision = answer.revision;
            failures.extend(answer.failures.into_iter().map(|failure| {
                let error = failure.error.expect("an error");
                (failure.sequence, failure.index, error.code)
            }));
            if answer.acknowledged >= sequence {
                return Ok(failures);
            }
        }
    }

    pub async fn end(&mut self) -> Result<(), Status> {
        self.requests = None;
        while soon(self.answers.message()).await?.is_some() {}
        Ok(())
    }

    /// The error with which the server ends the stream, after any answers.
    pub async fn end_by_server(&mut self) -> Status {
        loop {
            match soon(self.answers.message()).await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended well"),
                Err(status) => return status,
            }
        }
    }
}
