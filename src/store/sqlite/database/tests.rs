use std::path::Path;

use rusqlite::ffi;

use super::*;

/// An error of SQLite.
pub fn failed(code: std::ffi::c_int) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)
}

/// The error of a value whose type differs from its column's.
pub fn wrong_type() -> rusqlite::Error {
    rusqlite::Error::InvalidColumnType(3, "value".to_owned(), rusqlite::types::Type::Text)
}

/// Readers, or a full disk, leave the WAL as long as it is. Any other failure is an error.
#[test]
fn a_log_is_cut_or_not() {
    assert!(is_cut(Ok(false)).expect("nothing is wrong"));
    assert!(!is_cut(Ok(true)).expect("nothing is wrong"));
    let full = is_cut(Err(failed(ffi::SQLITE_FULL)));
    assert!(!full.expect("it is as it was"));
    is_cut(Err(failed(ffi::SQLITE_IOERR))).expect_err("it is told");
}

/// Wrong contents are damage, against which a backup helps. A disk that cannot be read is not damage.
#[test]
fn damage_is_told_from_a_file_that_cannot_be_read() {
    let path = Path::new("sumd.db");
    let damage = [
        rows::Error::Corrupt("batch 7 is not what was written".to_owned()),
        failed(ffi::SQLITE_CORRUPT).into(),
        // This is not one of SQLite's errors.
        wrong_type().into(),
    ];
    for error in damage {
        let told = OpenError::unreadable(path, error);
        assert!(matches!(told, OpenError::Damaged(..)), "{told}");
    }
    for code in [ffi::SQLITE_IOERR, ffi::SQLITE_CANTOPEN, ffi::SQLITE_BUSY] {
        let told = OpenError::unreadable(path, failed(code).into());
        assert!(matches!(told, OpenError::Sqlite(..)), "{told}");
    }
}

/// A file with another program's tables is left as it is, even if it names no owner.
#[test]
fn a_database_that_is_not_ours_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    for application in [0, 7] {
        let path = folder.path().join(format!("{application}.db"));
        let theirs = Connection::open(&path).expect("a file");
        theirs
            .pragma_update(None, "application_id", application)
            .expect("SQL");
        theirs.execute_batch("CREATE TABLE t (x)").expect("SQL");
        drop(theirs);
        let before = std::fs::read(&path).expect("a file");
        let told = open(&path).map(drop).expect_err("it is not ours");
        assert!(matches!(told, OpenError::Foreign(..)), "{told}");
        assert_eq!(std::fs::read(&path).expect("a file"), before);
    }
}

/// SQLite parses the name as a URI.
#[test]
fn a_name_of_any_characters_is_a_uri() {
    for (path, uri) in [
        ("/a b/sumd.db", "file:/a b/sumd.db?immutable=1"),
        ("/100%?#.db", "file:/100%25%3F%23.db?immutable=1"),
    ] {
        assert_eq!(immutable(Path::new(path)), Path::new(uri));
    }
}

/// Only a database that cannot be written to is read as one that nobody changes. Whatever else is wrong is told.
#[test]
fn a_read_only_database_is_told_from_a_broken_one() {
    for code in [ffi::SQLITE_CANTOPEN, ffi::SQLITE_READONLY] {
        assert!(is_read_only(&failed(code)), "{code}");
    }
    for code in [ffi::SQLITE_BUSY, ffi::SQLITE_CORRUPT, ffi::SQLITE_IOERR] {
        assert!(!is_read_only(&failed(code)), "{code}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sumd.db");
    std::fs::write(&path, "no database".repeat(100)).expect("a file");
    std::fs::write(beside(&path, "-wal"), "its log").expect("a file");
    for opened in [open_any(&path).map(drop), open(&path).map(drop)] {
        let told = opened.expect_err("it is broken");
        assert!(matches!(told, OpenError::Sqlite(..)), "{told}");
        let left = std::fs::read(beside(&path, "-wal")).expect("a log");
        assert_eq!(left, b"its log", "it may be all that is left");
    }
}

/// Reading leaves the log that a process has left as it was, and no other one.
#[test]
fn reading_leaves_the_log_as_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sumd.db");
    let log = beside(&path, "-wal");
    let link = folder.path().join("link.db");
    std::os::unix::fs::symlink(&path, &link).expect("a link");
    let read = || drop(open_any(&path).expect("it is free"));
    drop(open(&path).expect("a new database"));
    let before = std::fs::read(&log).expect("a log");
    assert!(!before.is_empty());
    read();
    assert_eq!(std::fs::read(&log).expect("a log"), before);
    drop(open_any(&link).expect("it is free"));
    assert_eq!(std::fs::read(&log).expect("a log"), before);

    let (connection, _) = open(&path).expect("it is free");
    close(connection).expect("it is whole");
    read();
    assert!(!log.exists());
    std::fs::write(&log, "").expect("a file");
    read();
    assert!(!log.exists(), "nothing was in it");
}
