//! The reasons why a database cannot be opened.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use super::rows;
use super::schema::VERSION;

/// The reason why a database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its folder cannot be created.
    #[error("cannot create {path}: {1}", path = .0.display())]
    Folder(PathBuf, io::Error),
    /// It, its folder or its lock file cannot be opened or locked.
    #[error("cannot lock {path}: {1}", path = .0.display())]
    Lock(PathBuf, io::Error),
    /// The data of an earlier process cannot be made durable.
    #[error("cannot make {path} durable: {1}", path = .0.display())]
    Settle(PathBuf, io::Error),
    /// Another process has it, or had it until it was deleted.
    #[error(
        "{path} is in use by another process, or was until it was deleted: only one sumd may use it at a time \
         (--data-dir sets another folder)",
        path = .0.display()
    )]
    InUse(PathBuf),
    /// It cannot be written to, and another process has it or its WAL is not empty.
    #[error("{path} is read-only, and {1}", path = .0.display())]
    ReadOnly(PathBuf, &'static str),
    /// It belongs to another program.
    #[error("{path} is not a database of sumd", path = .0.display())]
    Foreign(PathBuf),
    /// A newer sumd wrote it.
    #[error(
        "{path} was written by a newer sumd (its format is {version}, and this sumd knows up to {newest})",
        newest = VERSION,
        path = .path.display()
    )]
    Newer {
        /// Its path.
        path: PathBuf,
        /// Its version.
        version: i32,
    },
    /// An older sumd wrote it, and it was not migrated.
    #[error(
        "{path} was written by an older sumd (its format is {version}): to bring it to format {newest}, start \
         sumd on it once, or restore it to a file if it is a backup",
        newest = VERSION,
        path = .path.display()
    )]
    Older {
        /// Its path.
        path: PathBuf,
        /// Its version.
        version: i32,
    },
    /// There is no database.
    #[error("there is no database at {path}", path = .0.display())]
    Missing(PathBuf),
    /// SQLite cannot use it.
    #[error("cannot use {path}: {1}", path = .0.display())]
    Sqlite(PathBuf, rusqlite::Error),
    /// Its data were moved elsewhere.
    #[error(
        "the data of {path} were moved to {to}: serve that. (If the data there are not complete, the move was \
         interrupted: run it again)",
        path = .path.display()
    )]
    Migrated {
        /// Its path.
        path: PathBuf,
        /// Their new location.
        to: String,
    },
    /// It is missing or empty, and its WAL is not.
    #[error(
        "{path} is missing or empty, but its log {path}-wal is not: put the database back beside its log; or \
         move the log away, to begin without data or to restore a backup",
        path = .0.display()
    )]
    Bereft(PathBuf),
    /// It is missing, and the result of a move is beside it, not renamed yet.
    #[error(
        "{path}.partial was made by sumd move, and {path} is to be its name: run the same move again, which \
         renames the file, or makes it again if the move was not complete. Only if that move was undone (sumd \
         reopen), or {path}.partial is left from an interrupted backup, move {path}.partial away",
        path = .0.display()
    )]
    Nameless(PathBuf),
    /// It is damaged.
    #[error(
        "{path}: {1}. It is unknown which request ids, sessions or changes were in it, so nothing is served: \
         increments might count twice, or be lost. `sumd check` lists all damage, and `sumd restore` makes a \
         database from a backup",
        path = .0.display()
    )]
    Damaged(PathBuf, String),
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

impl OpenError {
    /// Distinguishes damage from a database that cannot be read.
    pub(crate) fn unreadable(path: &Path, error: rows::Error) -> Self {
        let is_damage = |code: ErrorCode| code == ErrorCode::DatabaseCorrupt;
        match error {
            rows::Error::Sqlite(error) if !error.sqlite_error_code().is_none_or(is_damage) => {
                Self::Sqlite(path.to_owned(), error)
            }
            damage => Self::Damaged(path.to_owned(), damage.to_string()),
        }
    }
}
