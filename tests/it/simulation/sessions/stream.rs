//! One stream of a node's service, with everything except HTTP/2.

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use prost::Message as _;
use sumd::counter::Method;
use sumd::grpc::{ResponseBody, put_message};
use sumd::model::Millis;
use sumd::proto::sum::v1::{Increment, RecordIncrementsRequest, RecordIncrementsResponse};
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::simulation::history::Add;
use crate::simulation::nodes::Node;

/// Bytes before each message: the compression flag and the length.
const PREFIX_BYTES: usize = 5;

/// The client's end of a stream. Dropping it breaks the stream.
pub struct Stream {
    messages: UnboundedSender<Result<Frame<Bytes>, Status>>,
    answers: ResponseBody,
}

impl Stream {
    pub async fn open(node: &Node) -> Self {
        let (messages, body) = mpsc::unbounded_channel();
        let body = StreamBody::new(UnboundedReceiverStream::new(body));
        let draining = CancellationToken::new();
        let answer = node.service.call(Method::Record, body, None, &draining);
        Self {
            messages,
            answers: answer.await.into_body(),
        }
    }

    pub fn send(&self, request: &RecordIncrementsRequest) {
        let mut framed = BytesMut::new();
        put_message(request, &mut framed);
        // If the stream has ended, the next answer has the reason.
        let _ = self.messages.send(Ok(Frame::data(framed.freeze())));
    }

    /// The next answer, or the status that has ended the stream.
    pub async fn next(&mut self) -> Result<RecordIncrementsResponse, Status> {
        let lost = || Status::unavailable("nothing more comes");
        let frame = self.answers.frame().await.ok_or_else(lost)??;
        match frame.into_data() {
            Ok(data) => {
                let answer = RecordIncrementsResponse::decode(&data[PREFIX_BYTES..]);
                Ok(answer.expect("an answer"))
            }
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                Err(Status::from_header_map(&trailers).expect("a status"))
            }
        }
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
