use super::*;
use crate::model::{Changes, CounterChange, Stamp};
use crate::store::memtable;

impl Writer {
    /// Sets the bound of the WAL.
    pub fn with_log_pages(mut self, max: i32) -> Self {
        self.log = self.log.with_max_pages(max);
        self
    }
}

/// A batch that sets counters.
pub fn batch(seq: u64, counters: impl IntoIterator<Item = (String, Option<i64>)>) -> Commit {
    let changes = counters.into_iter().map(|(name, value)| CounterChange {
        name: name.into(),
        value,
        place: 1,
        is_new: true,
    });
    Commit {
        seq,
        time: 0,
        stamp: Stamp::of_time(0),
        horizon: 0,
        session_horizon: 0,
        places: 1,
        ids: [].into(),
        forget_before: seq,
        deletions_up_to: 0,
        changes: Changes {
            counters: changes.collect(),
            sessions: Vec::new(),
        },
    }
}

pub fn open(path: &std::path::Path, recent_bytes: usize) -> Writer {
    let (connection, meta) = database::open(path).expect("a database");
    let memtable = memtable::Memtable::new(recent_bytes);
    Writer::new(connection, meta.hasher, memtable).expect("a writer")
}

/// A batch is deleted once it is folded and nothing of it is remembered. A batch that is not folded survives a crash.
#[test]
fn the_log_is_kept_until_it_is_folded() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sumd.db");
    let count = |writer: &Writer| {
        let sql = "SELECT count(*) FROM batch";
        let count = writer
            .connection
            .query_row(sql, [], |row| row.get::<_, i64>(0));
        count.expect("a number")
    };
    let mut writer = open(&path, usize::MAX);
    for seq in 1..=100_u64 {
        let counter = (format!("g/{}", seq % 7), Some(seq.cast_signed()));
        writer.commit(&batch(seq, [counter])).expect("a commit");
    }
    assert_eq!(count(&writer), 100);
    drop(writer);

    let mut writer = open(&path, 0);
    let value = |writer: &Writer, name: &str| {
        let view = writer.current().lock().clone();
        let latest = memtable::Lookup::new(&view.runs).find(name);
        latest.map(|latest| (latest.value, latest.revision))
    };
    assert_eq!(value(&writer, "g/2"), Some((Some(100), 100)));
    for seq in 101..=140 {
        writer
            .commit(&batch(seq, [("h".to_owned(), None)]))
            .expect("a commit");
    }
    assert_eq!(count(&writer), 2);
    assert_eq!(value(&writer, "g/2"), None);
    let row = "SELECT value, revision FROM counter WHERE name = 'g/2'";
    let row = writer
        .connection
        .query_row(row, [], |row| Ok((row.get(0)?, row.get(1)?)));
    assert_eq!(row, Ok((100, 100)));
}

/// A close without time leaves the WAL, and nothing is lost.
#[test]
fn a_close_that_is_cut_short_loses_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sumd.db");
    let log = super::super::paths::beside(&path, "-wal");
    let mut writer = open(&path, usize::MAX);
    for seq in 1..=10 {
        let counter = (format!("g/{seq}"), Some(1));
        writer.commit(&batch(seq, [counter])).expect("a commit");
    }
    // There is time for the checkpoint, and none to truncate the WAL.
    let asked = std::cell::Cell::new(0);
    let has_time = || asked.replace(asked.get() + 1) == 0;
    assert!(!writer.finish(has_time).expect("no error"));
    assert_eq!(writer.folded, writer.seq);
    writer.close_within(Duration::ZERO);
    assert!(std::fs::metadata(&log).is_ok_and(|log| log.len() > 0));
    for _ in 0..2 {
        let report = crate::maintenance::sqlite::check(&path).expect("a report");
        assert_eq!((report.counters, report.problems), (10, vec![]));
        open(&path, usize::MAX).close();
        assert!(!log.exists());
    }
}

/// Deletions are forgotten up to the last look that is at least as old as required.
#[test]
fn deletions_are_forgotten_once_they_are_old() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut writer = open(&folder.path().join("sumd.db"), usize::MAX);
    let mut look = |revision, age, deletions_up_to| {
        writer.revision = revision;
        let mut batch = batch(1, []);
        batch.stamp.age = Some(age);
        batch.deletions_up_to = deletions_up_to;
        writer.forgettable(&batch)
    };
    assert_eq!(look(5, 0, -1), None);
    assert_eq!(
        look(7, FORGET_INTERVAL - 1, FORGET_INTERVAL),
        None,
        "it is not time to look"
    );
    assert_eq!(look(9, FORGET_INTERVAL, -1), None);
    assert_eq!(look(20, 2 * FORGET_INTERVAL, FORGET_INTERVAL - 1), Some(5));
    assert_eq!(look(30, 3 * FORGET_INTERVAL, 2 * FORGET_INTERVAL), Some(20));
    assert_eq!(look(40, 4 * FORGET_INTERVAL, 2 * FORGET_INTERVAL), None);
}

#[test]
fn more_is_folded_than_comes_in() {
    assert_eq!(
        [0, 10, 1000].map(rows_to_fold),
        [FOLD_ROWS, FOLD_ROWS, 1500]
    );
}

/// After a write that found the disk full, the file has to end with the last acknowledged batch. Otherwise nothing more
/// is written.
#[test]
fn a_file_that_ends_with_another_batch_is_not_written_to() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sumd.db");
    let mut writer = open(&path, usize::MAX);
    let set = |seq| batch(seq, [("g/a".to_owned(), Some(1))]);
    writer.commit(&set(1)).expect("a commit");
    let full = || Error::from(database::tests::failed(rusqlite::ffi::SQLITE_FULL));
    let told = writer.not_stored(full());
    assert!(matches!(told, NotCommitted::Full), "{told:?}");
    let (other, meta) = database::open(&path).expect("it is not locked");
    let mut put = other.prepare(rows::PUT_BATCH).expect("SQL");
    rows::put_batch(&mut put, meta.hasher, &set(2), 1).expect("SQL");
    let told = writer.not_stored(full());
    assert!(matches!(told, NotCommitted::Failed(_)), "{told:?}");
}

/// The `forgotten` revision moves only if a deletion was forgotten: watchers before it have to start afresh.
#[test]
fn nothing_is_forgotten_where_nothing_was_deleted() {
    let folder = tempfile::tempdir().expect("a folder");
    let (connection, meta) = database::open(&folder.path().join("sumd.db")).expect("new");
    let forgotten = || Meta::read(&connection).expect("it is whole").forgotten;
    let before = forgotten();
    forget_deleted(&connection, 10).expect("SQL");
    assert_eq!(forgotten(), before);
    let mut put = connection.prepare(rows::PUT_DELETED).expect("SQL");
    rows::put_deleted(&mut put, meta.hasher, ("a", 11)).expect("SQL");
    forget_deleted(&connection, 10).expect("SQL");
    assert_eq!(forgotten(), before);
    forget_deleted(&connection, 11).expect("SQL");
    assert_eq!(forgotten(), 11);
}

/// Batches go as soon as they are folded and nothing is remembered of them, also in a new database; and what is folded is not
/// taken in again by the next start.
#[test]
fn the_log_of_a_new_database_is_short() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sumd.db");
    let mut writer = open(&path, 0);
    for seq in 1..=40 {
        let counter = (format!("g/{seq}"), Some(1));
        writer.commit(&batch(seq, [counter])).expect("a commit");
    }
    let count = "SELECT count(*) FROM batch";
    let count = writer.connection.query_row(count, [], |row| row.get(0));
    assert_eq!(count, Ok(2));
    writer.close();
    let writer = open(&path, 0);
    assert_eq!(writer.folded, 40);
    assert!(writer.current().lock().runs.is_empty());
}

/// That there is room is told by a write. A write that fails for another reason is told.
#[test]
fn room_is_found_by_a_write() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut writer = open(&folder.path().join("sumd.db"), usize::MAX);
    assert!(writer.try_room().expect("nothing is wrong"));
    let read_only = writer.connection.pragma_update(None, "query_only", true);
    read_only.expect("SQL");
    writer.try_room().expect_err("it cannot be written");
}
