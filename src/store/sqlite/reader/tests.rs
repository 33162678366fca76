use super::super::writer::tests::{batch, open};
use super::*;
use crate::store::sqlite::database;

/// A scan with few matching rows returns in time, with the name to resume after.
#[test]
fn a_scan_looks_at_a_bounded_number_of_rows() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sumd.db");
    let mut writer = open(&path, usize::MAX);
    let names = (0..=SCAN_ROWS).map(|at| (format!("{at:05}"), Some(1)));
    writer.commit(&batch(1, names)).expect("a commit");
    let mut reader = database::open_reader(&path).expect("a reader").connection;
    let hasher = Meta::read(&reader).expect("it is whole").hasher;
    let snapshot = Snapshot::take(&mut reader, hasher, writer.current()).expect("a snapshot");
    let mut scan = Scan {
        prefix: "".into(),
        after: None,
        since: 1,
        limit: usize::MAX,
    };
    let page = snapshot.scan(&scan).expect("a page");
    let last = format!("{:05}", SCAN_ROWS - 1);
    assert_eq!((page.rows.len(), page.next.as_deref()), (0, Some(&*last)));
    scan.after = page.next;
    let page = snapshot.scan(&scan).expect("a page");
    assert_eq!((page.rows.len(), page.next), (0, None));
}

/// A sum that nobody waits for any more ends soon, and one of many counters that is waited for is whole.
#[test]
fn a_sum_asks_whether_it_is_waited_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sumd.db");
    let mut writer = open(&path, usize::MAX);
    let names = (0..=2 * SUM_ROWS).map(|at| (format!("{at:05}"), Some(1)));
    writer.commit(&batch(1, names)).expect("a commit");
    let mut reader = database::open_reader(&path).expect("a reader").connection;
    let hasher = Meta::read(&reader).expect("it is whole").hasher;
    let snapshot = Snapshot::take(&mut reader, hasher, writer.current()).expect("a snapshot");
    let asked = std::cell::Cell::new(0);
    let sum = snapshot.sum("", &|| {
        asked.set(asked.get() + 1);
        false
    });
    let count = i64::try_from(2 * SUM_ROWS + 1).expect("few");
    let sum = sum.expect("a sum");
    assert_eq!((sum.count, sum.sum), (count, count.into()));
    assert_eq!(asked.get(), 2);
    let abandoned = snapshot.sum("", &|| true);
    assert!(matches!(abandoned, Err(Error::Abandoned)));
}

/// The problems of batches 1 to 5, nothing being remembered of those before batch 3, once `change` was made to the database.
fn problems(change: &str) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sumd.db");
    let mut writer = open(&path, usize::MAX);
    for seq in 1..=5 {
        let mut batch = batch(seq, [(format!("g/{seq}"), Some(1))]);
        batch.forget_before = seq.min(3);
        writer.commit(&batch).expect("a commit");
    }
    drop(writer);
    let (mut connection, Meta { hasher, .. }) = database::open(&path).expect("it is free");
    assert_eq!(oldest(&connection, hasher).expect("it is whole"), 3);
    connection.execute_batch(change).expect("SQL");
    let mut problems = Vec::new();
    let mut note = |problem: Error| {
        problems.push(problem.to_string());
        Ok(())
    };
    let read = each_batch(&connection, hasher, |row| row.map(drop).or_else(&mut note));
    read.expect("it can be read");
    drop(Snapshot::of_file(&mut connection, note).expect("it can be read"));
    problems
}

/// Batches that are needed are there: those that something is remembered of, and those whose changes are not in the rows.
#[test]
fn batches_that_are_needed_are_there() {
    assert_eq!(problems(""), [""; 0]);
    assert_eq!(
        problems("DELETE FROM batch WHERE seq < 3"),
        ["batches 1 to 2 are missing"],
        "they are not folded, and nothing is remembered of them"
    );
    let missing = ["batch 4 is missing"; 2];
    assert_eq!(problems("DELETE FROM batch WHERE seq = 4"), missing);
    assert_eq!(
        problems("UPDATE batch SET log = x'' WHERE seq = 4"),
        ["the log of batch 4 is damaged"]
    );
}

/// Batches of the first format have no log, and those without ids were left out.
#[test]
fn batches_without_a_log_may_have_gaps() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sumd.db");
    let mut writer = open(&path, usize::MAX);
    for seq in 1..=5 {
        writer.commit(&batch(seq, [])).expect("a commit");
    }
    drop(writer);
    let (connection, Meta { hasher, .. }) = database::open(&path).expect("it is free");
    let first_format = "UPDATE batch SET log = x''; DELETE FROM batch WHERE seq IN (1, 3)";
    connection.execute_batch(first_format).expect("SQL");
    let mut found = Vec::new();
    let read = each_batch(&connection, hasher, |row| {
        found.push(row?.head.seq);
        Ok(())
    });
    read.expect("nothing is missing");
    assert_eq!(found, [2, 4, 5]);
}

/// Batches after the last one, which the rows of counters have taken in, are missing.
#[test]
fn batches_at_the_end_are_missed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sumd.db");
    let mut writer = open(&path, usize::MAX);
    writer.commit(&batch(1, [])).expect("a commit");
    drop(writer);
    let (mut connection, _) = database::open(&path).expect("it is free");
    for (folded, problem) in [(2, "batch 2 is missing"), (4, "batches 2 to 4 are missing")] {
        Meta::update(&connection, |meta| meta.folded = folded).expect("SQL");
        let told = Snapshot::of_file(&mut connection, Err).map(drop);
        assert_eq!(told.expect_err("it is told").to_string(), problem);
    }
}
