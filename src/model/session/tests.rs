use super::super::LimitError;
use super::*;

/// A row is damaged if its messages are out of order, or beyond the last applied one.
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

/// For a session that is stored already, a lane writes only new messages and failures.
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

/// A session of the first format is decoded: all messages after the confirmed one, each in one lane, and failures up to
/// the end.
#[test]
fn a_session_of_the_first_format_is_read() {
    let refusal = LimitError::OutOfRange { value: 1, delta: 2 };
    let failure = FailedIncrement { index: 4, refusal };
    let row = |format, applied, acknowledged| {
        let mut row = vec![format];
        put_i64(&mut row, 60);
        put_u64(&mut row, applied);
        put_u64(&mut row, acknowledged);
        for contents in [40_u64, 50] {
            row.extend_from_slice(&contents.to_le_bytes());
        }
        put_u64(&mut row, 5);
        failure.put(&mut row);
        row
    };
    let message = |sequence| Message {
        sequence,
        contents: 10 * sequence,
        parts: 1,
    };
    let session = Session {
        used: 60,
        applied: 5,
        acknowledged: 3,
        messages: [message(4), message(5)].into(),
        failures: [(5, failure)].into(),
        ..Session::default()
    };
    assert_eq!(Session::decode(&row(1, 5, 3)), Ok(session));
    let ahead = Corrupt("a session has impossible message counts");
    assert_eq!(Session::decode(&row(1, 5, 6)), Err(ahead));
    let unknown = Corrupt("a session has an unknown format");
    for format in [0, FORMAT + 1] {
        assert_eq!(Session::decode(&row(format, 5, 3)), Err(unknown.clone()));
    }
}
