use super::*;
use crate::model::Stamp;

/// The id of a number, which is also the digest of its contents.
fn numbered(number: u64) -> Id {
    // An odd factor keeps digests distinct, and spreads them over all parts.
    let digest = u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    Id {
        digest: digest.to_be_bytes(),
        contents: number,
        time: None,
    }
}

/// A pack of ids by their numbers, each with its position.
pub fn pack(ids: &[(u64, u32)]) -> Vec<u8> {
    let answer = |number: u64| Effect::Replaced(number.cast_signed());
    let ids = ids.iter();
    let ids: Vec<_> = ids
        .map(|(number, place)| (*number, *place, answer(*number)))
        .collect();
    pack_of(&ids)
}

/// The same, each with its answer.
pub fn pack_of(ids: &[(u64, u32, Effect)]) -> Vec<u8> {
    let mut pack = Vec::new();
    for (number, place, done) in ids {
        put_entry(&mut pack, &numbered(*number), *place, done);
    }
    pack
}

/// All ids of a start are found, even more than are gathered at once. Each pack is forgotten as a whole.
#[test]
fn ids_of_a_start_are_found_and_forgotten() {
    const PACK: u64 = 50_000;
    let packs = (0..7u64).map(|seq| {
        let mut ids = Vec::new();
        for number in seq * PACK..(seq + 1) * PACK {
            let id = numbered(number);
            put_entry(&mut ids, &id, 1, &Effect::Replaced(number.cast_signed()));
        }
        let pack = Pack {
            seq,
            time: 0,
            stamp: Stamp::of_time(0),
            base: seq.cast_signed(),
            ids: ids.into(),
        };
        (pack, seq.cast_signed())
    });
    let packs: Vec<_> = packs.collect();
    assert!(7 * PACK > GATHERED as u64);
    let mut ids = DedupLog::new(packs).expect("what was written");
    let missing = |ids: &DedupLog, from: u64| {
        let found = |&number: &u64| {
            let known = ids.find(&numbered(number))?;
            let expected = Answer {
                done: Effect::Replaced(number.cast_signed()),
                place: Position::Revision((number / PACK).cast_signed() + 1),
                replayed: true,
            };
            (known.contents == number && known.answer == expected).then_some(())
        };
        (from..7 * PACK).find(|number| found(number).is_none())
    };
    assert_eq!(missing(&ids, 0), None);
    assert!(ids.find(&numbered(7 * PACK)).is_none());

    while ids.forget(2, 1024).any {}
    assert!((0..3 * PACK).all(|number| ids.find(&numbered(number)).is_none()));
    assert_eq!(missing(&ids, 3 * PACK), None);
    assert_eq!(ids.oldest_seq(), Some(3));
    while ids.forget(7, 1024).any {}
    assert_eq!((ids.bytes(), ids.count), (0, 0));
}

/// All ids of a batch are found, whether it is replayed from another node or loaded at a start.
#[test]
fn all_ids_of_a_batch_are_found() {
    let pack = Pack {
        seq: 1,
        time: 0,
        stamp: Stamp::of_time(0),
        base: 10,
        ids: pack(&[(1, 1), (2, 2), (3, 3)]).into(),
    };
    let mut loaded = DedupLog::new(Vec::new()).expect("nothing");
    loaded.load(pack.clone(), 0).expect("what was written");
    let begun = DedupLog::new(vec![(pack, 0)]).expect("what was written");
    for ids in [&loaded, &begun] {
        for number in 1..=3 {
            let known = ids.find(&numbered(number)).expect("it was in the batch");
            let place = Position::Revision(10 + number.cast_signed());
            assert_eq!((known.contents, known.answer.place), (number, place));
        }
    }
    assert_eq!(loaded.bytes(), begun.bytes());
}

/// Ids count in the open pack, in closed packs and in the index, until they are undone or forgotten.
#[test]
fn ids_take_the_room_that_they_have() {
    let mut ids = DedupLog::new(Vec::new()).expect("nothing");
    assert_eq!(ids.bytes(), 0);
    for number in 1..=3 {
        ids.remember(&numbered(number), 1, &Effect::Replaced(7));
    }
    let open = ids.open_bytes();
    assert_eq!(ids.bytes(), open + 3 * INDEX_BYTES);
    let (bytes, newest) = ids.take_open();
    let pack = Pack {
        seq: 1,
        time: 0,
        stamp: Stamp {
            age: Some(5),
            newest,
        },
        base: 0,
        ids: bytes,
    };
    ids.close(pack, 5);
    let closed = PACK_BYTES + open + 3 * INDEX_BYTES;
    assert_eq!((ids.bytes(), ids.open_bytes()), (closed, 0));
    ids.remember(&numbered(4), 1, &Effect::Replaced(7));
    let (bytes, _) = ids.take_open();
    ids.undo(&bytes);
    assert_eq!(ids.bytes(), closed, "that batch was not made");
    assert!(ids.forget(5, 10).any);
    assert_eq!(ids.bytes(), 0);
}
