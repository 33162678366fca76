//! Damaged rows.

use super::*;

/// The rows of a lane that has ids and a session with failures, whole and as it is after a move.
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
    let whole = Session::gather(&[(0, session)], 4, START);
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

    /// Reading a stored row ends without a panic, however its bytes were damaged; and what is read as a session is
    /// one that is stored, and read again, as it is.
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

    /// The same of any bytes behind a format that is known.
    #[test]
    fn any_bytes_are_an_error_at_worst(format in 1u8..4, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let row = [&[format][..], &bytes].concat();
        let _ = PackEntry::read_all(&row);
        let _ = Session::decode(&row);
    }
}
