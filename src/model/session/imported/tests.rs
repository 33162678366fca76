//! Sessions of a move, gathered from lanes and spread over others.

use super::*;

fn message(sequence: u64, parts: u32) -> Message {
    Message {
        sequence,
        contents: sequence * 10,
        parts,
    }
}

/// A session that is merged, split over the same lanes and merged again is the same. Partially applied messages are
/// back in their lanes.
#[test]
fn a_session_that_is_gathered_and_spread_is_the_same() {
    let hasher = KeyedHasher::new([3; 16]);
    let id: SessionId = "meter-7".into();
    let failure = FailedIncrement {
        index: 3,
        refusal: crate::model::LimitError::OutOfRange { value: 1, delta: 2 },
    };
    let mut one = Session::default();
    one.advance(message(3, 1), &[(3, failure)]);
    one.advance(message(4, 2), &[]);
    one.advance(message(6, 2), &[(6, failure)]);
    one.used = 60;
    one.acknowledge(2);
    let mut other = Session::default();
    other.advance(message(4, 2), &[]);
    other.used = 55;
    let home = hasher.lane(&id, 256);
    for lanes in [
        [(home, one.clone()), (9, other.clone())],
        [(9, one), (home, other)],
    ] {
        let whole = Session::merge_shards(&lanes, 256, 100);
        assert_eq!((whole.applied, whole.acknowledged, whole.used), (4, 2, 60));
        assert_eq!(whole.partially_applied(), Some(256));
        assert_eq!(Session::decode(&whole.encode()), Ok(whole.clone()));
        assert_eq!(whole.moved_message(3, 30), Some(vec![(3, failure)]));
        assert_eq!(whole.moved_message(3, 31), None, "other contents");
        assert_eq!(whole.moved_message(4, 77), Some(vec![]), "unknown contents");
        assert_eq!(whole.moved_message(5, 50), None);

        let rows_of_lanes = whole.split_by_lane(&id, hasher, 256, 200);
        for (_, row) in &rows_of_lanes {
            assert_eq!(Session::decode(&row.encode()).as_ref(), Ok(row));
            assert_eq!(row.acknowledged, 2, "each lane knows what the client knows");
        }
        let again = Session::merge_shards(&rows_of_lanes, 256, 300);
        assert_eq!(again.fingerprint(), whole.fingerprint());
        let rows: Vec<_> = rows_of_lanes.iter().map(|(_, row)| row.clone()).collect();
        assert_eq!(Session::merge(&rows), (4, vec![(3, failure)]));
        let at = rows_of_lanes.iter().filter_map(|(_, row)| row.moved_at());
        assert_eq!(
            at.collect::<Vec<_>>(),
            [200],
            "the session's own lane tells"
        );
    }
}

/// The fingerprint leaves out times, since each store has its own clock and ages.
#[test]
fn the_essence_of_a_session_is_all_but_its_times() {
    let mut session = Session::default();
    session.advance(message(1, 1), &[]);
    let mut later = session.clone();
    later.use_at(1000, 7);
    later.keep_bound(Some(super::super::LowerBound { above: 0, time: 99 }));
    assert_eq!(later.fingerprint(), session.fingerprint());
    let mut further = session.clone();
    further.advance(message(2, 1), &[]);
    assert_ne!(further.fingerprint(), session.fingerprint());
}

/// Parts of messages that are applied as a whole are dropped, and their memory is freed.
#[test]
fn parts_are_forgotten_with_their_messages() {
    let failure = FailedIncrement {
        index: 3,
        refusal: crate::model::LimitError::OutOfRange { value: 1, delta: 2 },
    };
    let part = |sequence, failures| ImportedPart {
        message: message(sequence, 2),
        lane: 0,
        failures: vec![failure; failures],
    };
    let mut moved = ImportedSession {
        parts: vec![part(1, 0), part(2, 3), part(3, 1)],
        ..ImportedSession::default()
    };
    let empty = size_of::<ImportedSession>();
    assert_eq!(moved.bytes(), empty + 3 * PART_BYTES + 4 * FAILURE_BYTES);
    moved.drop_parts(2);
    let left: Vec<_> = moved
        .parts
        .iter()
        .map(|part| part.message.sequence)
        .collect();
    assert_eq!(left, [3]);
    assert_eq!(moved.bytes(), empty + PART_BYTES + FAILURE_BYTES);
}

/// Nothing is kept of confirmed messages, whichever lane got the confirmation.
#[test]
fn what_is_acknowledged_in_one_lane_is_so_in_all() {
    let refusal = crate::model::LimitError::OutOfRange { value: 1, delta: 2 };
    let failure = FailedIncrement { index: 0, refusal };
    let mut one = Session::default();
    for sequence in 3..=4 {
        one.advance(message(sequence, 1), &[(sequence, failure)]);
    }
    let mut told = Session::default();
    told.acknowledge(3);
    let whole = Session::merge_shards(&[(0, one), (1, told)], 4, 100);
    assert_eq!((whole.applied, whole.acknowledged), (4, 3));
    assert_eq!(whole.messages, [message(4, 1)]);
    assert_eq!(whole.failures, [(4, failure)]);
}

/// A session without partially applied messages is as old after a move as before, and has a row in its home lane
/// only.
#[test]
fn a_move_is_no_use_of_a_session() {
    let hasher = KeyedHasher::new([3; 16]);
    let id: SessionId = "meter-7".into();
    let mut session = Session::default();
    session.advance(message(1, 1), &[]);
    session.used = 60;
    let whole = Session::merge_shards(&[(2, session)], 4, 100);
    let rows = whole.split_by_lane(&id, hasher, 256, 200);
    let used: Vec<_> = rows.iter().map(|(lane, row)| (*lane, row.used())).collect();
    assert_eq!(used, [(hasher.lane(&id, 256), 60)]);
}

/// The fingerprint has the partially applied messages with their lanes, but not the number of lanes or the time.
#[test]
fn the_fingerprint_of_a_session_has_what_is_torn() {
    let torn = |sequence, lane, lanes, time| {
        let mut row = Session::default();
        row.advance(message(sequence, 2), &[]);
        Session::merge_shards(&[(lane, row)], lanes, time).fingerprint()
    };
    let one = torn(6, 9, 256, 100);
    assert_eq!(torn(6, 9, 128, 200), one);
    assert_ne!(torn(6, 8, 256, 100), one);
    assert_ne!(torn(7, 9, 256, 100), one);
    assert_ne!(Session::default().fingerprint(), one);
}
