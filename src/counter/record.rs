//! A stream of a bulk session: messages in, acknowledgements out.

mod imported;
mod owner_pins;
pub mod reassembly;
mod remote;
mod sharded;

pub(super) use remote::{PartJoin, decode_parts};

use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::convert::{Violations, canonical};
use super::error::session_read_error;
use super::service::Counters;
use super::wire::RecordMessage;
use crate::codec::malformed;
use crate::lane::{self, Decided};
use crate::model::{
    Effect, Increments, MAX_FAILURES, Millis, Operation, Predecessor, Record, Request, Resumed,
    SESSION_WINDOW, SessionId,
};
use crate::proto::sum::v1::{IncrementFailure, RecordIncrementsResponse};
use crate::replies;
use crate::status::{Outcome, Reason};
use crate::store::{LaneNumber, Store};
use imported::ImportedParts;
use owner_pins::OwnerPins;
use reassembly::{CompletedMessage, SessionReassembler};

/// Increments in one message.
pub(super) const MAX_INCREMENTS: usize = 1000;
/// Messages of a stream that wait in the lane: a window, and as many that are sent again.
const MAX_WAITING: usize = 512;
/// Calls of a stream that other nodes have, before it is no longer read: of all streams together there is an end to what a
/// node takes of another.
const MAX_SENT: usize = 512;

type Answer = lane::Result<Decided>;
type Replies = replies::Replies<RecordIncrementsResponse>;

/// The session that a stream belongs to.
struct RecordStream {
    service: Counters,
    session: Option<(SessionId, Millis)>,
    /// If there are several lanes: the state of the session in these.
    resumed: Option<Resumed>,
    /// Where there are several lanes, what the session's messages have in each.
    parts: Option<SessionReassembler>,
    /// What was applied before the session was moved to these, where it was.
    moved: Option<ImportedParts>,
    answers: mpsc::UnboundedSender<Answer>,
    /// Requests to the lanes that they have not answered.
    waiting: usize,
    /// What other nodes carry out.
    sent: FuturesUnordered<remote::RemoteParts>,
    /// Where those are that are not answered.
    pins: OwnerPins,
    /// Parts, with their messages' numbers, that wait until those before them in their lanes are answered, which another node
    /// carries out.
    held: VecDeque<(LaneNumber, u64, Bytes)>,
    /// The last message that the client has said on this stream it knows acknowledged.
    told: u64,
}

pub(super) async fn serve<M>(
    service: Counters,
    mut messages: M,
    replies: Replies,
    draining: CancellationToken,
) -> Result<(), Status>
where
    M: Stream<Item = Result<Bytes, Status>> + Unpin,
{
    let (answers, mut answered) = mpsc::unbounded_channel();
    let mut stream = RecordStream {
        pins: OwnerPins::new(service.store().lanes()),
        service,
        session: None,
        resumed: None,
        parts: None,
        moved: None,
        answers,
        waiting: 0,
        sent: FuturesUnordered::new(),
        held: VecDeque::new(),
        told: 0,
    };
    // How the stream ends, once what has come in before is answered.
    let mut end = None;
    while end.is_none() || stream.waiting > 0 || !stream.sent.is_empty() {
        tokio::select! {
            biased;
            Some(answer) = answered.recv(), if stream.waiting > 0 => {
                stream.reply(answer, &mut answered, &replies).await?;
                stream.release().await?;
            }
            Some(answer) = stream.sent.next(), if !stream.sent.is_empty() => {
                stream.reply_of_parts(answer, &replies).await?;
                stream.release().await?;
            }
            () = draining.cancelled(), if end.is_none() => end = Some(Err(shutting_down())),
            message = messages.next(), if end.is_none() && stream.has_room() => match message {
                Some(Ok(message)) => end = stream.take(&message, &replies).await.err().map(Err),
                Some(Err(status)) => end = Some(Err(status)),
                None => end = Some(Ok(())),
            },
        }
    }
    end.unwrap_or(Ok(()))
}

impl RecordStream {
    fn has_room(&self) -> bool {
        let parts = self.parts.as_ref();
        let messages = parts.map_or(self.waiting, SessionReassembler::pending);
        has_room(messages, self.sent.len(), self.held.len())
    }

    /// Hands a message to the lanes.
    async fn take(&mut self, message: &[u8], replies: &Replies) -> Result<(), Status> {
        let encoded = message;
        let message = match self.service.forwarder {
            Some(_) => RecordMessage::decode_with_fields(encoded),
            None => RecordMessage::decode(encoded),
        };
        let message = message.map_err(malformed)?;
        self.check(&message)?;
        let RecordMessage {
            sequence,
            acknowledged,
            increments,
            fields,
            ..
        } = message;
        self.told = self.told.max(acknowledged);
        let is_first = self.session.is_none();
        if is_first {
            let id = &message.session_id;
            let (session, time) = begin(id, message.session_time.as_ref())?;
            let session = known_as(self.service.store(), id, session).await?;
            self.session = Some((session, time));
        }
        if self.service.store().capabilities().is_shared {
            if is_first || sequence == 0 {
                self.resume(acknowledged, replies).await?;
            }
            if sequence == 0 {
                return Ok(());
            }
            let fields = remote::RawIncrements {
                message: encoded,
                fields: &fields,
            };
            return self
                .split(sequence, acknowledged, increments, fields, replies)
                .await;
        }
        if is_first {
            // What is acknowledged so far comes first.
            self.ask(acknowledged).await?;
            if sequence == 0 {
                return Ok(());
            }
        }
        if sequence == 0 {
            return self.ask(acknowledged).await;
        }
        let record = self.record(
            sequence,
            acknowledged,
            Predecessor::TheOneBefore,
            increments,
        );
        self.enqueue(0, record).await
    }

    /// Asks the only lane what is acknowledged so far.
    async fn ask(&mut self, acknowledged: u64) -> Result<(), Status> {
        let none = Increments::default();
        let record = self.record(0, acknowledged, Predecessor::TheOneBefore, none);
        self.enqueue(0, record).await
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
            && canonical(session_id) != canonical(session)
        {
            let problem = format!("this stream belongs to session {session:?}");
            violations.add("session_id", problem);
        }
        violations.check(())
    }

    fn record(
        &self,
        sequence: u64,
        acknowledged: u64,
        follows: Predecessor,
        increments: Increments,
    ) -> Request {
        let (_, begun) = self.session.as_ref().expect("the first message has set it");
        self.record_since(*begun, (sequence, acknowledged), follows, increments)
    }

    fn record_since(
        &self,
        time: Millis,
        (sequence, acknowledged): (u64, u64),
        follows: Predecessor,
        increments: Increments,
    ) -> Request {
        let (session, _) = self.session.clone().expect("the first message has set it");
        let record = Record {
            session,
            time,
            sequence,
            acknowledged,
            follows,
            contents: self.service.hasher.message(&increments),
            increments,
        };
        Request {
            id: None,
            operation: Operation::Record(record),
        }
    }

    async fn enqueue(&mut self, lane: LaneNumber, request: Request) -> Result<(), Status> {
        let count = weight(&request.operation);
        let lanes = &self.service.lanes;
        let queued = lanes.enqueue(lane, request, count, self.answers.clone());
        let queued = queued.await;
        // Other parts of the message may be under way.
        queued.map_err(|error| self.error(error))?;
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
        let mut reply = reply();
        let mut next = Some(first);
        let mut error = None;
        let mut any = false;
        while let Some(answer) = next {
            self.waiting -= 1;
            match answer {
                Ok(decided) => any |= self.add(&mut reply, decided),
                Err(refused) => {
                    error = Some(self.error(refused));
                    break;
                }
            }
            // Clients take 4 MiB by default, and a failure is some 300 bytes.
            next = match reply.failures.len() {
                ..MAX_FAILURES => answered.try_recv().ok(),
                _ => None,
            };
        }
        if any {
            replies.send(reply).await;
        }
        error.map_or(Ok(()), Err)
    }

    /// Adds what a lane has answered to a reply; `false` where there is nothing to tell yet.
    fn add(&mut self, reply: &mut RecordIncrementsResponse, decided: Decided) -> bool {
        let Effect::Recorded {
            acknowledged,
            failures,
        } = decided.answer.done
        else {
            unreachable!("{:?} is no answer to a message", decided.answer.done);
        };
        let Some(parts) = &mut self.parts else {
            let failures = remote::failures(&failures);
            add(reply, acknowledged, decided.revision, failures);
            return true;
        };
        self.pins.unpin(decided.lane);
        let whole = parts.on_part_durable(
            decided.lane,
            acknowledged,
            decided.revision,
            remote::failures(&failures),
        );
        Self::add_whole(reply, whole)
    }

    /// Adds messages that are whole; `false` where there are none.
    fn add_whole(reply: &mut RecordIncrementsResponse, whole: Vec<CompletedMessage>) -> bool {
        let any = !whole.is_empty();
        for message in whole {
            add(reply, message.sequence, message.revision, message.failures);
        }
        any
    }
}

fn reply() -> RecordIncrementsResponse {
    RecordIncrementsResponse {
        window: u32::try_from(SESSION_WINDOW).unwrap_or(u32::MAX),
        ..RecordIncrementsResponse::default()
    }
}

fn add(
    reply: &mut RecordIncrementsResponse,
    acknowledged: u64,
    revision: i64,
    failures: Vec<IncrementFailure>,
) {
    reply.acknowledged = reply.acknowledged.max(acknowledged);
    // One that acknowledges nothing has no place in the order.
    if acknowledged > 0 {
        reply.revision = reply.revision.max(revision);
    }
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
    violations.check((canonical(id).into(), time.unwrap_or_default()))
}

/// The id that a session is stored under. Earlier versions kept it as it was sent, in any form of a UUIDv7.
async fn known_as(store: &dyn Store, sent: &str, session: SessionId) -> Result<SessionId, Status> {
    if *sent == *session {
        return Ok(session);
    }
    let sent = SessionId::from(sent);
    let rows = store.session(sent.clone()).await;
    let rows = rows.map_err(|error| session_read_error(&error))?;
    Ok(if rows.lanes.is_empty() { session } else { sent })
}

/// Whether a stream is read on, with so many messages pending, calls with other nodes, and parts held back.
fn has_room(messages: usize, sent: usize, held: usize) -> bool {
    messages < MAX_WAITING && sent < MAX_SENT && held == 0
}

/// The increments that an answer to a request may tell of, if all of them fail.
fn weight(operation: &Operation) -> usize {
    match operation {
        // A question may be answered with all that failed so far.
        Operation::Record(record) if record.sequence == 0 => MAX_FAILURES + MAX_INCREMENTS,
        operation => operation.weight(),
    }
}

fn shutting_down() -> Status {
    Reason::ShuttingDown
        .error("the server is shutting down; messages that are acknowledged are applied")
        .outcome(Outcome::Unknown)
        .retry_in(std::time::Duration::from_millis(1))
        .into()
}

#[cfg(test)]
mod tests;
