use super::*;
use crate::model::{Millis, pack};

const TIME: Millis = 1_700_000_000_000;

/// Consistent batches of one position each, with the revision before that position.
fn batches() -> [(Commit, i64); 3] {
    [1, 2, 3].map(|seq: u64| {
        let batch = Commit {
            seq,
            time: TIME + seq.cast_signed(),
            stamp: Stamp::of_time(TIME),
            horizon: 0,
            session_horizon: 0,
            places: 1,
            ids: pack(&[(seq, 1)]).into(),
            forget_before: 1,
            deletions_up_to: 0,
            changes: Changes::default(),
        };
        (batch, 10 * seq.cast_signed())
    })
}

/// The problems that the check finds in a file with these batches.
fn problems(batches: &[(Commit, i64)]) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sumd.db");
    let (connection, meta) = schema::open(&path).expect("a new file");
    let mut put = connection.prepare(rows::PUT_BATCH).expect("SQL");
    for (batch, base) in batches {
        rows::put_batch(&mut put, meta.hasher, batch, *base).expect("SQL");
    }
    check(&path).expect("it can be read").problems
}

/// Files of an earlier attempt are removed, missing files are no error, and a file that cannot be removed is reported.
#[test]
fn files_of_an_earlier_attempt_are_removed() {
    let folder = tempfile::tempdir().expect("a folder");
    let partial = Partial {
        path: folder.path().join("sumd.db.partial"),
        keep: true,
    };
    partial.remove().expect("nothing is there");
    for suffix in ["", "-wal"] {
        fs::write(beside(&partial.path, suffix), "x").expect("a file");
    }
    partial.remove().expect("files are there");
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
    let shm = beside(&partial.path, "-shm");
    fs::create_dir(&shm).expect("a folder");
    match partial.remove() {
        Err(ToolError::Io(path, _)) => assert_eq!(path, shm),
        other => panic!("{other:?}"),
    }
}

/// A kept reservation leaves its path as it is; one that was given up leaves nothing.
#[test]
fn a_place_that_is_not_kept_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let home = folder.path().join("a/b");
    let path = home.join("sumd.db");
    drop(reserve(&path).expect("there is room"));
    assert!(!folder.path().join("a").exists());
    reserve(&path).expect("there is room").keep();
    assert!(home.exists());
}

type Change = fn(&mut [(Commit, i64); 3]);

#[test]
fn batches_that_do_not_fit_together_are_told_of() {
    let cases: [(&str, &[Change]); 2] = [
        (
            "batch 2 goes back behind the one before it",
            &[
                |batches| batches[1].1 = 10,
                |batches| batches[1].0.time = TIME,
            ],
        ),
        (
            "batch 2 has an id twice, or out of place",
            &[
                |batches| batches[1].0.ids = pack(&[(1, 1)]).into(),
                |batches| batches[1].0.ids = pack(&[(2, 2)]).into(),
            ],
        ),
    ];
    for (problem, changes) in cases {
        for (at, change) in changes.iter().enumerate() {
            let mut batches = batches();
            change(&mut batches);
            assert_eq!(problems(&batches), [problem], "case {at}");
        }
    }
    // Each number may be equal to its bound.
    let changes: [Change; 3] = [
        |_| {},
        |batches| batches[1].1 = 11,
        |batches| batches[1].0.time = batches[0].0.time,
    ];
    for (at, change) in changes.into_iter().enumerate() {
        let mut batches = batches();
        change(&mut batches);
        assert_eq!(problems(&batches), [""; 0], "case {at}");
    }
}
