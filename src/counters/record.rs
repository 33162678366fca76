//! A stream of a bulk session: messages in, acknowledgements out.

#[cfg(any(test, fuzzing))]
pub(super) mod fuzzing;
mod imported;
mod owner_pins;
pub mod reassembly;
mod remote;
mod reply;
mod sharded;

pub use reply::{RecordFailure, RecordReply};

use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::convert::{Violations, canonical};
use super::error::Error;
use super::service::Counters;
use super::wire::{MAX_INCREMENTS, RecordMessage};
use crate::lane::{self, Decided};
use crate::model::{
    Increments, MAX_FAILURES, Millis, Operation, Predecessor, Record, Request, Resumed,
    SESSION_WINDOW, SessionId,
};
use crate::replies::{self, ReplyStream};
use crate::store::{LaneNumber, Store};
use imported::ImportedParts;
use owner_pins::OwnerPins;
use reassembly::{CompletedMessage, SessionReassembler};

/// Maximum number of a stream's messages in flight: a window, and as many that were resent.
const MAX_WAITING: usize = 512;
/// Maximum number of a stream's calls in flight to other nodes. The node that receives them bounds those of all streams
/// together.
const MAX_SENT: usize = 512;

type Answer = lane::Result<Decided>;
type Replies = replies::Replies<RecordReply>;

/// The state of a stream and its session.
struct RecordStream {
    service: Counters,
    session: Option<(SessionId, Millis)>,
    /// The state of the session in all lanes, if the store is shared.
    resumed: Option<Resumed>,
    /// The parts of the session's messages in each lane, if the store is shared.
    parts: Option<SessionReassembler>,
    /// The messages applied before the session was moved to this store, if it was and the store is shared.
    moved: Option<ImportedParts>,
    answers: mpsc::UnboundedSender<Answer>,
    /// Number of requests that the lanes have not answered.
    waiting: usize,
    /// The parts that other nodes execute.
    sent: FuturesUnordered<remote::RemoteParts>,
    /// The nodes that have the unanswered parts of each lane.
    pins: OwnerPins,
    /// Held parts, with their messages' numbers. They wait until the node that has earlier parts of their lane has
    /// answered those.
    held: VecDeque<(LaneNumber, u64, Bytes)>,
    /// The last message that the client has confirmed on this stream.
    told: u64,
}

impl Counters {
    /// Serves a stream of a bulk session. Once `draining` is cancelled, it accepts no more messages, and ends when
    /// those that it has are answered. An error of `messages` ends the stream in the same way.
    pub fn record<M, E>(
        &self,
        messages: M,
        draining: CancellationToken,
    ) -> ReplyStream<RecordReply, E>
    where
        M: Stream<Item = Result<Bytes, E>> + Send + Unpin + 'static,
        E: From<Error> + Send + 'static,
    {
        let counters = self.clone();
        replies::spawn(|replies| serve(counters, messages, replies, draining))
    }
}

async fn serve<M, E>(
    service: Counters,
    mut messages: M,
    replies: Replies,
    draining: CancellationToken,
) -> Result<(), E>
where
    M: Stream<Item = Result<Bytes, E>> + Unpin,
    E: From<Error>,
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
    // The result of the stream, returned once all messages that came before are answered.
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
            () = draining.cancelled(), if end.is_none() => end = Some(Err(Error::Draining.into())),
            message = messages.next(), if end.is_none() && stream.has_room() => match message {
                Some(Ok(message)) => {
                    let refused = stream.take(&message, &replies).await.err();
                    end = refused.map(|error| Err(error.into()));
                }
                Some(Err(error)) => end = Some(Err(error)),
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

    /// Validates a message, and enqueues it in the lanes.
    async fn take(&mut self, message: &[u8], replies: &Replies) -> Result<(), Error> {
        let encoded = message;
        let message = match self.service.forwarder {
            Some(_) => RecordMessage::decode_with_fields(encoded),
            None => RecordMessage::decode(encoded),
        };
        let message = message.map_err(Error::Malformed)?;
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
            // The first answer says what is acknowledged so far.
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
    async fn ask(&mut self, acknowledged: u64) -> Result<(), Error> {
        let none = Increments::default();
        let record = self.record(0, acknowledged, Predecessor::TheOneBefore, none);
        self.enqueue(0, record).await
    }

    fn check(&self, message: &RecordMessage) -> Result<(), Error> {
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
            violations.add("sequence", "it is 0 in a message with increments");
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

    async fn enqueue(&mut self, lane: LaneNumber, request: Request) -> Result<(), Error> {
        let count = weight(&request.operation);
        let lanes = &self.service.lanes;
        let queued = lanes.enqueue(lane, request, count, self.answers.clone());
        let queued = queued.await;
        // Other parts of the message may be in flight.
        queued.map_err(|error| self.error(error))?;
        self.waiting += 1;
        Ok(())
    }

    /// Sends an answer of a lane, together with those that have arrived after it.
    async fn reply(
        &mut self,
        first: Answer,
        answered: &mut mpsc::UnboundedReceiver<Answer>,
        replies: &Replies,
    ) -> Result<(), Error> {
        let mut reply = RecordReply::default();
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
            // Clients accept messages of 4 MiB by default, and a failure takes some 300 bytes.
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

    /// Adds the answer of a lane to a reply. Returns `false` if there is nothing to send yet.
    fn add(&mut self, reply: &mut RecordReply, decided: Decided) -> bool {
        let lane = decided.lane;
        let RecordReply {
            acknowledged,
            revision,
            failures,
        } = RecordReply::of(decided);
        let Some(parts) = &mut self.parts else {
            reply.add(acknowledged, revision, failures);
            return true;
        };
        self.pins.unpin(lane);
        let whole = parts.on_part_durable(lane, acknowledged, revision, failures);
        Self::add_whole(reply, whole)
    }

    /// Adds completed messages to a reply. Returns `false` if there are none.
    fn add_whole(reply: &mut RecordReply, whole: Vec<CompletedMessage>) -> bool {
        let any = !whole.is_empty();
        for message in whole {
            reply.add(message.sequence, message.revision, message.failures);
        }
        any
    }
}

/// The session that a stream's first message names, and its time.
fn begin(id: &str, time: Option<&prost_types::Timestamp>) -> Result<(SessionId, Millis), Error> {
    let mut violations = Violations::default();
    violations.id("session_id", id);
    let time = violations.time("session_time", id, time);
    if time.is_none() {
        violations.add(
            "session_time",
            "it is missing, and session_id is not a UUIDv7",
        );
    }
    violations.check((canonical(id).into(), time.unwrap_or_default()))
}

/// The id under which a session is stored. Earlier versions stored it as it was sent, in any form of a UUIDv7.
async fn known_as(store: &dyn Store, sent: &str, session: SessionId) -> Result<SessionId, Error> {
    if *sent == *session {
        return Ok(session);
    }
    let sent = SessionId::from(sent);
    let rows = store.session(sent.clone()).await;
    let rows = rows.map_err(Error::of_session_read)?;
    Ok(if rows.lanes.is_empty() { session } else { sent })
}

/// Whether the next message is read, with this number of pending messages, calls in flight to other nodes, and held
/// parts.
fn has_room(messages: usize, sent: usize, held: usize) -> bool {
    messages < MAX_WAITING && sent < MAX_SENT && held == 0
}

/// Maximum number of failures in the answer to a request.
fn weight(operation: &Operation) -> usize {
    match operation {
        // The answer to a message without a sequence may have all failures so far.
        Operation::Record(record) if record.sequence == 0 => MAX_FAILURES + MAX_INCREMENTS,
        operation => operation.weight(),
    }
}

#[cfg(test)]
mod tests;
