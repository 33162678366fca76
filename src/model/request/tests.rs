use super::*;
use crate::model::KeyedHasher;

/// Different contents have different digests, so that the reuse of an id for other contents is detected.
#[test]
fn contents_that_differ_have_other_digests() {
    let hasher = KeyedHasher::new([7; 16]);
    let limits = Limits {
        max: Some(7),
        ..Limits::default()
    };
    let of = |increments: &[(&str, i64, Limits)]| {
        let mut all = Increments::default();
        for (name, delta, limits) in increments {
            all.push(name, *delta, *limits);
        }
        hasher.message(&all)
    };
    let none = Limits::default();
    let all = [
        of(&[("ab", 1, limits), ("c", 1, limits)]),
        of(&[("a", 1, limits), ("bc", 1, limits)]),
        of(&[("ab", 1, none), ("c", 1, limits)]),
        of(&[("ab", 1, limits), ("c", 1, none)]),
        of(&[("ab", 1, none), ("c", 1, none)]),
        of(&[("a", 1, none), ("bc", 1, none)]),
        of(&[("a", 2, none), ("bc", 1, none)]),
    ];
    for (at, one) in all.iter().enumerate() {
        assert!(!all[at + 1..].contains(one), "{at}");
    }
}

#[test]
fn an_operation_names_its_counters() {
    let increments = || {
        let mut increments = Increments::one("a".to_owned(), 1, Limits::default());
        increments.push_invalid(1, Invalid::NotUtf8);
        increments.push("b", 1, Limits::default());
        increments
    };
    for operation in [
        Operation::Increment(increments()),
        Operation::Batch(increments()),
    ] {
        assert!(operation.names("a") && operation.names("b"));
        assert!(!operation.names("") && !operation.names("ab"));
    }
    for operation in [Operation::Set("a".into(), 1), Operation::Delete("a".into())] {
        assert!(operation.names("a") && !operation.names("b"));
    }
}

/// Digests are stored, so they never change: a version recognises the requests that the previous one answered.
#[test]
fn contents_have_the_digests_that_are_stored() {
    let mut all = Increments::default();
    all.push("g/a", 5, Limits::default());
    let least = Limits {
        min: Some(-9),
        ..Limits::default()
    };
    all.push("g/b", -1, least);
    let saturating = Limits {
        max: Some(9),
        on_limit: OnLimit::Saturate,
        ..Limits::default()
    };
    all.push("g/c", 7, saturating);
    all.push_invalid(3, Invalid::NotUtf8);
    let hasher = KeyedHasher::new([7; 16]);
    assert_eq!(hasher.message(&all), 0x16cc_379c_fdfc_6250);
    let of = |operation| hasher.id("a", None, &operation).contents;
    assert_eq!(of(Operation::Batch(all)), 0x0940_db75_141e_5c06);
    let one = || Increments::one("g/a".to_owned(), 5, saturating);
    assert_eq!(of(Operation::Increment(one())), 0x828a_e416_9d96_681a);
    assert_eq!(of(Operation::Set("g/a".into(), 5)), 0x1502_3bf8_5b70_1a78);
    assert_eq!(of(Operation::Delete("g/a".into())), 0xce80_0d37_e6f7_e6d2);
}

/// Only a message of a session is bulk: its increments count as bulk, and its refusals are logged as those of sessions.
#[test]
fn messages_of_sessions_are_bulk() {
    let one = || Increments::one("a".to_owned(), 1, Limits::default());
    let message = Operation::Record(Record {
        session: "meter-7".into(),
        time: 0,
        sequence: 1,
        acknowledged: 0,
        follows: Predecessor::TheOneBefore,
        contents: 7,
        increments: one(),
    });
    assert!(message.is_bulk());
    for other in [
        Operation::Increment(one()),
        Operation::Batch(one()),
        Operation::Set("a".into(), 1),
        Operation::Delete("a".into()),
    ] {
        assert!(!other.is_bulk(), "{other:?}");
    }
}
