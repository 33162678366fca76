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
    let (connection, meta) = database::open(&path).expect("a new file");
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
    let cases: [(&str, &[Change]); 3] = [
        (
            "batch 1 has a duplicate or misplaced id",
            &[|batches| {
                batches[0].1 = 0;
                batches[0].0.ids = pack(&[(1, 2)]).into();
            }],
        ),
        (
            "batch 2 has an earlier revision or time than the one before it",
            &[
                |batches| batches[1].1 = 10,
                |batches| batches[1].0.time = TIME,
            ],
        ),
        (
            "batch 2 has a duplicate or misplaced id",
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

/// A file that a move has made is replaced by a move of the same data, and by nothing else.
#[test]
fn the_file_of_a_move_is_replaced_by_the_same_data_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sumd.db");
    let file = database::partial(&path);
    let hasher = |byte| KeyedHasher::new([byte; 16]);
    let (connection, _) = database::open(&file).expect("a new file");
    let moved = Meta::update(&connection, |meta| {
        meta.hasher = hasher(7);
        meta.made_by_move = vec![1; 16];
    });
    moved.expect("SQL");
    database::close(connection).expect("it is whole");
    for made in [Partial::new(&path), Partial::of_move(&path, hasher(8))] {
        let refused = made.map(drop);
        assert!(
            matches!(refused, Err(ToolError::Open(OpenError::Nameless(_)))),
            "{refused:?}"
        );
    }
    let made = Partial::of_move(&path, hasher(7)).expect("the same data");
    assert_eq!(fs::metadata(&file).expect("a file").len(), 0);
    drop(made);
}

/// A check tells the latest time of any session.
#[test]
fn a_check_tells_the_times_of_sessions() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sumd.db");
    let (connection, meta) = database::open(&path).expect("a new file");
    let mut put = connection.prepare(rows::PUT_SESSION).expect("SQL");
    for (id, used) in [("meter-7", 3), ("meter-8", 5), ("meter-9", 4)] {
        // A session of nothing but the time of its last use.
        let row = [2, 2 * used, 1, 1, 0];
        rows::put_session(&mut put, meta.hasher, id, &row).expect("SQL");
    }
    let report = check(&path).expect("it can be read");
    assert_eq!((report.sessions, report.problems), (3, vec![]));
    assert_eq!(report.times.session, 5);
}
