//! The opening and closing of a database file.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _};

use super::meta::Meta;
use super::open_error::OpenError;
use super::paths::{beside, log};
use super::rows;
use super::schema::{APPLICATION_ID, VERSION, migrate};

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

#[cfg(test)]
pub(crate) mod tests;
