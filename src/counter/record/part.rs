//! A part of a message, on its way to another node and back.

use std::ops::Range;
use std::pin::Pin;

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use tonic::Status;

use super::super::error::{self, Kind, lane_error};
use super::super::peers::{Elsewhere, malformed};
use super::super::wire::RecordMessage;
use super::reply;
use crate::cluster;
use crate::lane::{self, Decided};
use crate::model::{
    Digests, Done, Failure, Follows, Millis, Operation, Part, Record, Request, SessionId,
};
use crate::proto::sum::v1::{IncrementFailure, RecordIncrementsRequest, RecordIncrementsResponse};
use crate::proto::sumd::cluster::v1::RecordPart;
use crate::status;
use crate::store::LaneNumber;

/// A part that another node carries out.
pub(super) type Sent = Pin<Box<dyn Future<Output = Answered> + Send>>;
/// A lane's part, and what came of it there; nothing where it is to be carried out here.
pub(super) type Answered = (
    LaneNumber,
    Bytes,
    Option<Result<RecordIncrementsResponse, Status>>,
);

/// A message as it came, and where its increments are in it.
pub(super) struct Fields<'a> {
    pub(super) message: &'a [u8],
    pub(super) fields: &'a [Range<usize>],
}

impl Fields<'_> {
    /// A part of the message.
    pub(super) fn encode(
        &self,
        (session, time): (&SessionId, Millis),
        (sequence, acknowledged): (u64, u64),
        lane: LaneNumber,
        part: &Part,
    ) -> Bytes {
        let head = RecordIncrementsRequest {
            session_id: session.to_string(),
            session_time: Some(prost_types::Timestamp {
                seconds: time.div_euclid(1000),
                nanos: i32::try_from(time.rem_euclid(1000) * 1_000_000).unwrap_or(0),
            }),
            sequence,
            acknowledged,
            increments: Vec::new(),
        };
        // The increments are copied as they came, so that the other node reads what this one would have.
        let mut message = BytesMut::from(&head.encode_to_vec()[..]);
        if part.indices.is_empty() {
            for field in self.fields {
                message.put_slice(&self.message[field.clone()]);
            }
        }
        for index in &part.indices {
            message.put_slice(&self.message[self.fields[*index as usize].clone()]);
        }
        let part = RecordPart {
            message: message.freeze(),
            lane,
            previous: part.previous,
            parts: part.parts,
            indices: part.indices.to_vec(),
        };
        part.encode_to_vec().into()
    }
}

pub(super) fn send(elsewhere: Elsewhere, lane: LaneNumber, payload: Bytes) -> Sent {
    Box::pin(async move {
        let kind = cluster::Kind::RecordPart;
        let answer = elsewhere.call(kind, payload.clone(), None).await;
        let answer = answer.and_then(|answer| match answer {
            Ok(answer) => {
                Some(RecordIncrementsResponse::decode(answer).map_err(|error| malformed(&error)))
            }
            // Here it waits until there is room.
            Err(status) if status.code() == tonic::Code::Unavailable => None,
            Err(status) => Some(Err(status)),
        });
        (lane, payload, answer)
    })
}

/// A part as another node has sent it, and the lane that it is for.
pub(crate) fn decode_part(
    payload: Bytes,
    digests: Digests,
) -> Result<(LaneNumber, Request), Status> {
    let part = RecordPart::decode(payload).map_err(|error| malformed(&error))?;
    let message = RecordMessage::decode(&part.message)?;
    let time = message.session_time.unwrap_or_default();
    let record = Record {
        session: message.session_id.into(),
        time: time.seconds * 1000 + i64::from(time.nanos / 1_000_000),
        sequence: message.sequence,
        acknowledged: message.acknowledged,
        follows: Follows::InLane(Part {
            previous: part.previous,
            parts: part.parts,
            indices: part.indices.into(),
        }),
        contents: digests.message(&message.increments),
        increments: message.increments,
    };
    let request = Request {
        id: None,
        operation: Operation::Record(record),
    };
    Ok((part.lane, request))
}

/// What a part is answered, for the node that has sent it.
pub(crate) fn part_answer(
    decided: lane::Result<Decided>,
) -> Result<RecordIncrementsResponse, Status> {
    let decided = decided.map_err(|error| lane_error(error, Kind::Session))?;
    let Done::Recorded {
        acknowledged,
        failures: failed,
    } = decided.answer.done
    else {
        unreachable!("{:?} is no answer to a message", decided.answer.done);
    };
    Ok(RecordIncrementsResponse {
        acknowledged,
        revision: decided.revision,
        failures: failures(&failed),
        ..reply()
    })
}

/// Increments that were not made, in gRPC's terms.
pub(super) fn failures(failures: &[(u64, Failure)]) -> Vec<IncrementFailure> {
    let failure = |(sequence, failure): &(u64, Failure)| IncrementFailure {
        sequence: *sequence,
        index: failure.index,
        error: Some(status::to_proto(&error::failure(failure, None, false))),
    };
    failures.iter().map(failure).collect()
}

#[cfg(test)]
mod tests {
    use super::super::parts::Parts;
    use super::*;
    use crate::proto::sum::v1::Increment;

    fn increment(counter: &str, delta: i64, (min, max): (Option<i64>, Option<i64>)) -> Increment {
        Increment {
            counter: counter.to_owned(),
            delta,
            min,
            max,
            on_limit: 0,
        }
    }

    /// Wherever a part is carried out, and however often it is sent again by another way, it is the same: also where an
    /// increment is one that fails whatever happens.
    #[test]
    fn a_part_is_known_by_the_same_contents_here_and_elsewhere() {
        let digests = Digests::new([7; 16]);
        let message = RecordIncrementsRequest {
            session_id: "session".to_owned(),
            sequence: 1,
            increments: vec![
                increment("a/1", 1, (None, None)),
                increment("b/1", -2, (Some(-5), None)),
                increment("b/2", 3, (Some(1), Some(0))),
                increment("/", 4, (None, None)),
                increment("c/1", 5, (None, Some(6))),
                increment("a/1", i64::MIN, (None, None)),
            ],
            ..RecordIncrementsRequest::default()
        };
        let encoded = message.encode_to_vec();
        let decoded = RecordMessage::decode_with_fields(&encoded).expect("a message");
        let session: SessionId = "session".into();
        let mut parts = Parts::new(digests, 256, &session, 0);
        let fields = Fields {
            message: &encoded,
            fields: &decoded.fields,
        };
        let all = parts.split(1, 0, decoded.increments);
        assert!(all.len() > 2, "{} lanes", all.len());
        for (lane, part, increments) in all {
            let sent = fields.encode((&session, 0), (1, 0), lane, &part);
            let (_, request) = decode_part(sent, digests).expect("a part");
            let Operation::Record(record) = request.operation else {
                panic!("{:?} is no part", request.operation);
            };
            assert_eq!(record.contents, digests.message(&increments), "{part:?}");
            assert_eq!(record.follows, Follows::InLane(part));
        }
    }
}
