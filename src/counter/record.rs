//! A stream of a bulk session: messages in, acknowledgements out.

use bytes::Bytes;
use http_body::Body;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::convert::Violations;
use super::error::{self, Kind, lane_error};
use super::service::CounterService;
use super::wire::RecordMessage;
use crate::grpc::{Messages, Replies};
use crate::lane::{self, Decided};
use crate::model::{
    Done, Increments, MAX_FAILURES, Millis, Operation, Record, Request, SESSION_WINDOW, SessionId,
};
use crate::proto::sum::v1::{IncrementFailure, RecordIncrementsResponse};
use crate::status;

/// Increments in one message.
pub(super) const MAX_INCREMENTS: usize = 1000;
/// Messages of a stream that wait in the lane: a window, and as many that are sent again.
const MAX_WAITING: usize = 512;

type Answer = lane::Result<Decided>;

/// The session that a stream belongs to.
struct Stream {
    service: CounterService,
    session: Option<(SessionId, Millis)>,
    answers: mpsc::UnboundedSender<Answer>,
    /// Requests to the lane that it has not answered.
    waiting: usize,
}

pub(super) async fn serve<B>(
    service: CounterService,
    mut messages: Messages<B>,
    replies: Replies,
    draining: CancellationToken,
) -> Result<(), Status>
where
    B: Body<Data = Bytes, Error = Status> + Unpin,
{
    let (answers, mut answered) = mpsc::unbounded_channel();
    let mut stream = Stream {
        service,
        session: None,
        answers,
        waiting: 0,
    };
    // How the stream ends, once what has come in before is answered.
    let mut end = None;
    while end.is_none() || stream.waiting > 0 {
        tokio::select! {
            biased;
            Some(answer) = answered.recv(), if stream.waiting > 0 => {
                stream.reply(answer, &mut answered, &replies).await?;
            }
            () = draining.cancelled(), if end.is_none() => end = Some(Err(shutting_down())),
            message = messages.next_encoded(), if end.is_none() && stream.waiting < MAX_WAITING => match message {
                Ok(Some(message)) => end = stream.take(&message).await.err().map(Err),
                Ok(None) => end = Some(Ok(())),
                Err(status) => end = Some(Err(status)),
            },
        }
    }
    end.unwrap_or(Ok(()))
}

impl Stream {
    /// Hands a message to the lane.
    async fn take(&mut self, message: &[u8]) -> Result<(), Status> {
        let message = RecordMessage::decode(message)?;
        self.check(&message)?;
        let RecordMessage {
            sequence,
            acknowledged,
            increments,
            ..
        } = message;
        if self.session.is_none() {
            self.session = Some(begin(&message.session_id, message.session_time.as_ref())?);
            // What is acknowledged so far comes first.
            self.enqueue(0, acknowledged, Increments::default()).await?;
            if sequence == 0 {
                return Ok(());
            }
        }
        self.enqueue(sequence, acknowledged, increments).await
    }

    fn check(&self, message: &RecordMessage) -> Result<(), Status> {
        let mut violations = Violations::default();
        let count = message.increments.len();
        let RecordMessage {
            sequence,
            acknowledged,
            session_id,
            ..
        } = message;
        if count > MAX_INCREMENTS {
            let problem = format!("it has more than {MAX_INCREMENTS} elements");
            violations.add("increments", problem);
        }
        if *sequence == 0 && count > 0 {
            violations.add("sequence", "it is 0, in a message with increments");
        }
        if *sequence > acknowledged.saturating_add(SESSION_WINDOW) {
            let problem = format!(
                "it is {sequence}, more than {SESSION_WINDOW} after acknowledged, which is {acknowledged}"
            );
            violations.add("sequence", problem);
        }
        if let Some((session, _)) = &self.session
            && !session_id.is_empty()
            && *session_id != **session
        {
            let problem = format!("this stream belongs to session {session:?}");
            violations.add("session_id", problem);
        }
        violations.check(())
    }

    async fn enqueue(
        &mut self,
        sequence: u64,
        acknowledged: u64,
        increments: Increments,
    ) -> Result<(), Status> {
        let (session, time) = self.session.clone().expect("the first message has set it");
        // A question may be answered with all that failed so far.
        let count = match sequence {
            0 => MAX_FAILURES + MAX_INCREMENTS,
            _ => increments.len(),
        };
        let record = Record {
            session,
            time,
            sequence,
            acknowledged,
            contents: self.service.digests.message(&increments),
            increments,
        };
        let request = Request {
            id: None,
            operation: Operation::Record(record),
        };
        let lane = &self.service.lane;
        let queued = lane.enqueue(request, count, self.answers.clone()).await;
        queued.map_err(|error| lane_error(error, Kind::Session))?;
        self.waiting += 1;
        Ok(())
    }

    /// Sends an answer of the lane, together with those that have come behind it.
    async fn reply(
        &mut self,
        first: Answer,
        answered: &mut mpsc::UnboundedReceiver<Answer>,
        replies: &Replies,
    ) -> Result<(), Status> {
        let mut reply = RecordIncrementsResponse {
            window: u32::try_from(SESSION_WINDOW).unwrap_or(u32::MAX),
            ..RecordIncrementsResponse::default()
        };
        let mut next = Some(first);
        let mut error = None;
        let mut any = false;
        while let Some(answer) = next {
            self.waiting -= 1;
            match answer {
                Ok(decided) => add(&mut reply, decided),
                Err(refused) => {
                    error = Some(lane_error(refused, Kind::Session));
                    break;
                }
            }
            any = true;
            // Clients take 4 MiB by default, and a failure is some 300 bytes.
            next = match reply.failures.len() {
                ..MAX_FAILURES => answered.try_recv().ok(),
                _ => None,
            };
        }
        if any {
            replies.send(&reply).await;
        }
        error.map_or(Ok(()), Err)
    }
}

fn add(reply: &mut RecordIncrementsResponse, decided: Decided) {
    let Done::Recorded {
        acknowledged,
        failures,
    } = decided.answer.done
    else {
        unreachable!("{:?} is no answer to a message", decided.answer.done);
    };
    reply.acknowledged = reply.acknowledged.max(acknowledged);
    if acknowledged > 0 {
        reply.revision = decided.revision;
    }
    let failures = failures.iter().map(|(sequence, failure)| IncrementFailure {
        sequence: *sequence,
        index: failure.index,
        error: Some(status::to_proto(&error::failure(failure, None, false))),
    });
    reply.failures.extend(failures);
}

/// The session that a stream's first message names.
fn begin(id: &str, time: Option<&prost_types::Timestamp>) -> Result<(SessionId, Millis), Status> {
    let mut violations = Violations::default();
    violations.id("session_id", id);
    let time = violations.time("session_time", id, time);
    if time.is_none() {
        violations.add("session_time", "it is missing, and session_id is no UUIDv7");
    }
    violations.check((id.into(), time.unwrap_or_default()))
}

fn shutting_down() -> Status {
    status::retriable(
        Code::Unavailable,
        "the server is shutting down; messages that are acknowledged are applied",
        "SHUTTING_DOWN",
        &[status::unknown()],
        std::time::Duration::from_millis(1),
    )
}
