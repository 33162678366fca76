//! The answers to the parts of bulk messages that other nodes have sent. A call has the parts for all lanes of a node,
//! and is answered once.

use std::sync::{Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use prost::Message;

use super::refusal;
use crate::api::record::response;
use crate::cluster::PeerRefusal;
use crate::counters::{Error, RecordReply};
use crate::proto::sum::v1::RecordIncrementsResponse;
use crate::proto::sumd::cluster::v1::record_part_answer::Result as Of;
use crate::proto::sumd::cluster::v1::{RecordPartAnswer, RecordPartsAnswer, Refusal};
use crate::status;

/// The answer to a part, for the node that has sent it.
type PartReply = Result<RecordIncrementsResponse, PeerRefusal>;

/// Collects the answers to the parts of a call.
pub(super) struct PartJoin<F>(Mutex<JoinedParts<F>>);

struct JoinedParts<F> {
    answers: Vec<Option<PartReply>>,
    left: usize,
    reply: Option<F>,
}

impl<F: FnOnce(Bytes)> PartJoin<F> {
    /// Waits for the answers to at least one part. Passes all of them to `reply`, encoded.
    pub(super) fn new(parts: usize, reply: F) -> Self {
        Self(Mutex::new(JoinedParts {
            answers: (0..parts).map(|_| None).collect(),
            left: parts,
            reply: Some(reply),
        }))
    }

    /// Adds the answer to a part.
    pub(super) fn put(&self, index: usize, answer: Result<RecordReply, Error>) {
        let answer = answer.map(response).map_err(refusal);
        // The state is consistent after each change, so poisoning is ignored.
        let mut joined = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        joined.answers[index] = Some(answer);
        joined.left -= 1;
        if joined.left == 0
            && let Some(reply) = joined.reply.take()
        {
            let answers = std::mem::take(&mut joined.answers);
            let answers = answers.into_iter().flatten().collect();
            reply(encode(answers));
        }
    }
}

fn encode(answers: Vec<PartReply>) -> Bytes {
    // They share one buffer: each alone would take two allocations.
    let lengths = answers.iter().flatten().map(Message::encoded_len);
    let mut buffer = BytesMut::with_capacity(lengths.sum());
    let answers = answers.into_iter().map(|answer| {
        let (result, refusal) = match answer {
            Ok(response) => {
                response.encode_raw(&mut buffer);
                (Of::Ok(buffer.split().freeze()), None)
            }
            Err(PeerRefusal { why, status }) => {
                let refusal = Refusal { why: Some(why) };
                (Of::Error(status::to_encoded(&status)), Some(refusal))
            }
        };
        RecordPartAnswer {
            result: Some(result),
            refusal,
        }
    });
    let answers = answers.collect();
    RecordPartsAnswer { answers }.encode_to_vec().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::RecordFailure;
    use crate::lane::LaneError;
    use crate::model::{FailedIncrement, LimitError, Rejection};
    use crate::proto::sumd::cluster::v1::{Plain, refusal::Why};

    /// Puts the answers to two parts, the second first, and decodes what is sent.
    fn answers(answers: [Result<RecordReply, Error>; 2]) -> Vec<RecordPartAnswer> {
        let told = Mutex::new(Vec::new());
        let join = PartJoin::new(2, |answers| told.lock().expect("whole").push(answers));
        let [first, second] = answers;
        join.put(1, second);
        assert!(told.lock().expect("whole").is_empty());
        join.put(0, first);
        let told = told.into_inner().expect("whole");
        let [answers] = &told[..] else {
            panic!("{} answers", told.len());
        };
        let answers = RecordPartsAnswer::decode(answers.clone());
        answers.expect("two answers").answers
    }

    /// A call is answered once, when all of its parts have an answer, in the order of the parts.
    #[test]
    fn parts_are_answered_together() {
        let errors = [
            LaneError::Overloaded,
            LaneError::Refused(Rejection::IdReused),
        ];
        let why = answers(errors.map(|error| Err(Error::of_session(error))))
            .into_iter()
            .map(|answer| {
                let refusal = answer.refusal.expect("a refusal");
                refusal.why.expect("a reason")
            });
        let expected = [Plain::Overloaded, Plain::IdReused];
        let expected = expected.map(|plain| Why::Plain(plain.into()));
        assert_eq!(why.collect::<Vec<_>>(), expected);
    }

    /// The answer to a part has everything that the client is to know of it, including the failures.
    #[test]
    fn an_answer_to_a_part_tells_what_failed() {
        let refusal = LimitError::OutOfRange { value: 1, delta: 2 };
        let failure = FailedIncrement { index: 3, refusal };
        let sequence = 7;
        let reply = RecordReply {
            acknowledged: sequence,
            revision: 40,
            failures: vec![RecordFailure::Here { sequence, failure }],
        };
        let answers = answers([Ok(reply), Ok(RecordReply::default())]);
        let Some(Of::Ok(told)) = &answers[0].result else {
            panic!("{answers:?} are no responses");
        };
        let told = RecordIncrementsResponse::decode(told.clone()).expect("a response");
        assert_eq!((told.acknowledged, told.revision), (7, 40));
        let failed: Vec<_> = told
            .failures
            .iter()
            .map(|failed| (failed.sequence, failed.index))
            .collect();
        assert_eq!(failed, [(7, 3)]);
    }
}
