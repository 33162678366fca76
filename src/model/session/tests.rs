use super::super::LimitError;
use super::*;

/// A session's messages are in order, and none is beyond those that are applied: another row is damaged.
#[test]
fn messages_out_of_order_are_damage() {
    let message = |sequence| Message {
        sequence,
        contents: 7,
        parts: 1,
    };
    for (sequences, is_whole) in [(&[2, 3][..], true), (&[2, 2], false), (&[2, 4], false)] {
        let mut session = Session::default();
        session.advance(message(3), &[]);
        session.messages = sequences.iter().copied().map(message).collect();
        let decoded = Session::decode(&session.encode());
        assert_eq!(decoded.is_ok(), is_whole, "{sequences:?}");
    }
}

/// A lane writes of a session that it has written before only the messages and failures that are new.
#[test]
fn only_new_messages_and_failures_were_added_since() {
    let message = |sequence| Message {
        sequence,
        contents: 100 + sequence,
        parts: 1,
    };
    let failed = |sequence| {
        let refusal = LimitError::OutOfRange { value: 1, delta: 2 };
        (sequence, FailedIncrement { index: 0, refusal })
    };
    let mut session = Session::default();
    for sequence in 1..=2 {
        session.advance(message(sequence), &[failed(sequence)]);
    }
    let earlier = session.clone();
    session.advance(message(3), &[failed(3)]);
    let added = session.since(&earlier).expect("nothing else has changed");
    assert_eq!(added.messages, [message(3)]);
    assert_eq!(added.failures, [failed(3)]);
}
