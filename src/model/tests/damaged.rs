//! Damaged rows.

use super::*;

/// The row of a damaged session.
pub(super) const ROW: &[u8] = b"no row";

/// Every message of a damaged session is refused for a horizon after the damage was found, and is then too old. Nothing
/// of it counts again.
#[test]
fn a_damaged_session_is_never_begun_again() {
    let mut lane = Lane::new(bounds());
    let one = [("g/0", 1)];
    lane.one(message(1, 0, &one, START)).expect("a new one");
    let other = |sequence| message_of("meter-8", sequence, sequence - 1, &one, START);
    lane.one(other(1)).expect("a new one");
    let row = lane.stored.sessions.get_mut("meter-7");
    *row.expect("it is stored") = ROW.to_vec();
    // It is not known how long ago it was used.
    lane.now += bounds().session_horizon - HORIZON;
    lane.restart();
    for sequence in 2..10 {
        for (sequence, acknowledged) in [(1, 0), (2, 0), (2, 1), (0, 0), (0, 1), (300, 0)] {
            let said = lane.one(message(sequence, acknowledged, &one, START));
            assert_eq!(said, Err(Rejection::SessionDamaged), "{sequence}");
        }
        // As if the session were new.
        let said = lane.one(message(1, 0, &one, lane.now));
        assert_eq!(said, Err(Rejection::SessionDamaged));
        lane.one(other(sequence)).expect("it goes on");
        lane.now += HORIZON;
    }
    assert_eq!(lane.stored.sessions["meter-7"], ROW, "as it was");
    lane.now += 3 * HORIZON;

    // A batch that forgets it is undone.
    let elapsed = lane.ticks() - lane.started;
    lane.state.begin(lane.now, elapsed);
    let commit = lane.state.commit().expect("it forgets");
    let forgotten = commit.changes.sessions.iter();
    let forgotten: Vec<_> = forgotten.map(|(id, _)| &**id).collect();
    assert_eq!(forgotten, ["meter-7"]);
    lane.state.undo(&commit);
    let said = lane.one(message(1, 0, &one, START));
    assert_eq!(said, Err(Rejection::SessionDamaged));

    lane.now += HORIZON;
    lane.one(other(10)).expect("it goes on");
    assert!(!lane.stored.sessions.contains_key("meter-7"));
    lane.set_clock(START - lane.now);
    let said = lane.one(message(1, 0, &one, START));
    assert!(matches!(said, Err(Rejection::TooOld { .. })), "{said:?}");
    assert_eq!(lane.value("g/0"), 1 + 10);
}

/// A session of which a lane has a damaged row is not resumed.
#[test]
fn a_damaged_row_is_no_answer() {
    let rows = [Session::default(), Session::damaged(START)];
    let resumed = Resumed::new(&rows, START, START, 0, DAY);
    assert_eq!(resumed.map(drop), Err(Rejection::SessionDamaged));
}

/// The rows of a lane that has ids and a session with failures, the session as stored and as merged for a move.
fn rows() -> (Vec<Vec<u8>>, Vec<Arc<[u8]>>) {
    let mut lane = Lane::new(bounds());
    for id in 0..5 {
        let name = format!("g/{id}");
        lane.one(named(&id.to_string(), Some(START), add(&name, id)))
            .expect("done");
    }
    lane.batch(vec![
        named("a", None, add("g/9", i64::MAX)),
        named("b", None, add("g/9", i64::MAX)),
        named("c", None, Operation::Set("g/9".into(), i64::MAX)),
        named("d", None, Operation::Delete("g/1".into())),
    ]);
    for sequence in 1..=6 {
        let deltas = [("g/9", i64::MAX), ("g/9", i64::MAX), ("g/0", 1)];
        lane.one(message(sequence, sequence / 2, &deltas, START))
            .expect("in order");
    }
    let sessions = lane.stored.sessions.values();
    let mut sessions: Vec<_> = sessions.cloned().collect();
    let session = Session::decode(&sessions[0]).expect("what was stored");
    let whole = Session::merge_shards(&[(0, session)], 4, START);
    sessions.push(whole.encode());
    let packs = lane.stored.packs.iter().map(|pack| pack.ids.clone());
    (sessions, packs.collect())
}

/// A change of a row's bytes.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Cut(usize),
    Flip(usize, u8),
    Insert(usize, u8),
    Remove(usize),
}

impl Damage {
    fn to(self, row: &mut Vec<u8>) {
        if row.is_empty() {
            return;
        }
        match self {
            Self::Cut(at) => row.truncate(at % row.len()),
            Self::Flip(at, bits) => {
                let at = at % row.len();
                row[at] ^= bits;
            }
            Self::Insert(at, byte) => row.insert(at % row.len(), byte),
            Self::Remove(at) => drop(row.remove(at % row.len())),
        }
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        any::<usize>().prop_map(Damage::Cut),
        (any::<usize>(), 1u8..).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        any::<usize>().prop_map(Damage::Remove),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    /// A damaged row is decoded without a panic. If the result is a session, it is encoded and decoded without a
    /// change.
    #[test]
    fn rows_that_were_damaged_are_an_error_at_worst(damages in prop::collection::vec(damage(), 1..4)) {
        let (sessions, packs) = rows();
        for mut row in sessions {
            prop_assert!(Session::decode(&row).is_ok());
            for damage in &damages {
                damage.to(&mut row);
            }
            if let Ok(session) = Session::decode(&row) {
                prop_assert_eq!(Session::decode(&session.encode()), Ok(session));
            }
        }
        for pack in packs {
            let mut row = pack.to_vec();
            prop_assert!(PackEntry::read_all(&row).is_ok());
            for damage in &damages {
                damage.to(&mut row);
            }
            let _ = PackEntry::read_all(&row);
        }
    }

    /// Any bytes behind one of the earlier formats are decoded without a panic.
    #[test]
    fn any_bytes_are_an_error_at_worst(format in 1u8..5, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let row = [&[format][..], &bytes].concat();
        let _ = PackEntry::read_all(&row);
        let _ = Session::decode(&row);
    }
}
