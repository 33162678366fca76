//! One stream of a node's counters, with everything except gRPC's frames and HTTP/2.

use bytes::Bytes;
use prost::Message as _;
use sumd::api::{CounterApi, RecordReplies};
use sumd::model::Millis;
use sumd::proto::sum::v1::{Increment, RecordIncrementsRequest, RecordIncrementsResponse};
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::simulation::history::Add;
use crate::simulation::nodes::Node;

/// The client's end of a stream. Dropping it breaks the stream.
pub struct Stream {
    messages: UnboundedSender<Result<Bytes, Status>>,
    answers: RecordReplies,
}

impl Stream {
    pub fn open(node: &Node) -> Self {
        let (messages, received) = mpsc::unbounded_channel();
        let received = UnboundedReceiverStream::new(received);
        let counters = CounterApi(node.service.clone());
        Self {
            messages,
            answers: counters.record(received, CancellationToken::new()),
        }
    }

    pub fn send(&self, request: &RecordIncrementsRequest) {
        // If the stream has ended, the next answer says why.
        let _ = self.messages.send(Ok(request.encode_to_vec().into()));
    }

    /// The next answer, or the error of the stream.
    pub async fn next(&mut self) -> Result<RecordIncrementsResponse, Status> {
        let lost = || Err(Status::unavailable("nothing more comes"));
        self.answers.next().await.unwrap_or_else(lost)
    }
}

/// A message of a session that began at `began`.
pub fn request(
    session: &str,
    began: Millis,
    sequence: u64,
    acknowledged: u64,
    adds: &[Add],
) -> RecordIncrementsRequest {
    let increment = |add: &Add| Increment {
        counter: add.name.clone(),
        delta: add.delta,
        max: add.limits.max,
        ..Increment::default()
    };
    RecordIncrementsRequest {
        session_id: session.to_owned(),
        session_time: Some(prost_types::Timestamp {
            seconds: began.div_euclid(1000),
            nanos: i32::try_from(began.rem_euclid(1000) * 1_000_000).expect("below a second"),
        }),
        sequence,
        acknowledged,
        increments: adds.iter().map(increment).collect(),
    }
}
