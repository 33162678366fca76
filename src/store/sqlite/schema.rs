//! The database file: its version, its tables and its opening.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _};

use super::meta::Meta;
use super::paths::{beside, log};
use super::rows;

/// `sumd` in ASCII: the file's header says whose it is.
const APPLICATION_ID: i32 = 0x7375_6d64;

/// The statements that make each version of the schema from its predecessor.
const MIGRATIONS: [&str; 5] = ["
    CREATE TABLE meta (
        name TEXT PRIMARY KEY NOT NULL,
        value ANY NOT NULL
    ) WITHOUT ROWID, STRICT;

    -- Its key is the database's own, for all digests in it.
    INSERT INTO meta VALUES ('key', randomblob(16));
    -- Of the counters that were deleted up to this revision, some are not in `deleted`.
    INSERT INTO meta VALUES ('forgotten', 0);

    CREATE TABLE counter (
        name TEXT PRIMARY KEY NOT NULL,
        value INTEGER NOT NULL,
        revision INTEGER NOT NULL,  -- of its last change
        digest INTEGER NOT NULL     -- of the row, as in every table
    ) WITHOUT ROWID, STRICT;

    -- Counters that are no more, for those who watch. An index on `counter` in its place would
    -- make each increment cost twice as much.
    CREATE TABLE deleted (
        name TEXT PRIMARY KEY NOT NULL,
        revision INTEGER NOT NULL,
        digest INTEGER NOT NULL
    ) WITHOUT ROWID, STRICT;

    CREATE INDEX deleted_at ON deleted (revision);

    -- The last row is the head. Those before it are there for their ids, and for their log.
    CREATE TABLE batch (
        seq INTEGER PRIMARY KEY NOT NULL,
        base INTEGER NOT NULL,      -- the revision before its first operation
        places INTEGER NOT NULL,    -- how many revisions it has
        time INTEGER NOT NULL,      -- milliseconds since 1970, never less than in the row before
        horizon INTEGER NOT NULL,
        session_horizon INTEGER NOT NULL,
        ids BLOB NOT NULL,
        digest INTEGER NOT NULL
    ) STRICT;

    CREATE TABLE session (
        id TEXT PRIMARY KEY NOT NULL,
        state BLOB NOT NULL,
        digest INTEGER NOT NULL
    ) WITHOUT ROWID, STRICT;
", "
    -- What the batch has changed. The row of a counter may lack what batches after this one have logged:
    INSERT INTO meta VALUES ('folded', 0);
    ALTER TABLE batch ADD COLUMN log BLOB NOT NULL DEFAULT x'';
", "
    -- Where the data were moved to, or are being moved to: nobody changes them any more.
    INSERT INTO meta VALUES ('moved_to', '');
    -- How many lanes the data had where they came from.
    INSERT INTO meta VALUES ('lanes', 1);
", "
    -- Fields that a row may have beside those of its format, each with a tag and its length; of a batch, how old it is.
    ALTER TABLE batch ADD COLUMN extras BLOB NOT NULL DEFAULT x'';
    ALTER TABLE counter ADD COLUMN extras BLOB NOT NULL DEFAULT x'';
", "
    -- All other rows of `meta` have a check sum in its row `check`, which is written after every migration.
"];

/// The schema version that this program writes.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "a handful"
)]
pub(crate) const VERSION: i32 = MIGRATIONS.len() as i32;
/// The oldest version that is read without a migration: the first with all columns.
const READABLE: i32 = 4;

/// Pages of the WAL after which SQLite checkpoints it; in the writer's connection [`super::log`] does that instead.
const CHECKPOINT_PAGES: u32 = 8000;

/// Page caches in KiB. The writer changes the same pages again and again; readers read most of theirs once.
const WRITER_CACHE_KIB: i64 = 16 << 10;
const READER_CACHE_KIB: i64 = 8 << 10;

/// Nobody else writes, and a backup or a check holds no lock for long.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long truncating the WAL waits for reads by name, which take microseconds.
const READERS_TIMEOUT: Duration = Duration::from_millis(50);

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

/// Opens a database for writing. It is created or migrated if necessary.
pub(crate) fn open(path: &Path) -> Result<(Connection, Meta), OpenError> {
    let sqlite = |error| OpenError::Sqlite(path.to_owned(), error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(sqlite)?;
    leave_log(&connection, has_log(path)).map_err(sqlite)?;
    let version = version(path, &connection)?;
    configure(&connection).map_err(sqlite)?;
    connection
        .pragma_update_and_check(None, "journal_mode", "wal", |row| row.get::<_, String>(0))
        .map_err(sqlite)?;
    let migrated = migrate(&mut connection, version).and_then(|()| Meta::read(&connection));
    let meta = migrated.map_err(|error| OpenError::unreadable(path, error))?;
    Ok((connection, meta))
}

/// A connection for reading.
pub(crate) struct Reader {
    pub(crate) connection: Connection,
    /// A lock that is held if the database cannot be written to: nobody else may write to it meanwhile.
    _unchanged: Option<File>,
}

/// Opens a database for reading, beside its writer.
pub(crate) fn open_reader(path: &Path) -> Result<Reader, OpenError> {
    let reader = open_any(path)?;
    match version(path, &reader.connection)? {
        READABLE.. => Ok(reader),
        version => Err(OpenError::Older {
            path: path.to_owned(),
            version,
        }),
    }
}

/// The path of a database that does not have its name yet.
pub(crate) fn partial(path: &Path) -> PathBuf {
    beside(path, ".partial")
}

/// The table `meta` of a complete database that a move has not renamed yet, if there is one. Its source may be sealed
/// already; any other leftover of a move is of no use.
pub(crate) fn nameless(path: &Path) -> Option<Meta> {
    let reader = open_reader(&partial(path)).ok()?;
    let meta = Meta::read(&reader.connection).ok()?;
    (!meta.made_by_move.is_empty()).then_some(meta)
}

/// Opens a database of this version or an older one, to copy it.
pub(crate) fn open_any(path: &Path) -> Result<Reader, OpenError> {
    if !path.exists() {
        return Err(OpenError::Missing(path.to_owned()));
    }
    let is_left = has_log(path);
    // SQLite may have to recover the WAL, so it may write, but not to the tables.
    let opened = connect(path, path, OpenFlags::SQLITE_OPEN_READ_WRITE);
    let (connection, unchanged) = match opened {
        Err(OpenError::Sqlite(_, error)) if is_read_only(&error) => {
            let unchanged = unchanged(path)?;
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
            (connect(path, &immutable(path), flags)?, Some(unchanged))
        }
        opened => (opened?, None),
    };
    // A WAL that a process left stays as it is; one that is made for reading is removed.
    leave_log(&connection, is_left)
        .and_then(|()| connection.pragma_update(None, "query_only", true))
        .and_then(|()| connection.pragma_update(None, "cache_size", -READER_CACHE_KIB))
        .map_err(|error| OpenError::Sqlite(path.to_owned(), error))?;
    Ok(Reader {
        connection,
        _unchanged: unchanged,
    })
}

/// Opens the database at a path, under the name that SQLite takes.
fn connect(path: &Path, name: &Path, flags: OpenFlags) -> Result<Connection, OpenError> {
    let sqlite = |error| OpenError::Sqlite(path.to_owned(), error);
    let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(name, flags).map_err(sqlite)?;
    leave_log(&connection, has_log(path)).map_err(sqlite)?;
    if version(path, &connection)? == 0 {
        return Err(OpenError::Foreign(path.to_owned()));
    }
    configure(&connection).map_err(sqlite)?;
    Ok(connection)
}

/// Whether SQLite cannot write to a database, or cannot create its files beside it.
///
/// Trying that here would do harm: closing a file releases this process's locks on it.
fn is_read_only(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly)
    )
}

/// Locks a database that cannot be written to, so that nobody writes to it by another way, such as another mount.
fn unchanged(path: &Path) -> Result<File, OpenError> {
    let file = File::open(path).map_err(|error| OpenError::Lock(path.to_owned(), error))?;
    let refused = |why| Err(OpenError::ReadOnly(path.to_owned(), why));
    if file.try_lock_shared().is_err() {
        return refused("a server uses it through another path or mount: run this there");
    }
    if has_log(path) {
        return refused(
            "its log (-wal) is not merged into it: copy both files to a writable folder",
        );
    }
    Ok(file)
}

/// Whether the WAL of a database has content.
fn has_log(path: &Path) -> bool {
    std::fs::metadata(log(path)).is_ok_and(|log| log.len() > 0)
}

/// The name by which SQLite takes a file for one that nobody changes, and makes no other beside it.
fn immutable(path: &Path) -> PathBuf {
    let mut name = b"file:".to_vec();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'%' | b'?' | b'#' => name.extend(format!("%{byte:02X}").bytes()),
            _ => name.push(*byte),
        }
    }
    name.extend(b"?immutable=1");
    OsString::from_vec(name).into()
}

/// Sets whether the WAL stays when this connection closes last; otherwise it is copied into the database and removed.
/// It has to stay unless all is known to be well: a connection may close after a failure.
pub(crate) fn leave_log(connection: &Connection, leave: bool) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, leave)?;
    Ok(())
}

/// Closes a database that has to be complete without its WAL.
pub(crate) fn close(connection: Connection) -> rusqlite::Result<()> {
    leave_log(&connection, false)?;
    connection.close().map_err(|(_, error)| error)
}

/// Copies the WAL into the database and truncates it. Returns whether that was done: readers of other processes or a
/// full disk may prevent it.
pub(crate) fn truncate_log(connection: &Connection) -> rusqlite::Result<bool> {
    connection.busy_timeout(READERS_TIMEOUT)?;
    let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
    let is_busy = connection.query_row(checkpoint, [], |row| row.get::<_, bool>(0));
    connection.busy_timeout(BUSY_TIMEOUT)?;
    is_cut(is_busy)
}

/// Whether a checkpoint has truncated the WAL. On a full disk it has not.
fn is_cut(is_busy: rusqlite::Result<bool>) -> rusqlite::Result<bool> {
    match is_busy {
        Err(error) if rows::is_full(&error) => Ok(false),
        is_busy => Ok(!is_busy?),
    }
}

/// The version of a database; 0 if it is empty.
fn version(path: &Path, connection: &Connection) -> Result<i32, OpenError> {
    let sqlite = |error| OpenError::Sqlite(path.to_owned(), error);
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let application = number("application_id").map_err(sqlite)?;
    let version = number("user_version").map_err(sqlite)?;
    let table = "SELECT 1 FROM sqlite_schema";
    let table = connection.query_row(table, [], |_| Ok(())).optional();
    let empty = table.map_err(sqlite)?.is_none();
    match (application, version) {
        (0, 0) if empty => Ok(0),
        (APPLICATION_ID, 1..=VERSION) => Ok(version),
        (APPLICATION_ID, version) => Err(OpenError::Newer {
            path: path.to_owned(),
            version,
        }),
        _ => Err(OpenError::Foreign(path.to_owned())),
    }
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(32);
    leave_log(connection, true)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    // Negative values are in KiB.
    connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    // Malformed pages are found when they are read, before anything crashes.
    connection.pragma_update(None, "cell_size_check", true)
}

fn migrate(connection: &mut Connection, from: i32) -> rows::Result<()> {
    if from == VERSION {
        return Ok(());
    }
    let transaction = connection.transaction()?;
    let done = usize::try_from(from).unwrap_or(0);
    for migration in &MIGRATIONS[done..] {
        transaction.execute_batch(migration)?;
    }
    Meta::read(&transaction)?.write(&transaction)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    Ok(transaction.commit()?)
}

#[cfg(test)]
pub(crate) mod tests;
