//! Bounds and acknowledgements of a stream.

use super::*;
use crate::model::Limits;
use crate::proto::sum::v1::IncrementFailure;

/// A stream is not read while too many messages or calls are in flight, or a part is held.
#[test]
fn a_stream_is_read_while_there_is_room() {
    assert!(has_room(0, 0, 0));
    assert!(has_room(MAX_WAITING - 1, MAX_SENT - 1, 0));
    assert!(!has_room(MAX_WAITING, 0, 0));
    assert!(!has_room(0, MAX_SENT, 0));
    assert!(!has_room(0, 0, 1));
}

/// A reply acknowledges the last of its answers; a reply that acknowledges nothing has no revision.
#[test]
fn a_reply_has_the_revision_of_what_it_acknowledges() {
    let mut reply = RecordReply::default();
    reply.add(0, 40, Vec::new());
    assert_eq!((reply.acknowledged, reply.revision), (0, 0));
    for (acknowledged, revision) in [(1, 41), (3, 43), (2, 42)] {
        let failure = RecordFailure::Elsewhere(IncrementFailure::default());
        reply.add(acknowledged, revision, vec![failure]);
    }
    assert_eq!((reply.acknowledged, reply.revision), (3, 43));
    assert_eq!(reply.failures.len(), 3);
}

/// A message weighs as much as its increments; one without a sequence weighs as much as all possible failures.
#[test]
fn a_question_weighs_what_its_answer_may_tell() {
    let weight_of = |sequence, count| {
        let mut increments = Increments::default();
        for _ in 0..count {
            increments.push("a", 1, Limits::default());
        }
        let record = Record {
            session: "meter-7".into(),
            time: 0,
            sequence,
            acknowledged: 0,
            follows: Predecessor::TheOneBefore,
            contents: 0,
            increments,
        };
        weight(&Operation::Record(record))
    };
    assert_eq!(weight_of(1, 3), 3);
    assert_eq!(weight_of(0, 0), MAX_FAILURES + MAX_INCREMENTS);
}
