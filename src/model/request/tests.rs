use super::*;
use crate::model::KeyedHasher;

/// An id is known with a digest of the contents that it was first used with.
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
