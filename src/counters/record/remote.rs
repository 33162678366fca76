//! Parts of a message on their way to another node and back. One call has all parts for a node.

#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;
use std::pin::Pin;

use bytes::{BufMut as _, Bytes};
use prost::{DecodeError, Message};

use super::super::error::Error;
use super::super::forward::RemoteOwner;
use super::super::refusal::Forwarded;
use super::super::service::Counters;
use super::super::wire::{MAX_INCREMENTS, RecordMessage};
use super::reassembly::lanes_of;
use super::reply::{RecordFailure, RecordReply};
use crate::cluster::{self, read_refusal};
use crate::lane::{self, Decided, LaneError};
use crate::model::{
    Increments, KeyedHasher, LowerBound, MAX_ID_BYTES, Millis, Operation, Part, Predecessor,
    Record, Rejection, Request, SessionId, check_text,
};
use crate::proto::sum::v1::{RecordIncrementsRequest, RecordIncrementsResponse};
use crate::proto::sumd::cluster::v1::record_part_answer::Result as Of;
use crate::proto::sumd::cluster::v1::{
    RecordPart, RecordPartAnswer, RecordParts, RecordPartsAnswer,
};
use crate::store::LaneNumber;

/// Parts that another node executes.
pub(super) type RemoteParts = Pin<Box<dyn Future<Output = RemoteAnswers> + Send>>;

/// The answers of the other node.
pub(super) struct RemoteAnswers {
    pub(super) lanes: Vec<LaneNumber>,
    pub(super) payload: Bytes,
    /// One for each lane.
    pub(super) answers: Vec<PartAnswer>,
}

/// The answer to a part.
pub(super) enum PartAnswer {
    /// The part is durable.
    Durable(RecordReply),
    /// The lane has refused the part.
    Refused(Rejection),
    /// The part was not executed, or its outcome is unknown. It is safe to execute it again: its session remembers it.
    Again,
}

/// A message as received, and the positions of its increments.
pub(super) struct RawIncrements<'a> {
    pub(super) message: &'a [u8],
    pub(super) fields: &'a [Range<usize>],
}

impl RawIncrements<'_> {
    /// Encodes a call with some parts of the message.
    pub(super) fn encode(
        &self,
        (session, bound): (&SessionId, LowerBound),
        (sequence, acknowledged): (u64, u64),
        parts: Vec<(LaneNumber, Part)>,
    ) -> Bytes {
        let head = RecordIncrementsRequest {
            session_id: session.to_string(),
            session_time: Some(prost_types::Timestamp {
                seconds: bound.time.div_euclid(1000),
                nanos: i32::try_from(bound.time.rem_euclid(1000) * 1_000_000).unwrap_or(0),
            }),
            sequence,
            acknowledged,
            increments: Vec::new(),
        };
        // The increments are copied as received, so that the other node reads the same as this one.
        let fields = parts.iter().map(|(_, part)| self.of(part).map(<[u8]>::len));
        let length = head.encoded_len() + fields.flatten().sum::<usize>();
        let mut message = Vec::with_capacity(length);
        head.encode_raw(&mut message);
        for (_, part) in &parts {
            self.of(part).for_each(|field| message.put_slice(field));
        }
        let of_all = parts.first().map(|(_, part)| (part.parts, part.whole));
        let (count, whole) = of_all.unwrap_or_default();
        let of_lane = |(lane, part): (LaneNumber, Part)| RecordPart {
            lane,
            previous: part.previous,
            indices: part.indices,
            ..RecordPart::default()
        };
        let parts = RecordParts {
            message: message.into(),
            count,
            parts: parts.into_iter().map(of_lane).collect(),
            above: Some(bound.above),
            whole,
        };
        parts.encode_to_vec().into()
    }

    /// The encoded increments of a part.
    fn of<'a>(&'a self, part: &'a Part) -> impl Iterator<Item = &'a [u8]> {
        let all = if part.indices.is_empty() {
            self.fields
        } else {
            &[]
        };
        let some = part.indices.iter();
        let fields = all
            .iter()
            .chain(some.map(|index| &self.fields[*index as usize]));
        fields.map(|field| &self.message[field.clone()])
    }
}

pub(super) fn send(
    elsewhere: RemoteOwner,
    sequence: u64,
    lanes: Vec<LaneNumber>,
    payload: Bytes,
) -> RemoteParts {
    Box::pin(async move {
        let kind = cluster::Kind::RecordParts;
        let forwarded = elsewhere.call(kind, payload.clone(), None, false).await;
        let answers = match forwarded {
            Forwarded::Answered(answer) => read_answers(answer, sequence, lanes.len()),
            Forwarded::Failed(_)
            | Forwarded::Refused(_)
            | Forwarded::NotSent
            | Forwarded::InDoubt => None,
        };
        let again = || lanes.iter().map(|_| PartAnswer::Again).collect();
        RemoteAnswers {
            answers: answers.unwrap_or_else(again),
            lanes,
            payload,
        }
    })
}

/// Decodes the answers to a number of parts; `None` if there are more or fewer, or they cannot be decoded.
pub(super) fn read_answers(answer: Bytes, sequence: u64, parts: usize) -> Option<Vec<PartAnswer>> {
    let answers = RecordPartsAnswer::decode(answer).ok()?.answers;
    let read = |answer| read_answer(answer, sequence).unwrap_or(PartAnswer::Again);
    (answers.len() == parts).then(|| answers.into_iter().map(read).collect())
}

fn read_answer(answer: RecordPartAnswer, sequence: u64) -> Option<PartAnswer> {
    let why = match answer.result {
        Some(Of::Ok(response)) => {
            let response = RecordIncrementsResponse::decode(response).ok()?;
            let failures = response.failures.into_iter();
            let reply = RecordReply {
                acknowledged: response.acknowledged,
                revision: response.revision,
                failures: failures.map(RecordFailure::Elsewhere).collect(),
            };
            return (reply.acknowledged == sequence).then_some(PartAnswer::Durable(reply));
        }
        Some(Of::Error(status)) => read_refusal(status, answer.refusal),
        None => return None,
    };
    match why.into() {
        Forwarded::Refused(LaneError::Refused(refused)) => Some(PartAnswer::Refused(refused)),
        // After an overload of the other node, too: the part then waits here until there is capacity.
        _ => None,
    }
}

/// A call of another node that cannot be read.
#[derive(Debug)]
pub(crate) struct MalformedParts(String);

impl fmt::Display for MalformedParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<DecodeError> for MalformedParts {
    fn from(error: DecodeError) -> Self {
        malformed(&error)
    }
}

fn malformed(problem: &dyn fmt::Display) -> MalformedParts {
    MalformedParts(problem.to_string())
}

fn too_many() -> MalformedParts {
    malformed(&format_args!(
        "its parts have more than {MAX_INCREMENTS} increments"
    ))
}

/// Decodes and validates the parts in a call of another node, each with its lane.
pub(super) fn decode_parts(
    payload: Bytes,
    hasher: KeyedHasher,
    lanes: u32,
) -> Result<Vec<(LaneNumber, Request)>, MalformedParts> {
    let RecordParts {
        message,
        count,
        parts,
        above,
        whole,
    } = RecordParts::decode(payload).map_err(|error| malformed(&error))?;
    if let Some(part) = parts.iter().find(|part| part.lane >= lanes) {
        return Err(malformed(&format_args!("there is no lane {}", part.lane)));
    }
    let (message, increments) = match &parts[..] {
        // One part may be the whole message, without indices.
        [_] => {
            let mut message = RecordMessage::decode(&message)?;
            let increments = std::mem::take(&mut message.increments);
            if increments.len() > MAX_INCREMENTS {
                return Err(too_many());
            }
            (message, vec![increments])
        }
        parts => {
            let sizes: Vec<_> = parts.iter().map(|part| part.indices.len()).collect();
            if sizes.iter().sum::<usize>() > MAX_INCREMENTS {
                return Err(too_many());
            }
            RecordMessage::decode_parts(&message, &sizes)?
                .ok_or_else(|| malformed(&"its parts do not match its increments"))?
        }
    };
    let time = message.session_time.unwrap_or_default();
    let seconds = time.seconds.checked_mul(1000);
    let time = seconds.and_then(|millis| millis.checked_add(i64::from(time.nanos / 1_000_000)));
    let time: Millis = time.ok_or_else(|| malformed(&"its session_time is out of range"))?;
    if check_text(&message.session_id, MAX_ID_BYTES).is_err() {
        return Err(malformed(&"its session_id is invalid"));
    }
    let session = SessionId::from(message.session_id);
    let home = hasher.lane(&session, lanes);
    for (part, increments) in parts.iter().zip(&increments) {
        if !lanes_of(increments, hasher, lanes, home).all(|lane| lane == part.lane) {
            return Err(malformed(&"a part has increments of another lane"));
        }
    }
    let request = |(part, increments): (RecordPart, Increments)| {
        let record = Record {
            session: session.clone(),
            time,
            sequence: message.sequence,
            acknowledged: message.acknowledged,
            follows: Predecessor::InLane(Part {
                previous: part.previous,
                whole,
                parts: count,
                above,
                indices: part.indices,
            }),
            contents: hasher.message(&increments),
            increments,
        };
        let request = Request {
            id: None,
            operation: Operation::Record(record),
        };
        (part.lane, request)
    };
    Ok(parts.into_iter().zip(increments).map(request).collect())
}

impl Counters {
    /// Decodes and validates the parts in a call of another node.
    ///
    /// # Errors
    /// Returns an error if the call is not one that a node makes.
    pub(crate) fn read_parts(
        &self,
        payload: Bytes,
    ) -> Result<Vec<(LaneNumber, Request)>, MalformedParts> {
        decode_parts(payload, self.hasher, self.store().lanes())
    }

    /// Queues the parts of a call of another node, once there is capacity for all of them. The parts of a lane stay in
    /// order if the caller waits for this before the next call. `done` gets the answer to each part with its index, on
    /// this handle's runtime.
    pub(crate) async fn execute_parts(
        &self,
        parts: Vec<(LaneNumber, Request)>,
        done: impl FnOnce(usize, Result<RecordReply, Error>) + Clone + Send + 'static,
    ) {
        let done = move |index, decided: lane::Result<Decided>| {
            let answer = decided.map(RecordReply::of);
            done(index, answer.map_err(Error::of_session));
        };
        self.lanes.enqueue_all(parts, done).await;
    }
}
