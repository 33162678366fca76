//! Backup, restore and check of a database file. Backup and check also work while a server uses the file.

mod check;
pub(super) mod export;
mod horizon;
pub(super) mod import;

pub use check::check;
pub use horizon::reset_horizon;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, params};

use crate::maintenance::report::{RESTORE_GAP, Report, ToolError};
use crate::model::{Changes, Commit, Head, KeyedHasher, Stamp};
use crate::store::sqlite::lock::{Lock, create, folder, make_folder};
use crate::store::sqlite::meta::Meta;
use crate::store::sqlite::paths::beside;
use crate::store::sqlite::rows;
use crate::store::sqlite::{OpenError, database, reader};

/// Copies a database, as it is at one moment, to a new file. The copy is checked before it gets its name; the report is
/// of the copy.
///
/// # Errors
/// Returns an error if the target exists, the source or the target cannot be used, or the database is damaged. No file
/// is left under the target's name then.
pub fn backup(path: &Path, to: &Path) -> Result<Report, ToolError> {
    refuse_existing(to)?;
    let reader = database::open_reader(path)?;
    let partial = Partial::new(to)?;
    copy(&reader, path, &partial.path)?;
    let report = check_copy(&partial.path, path)?;
    publish(&partial.path, to)?;
    Ok(report)
}

/// Restores a database from a backup. Its revisions continue far beyond those of the backup, so that none that was
/// given since the backup is given again. Watchers start afresh.
///
/// # Errors
/// Returns an error if the backup is damaged, the database exists already, or a file cannot be read or written.
pub fn restore(from: &Path, path: &Path) -> Result<Report, ToolError> {
    let place = reserve(path)?;
    let report = fill(from, path)?;
    place.keep();
    Ok(report)
}

fn fill(from: &Path, path: &Path) -> Result<Report, ToolError> {
    let partial = Partial::new(path)?;
    let partial = &*partial.path;
    copy(&database::open_any(from)?, from, partial)?;
    let data = |problem: String| ToolError::Data(partial.to_owned(), problem);
    let (connection, meta) = database::open(partial)?;
    let skipped = skip_revisions(&connection, meta.hasher);
    skipped.map_err(|error| data(error.to_string()))?;
    complete(partial, connection)?;
    let report = check_copy(partial, from)?;
    publish(partial, path)?;
    Ok(report)
}

/// Checks a copy of a database. Its problems are reported as those of the original.
fn check_copy(copy: &Path, from: &Path) -> Result<Report, ToolError> {
    let report = check(copy)?;
    match report.problems.first() {
        Some(problem) => Err(ToolError::Data(from.to_owned(), problem.clone())),
        None => Ok(report),
    }
}

/// The reserved path of a new database. Dropping a reservation that was not kept removes everything that it made.
pub(in crate::maintenance) struct Reservation {
    /// Given up, and its file removed, when the reservation is dropped before it is kept.
    lock: Option<Lock>,
    /// Folders that the reservation made, the outermost first.
    made: Vec<PathBuf>,
}

/// Reserves the path of a new database, if there is no database yet.
pub(in crate::maintenance) fn reserve(path: &Path) -> Result<Reservation, ToolError> {
    let home = folder(path);
    let made = make_folder(home).map_err(|error| ToolError::Io(home.to_owned(), error))?;
    let mut place = Reservation { lock: None, made };
    place.lock = Some(Lock::reserve(path)?);
    refuse_existing(path)?;
    Ok(place)
}

impl Reservation {
    /// Keeps the path: the database is there now.
    pub(in crate::maintenance) fn keep(mut self) {
        self.lock = None;
        self.made.clear();
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(lock) = self.lock.take() {
            lock.give_up();
        }
        for folder in self.made.drain(..).rev() {
            // A folder that another process uses by now is not empty, and stays.
            let _ = fs::remove_dir(folder);
        }
    }
}

/// An incomplete file, written beside its final path. It is removed when dropped, unless it was renamed or kept.
pub(super) struct Partial {
    pub(super) path: PathBuf,
    keep: bool,
}

impl Partial {
    /// Creates an empty file.
    ///
    /// # Errors
    /// Returns an error if the file cannot be created, or the complete file of a move is in its place.
    pub(super) fn new(path: &Path) -> Result<Self, ToolError> {
        if database::nameless(path).is_some() {
            return Err(OpenError::Nameless(path.to_owned()).into());
        }
        Self::anew(path)
    }

    /// Creates an empty file for a move of the data with this key, in place of a file that an earlier attempt has left.
    pub(super) fn of_move(path: &Path, hasher: KeyedHasher) -> Result<Self, ToolError> {
        let is_other = |meta: &Meta| meta.hasher.key() != hasher.key();
        if database::nameless(path).as_ref().is_some_and(is_other) {
            return Err(OpenError::Nameless(path.to_owned()).into());
        }
        Self::anew(path)
    }

    fn anew(path: &Path) -> Result<Self, ToolError> {
        let mut partial = Self::left(path);
        // Left by an earlier attempt.
        partial.remove()?;
        let made = create(&partial.path);
        made.map_err(|error| ToolError::Io(path.to_owned(), error))?;
        partial.keep = false;
        Ok(partial)
    }

    /// The file that an earlier attempt has kept.
    pub(super) fn left(path: &Path) -> Self {
        Self {
            path: database::partial(path),
            keep: true,
        }
    }

    /// Syncs the file and its folder and stops removing it on drop, so that it survives a crash and a loss of power.
    pub(super) fn keep(&mut self) -> Result<(), ToolError> {
        let settled = sync(&self.path).and_then(|()| sync(folder(&self.path)));
        settled.map_err(|error| ToolError::Io(self.path.clone(), error))?;
        self.keep = true;
        Ok(())
    }

    /// Lets the drop remove the file after all.
    pub(super) fn give_up(&mut self) {
        self.keep = false;
    }

    fn remove(&self) -> Result<(), ToolError> {
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let file = beside(&self.path, suffix);
            match fs::remove_file(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(ToolError::Io(file, error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.keep {
            // The next attempt removes files that stay.
            let _ = self.remove();
        }
    }
}

pub(super) fn refuse_existing(path: &Path) -> Result<(), ToolError> {
    // SQLite would apply a log that a crash has left to any new file of that name.
    for suffix in ["", "-wal", "-journal"] {
        let file = beside(path, suffix);
        if file.exists() {
            return Err(ToolError::Exists(file));
        }
    }
    Ok(())
}

fn copy(reader: &database::Reader, from: &Path, to: &Path) -> Result<(), ToolError> {
    let target = to.to_string_lossy();
    reader
        .connection
        .pragma_update(None, "query_only", false)
        .and_then(|()| reader.connection.execute("VACUUM INTO ?1", params![target]))
        .map_err(|error| match error.sqlite_error_code() {
            // These two are errors of the target: nothing is written to the source.
            Some(ErrorCode::DiskFull | ErrorCode::CannotOpen) => {
                ToolError::Io(to.to_owned(), io::Error::other(error))
            }
            _ => ToolError::Data(from.to_owned(), error.to_string()),
        })?;
    Ok(())
}

/// Closes a written database. Its file must be complete without a log.
pub(super) fn complete(path: &Path, connection: Connection) -> Result<(), ToolError> {
    let data = |problem: String| ToolError::Data(path.to_owned(), problem);
    database::close(connection).map_err(|error| data(error.to_string()))?;
    if beside(path, "-wal").exists() {
        return Err(data("its log (-wal) cannot be merged into it".to_owned()));
    }
    Ok(())
}

/// Renames a complete file to its final name, durably, or leaves it as it is.
pub(super) fn publish(partial: &Path, path: &Path) -> Result<(), ToolError> {
    let io = |error| ToolError::Io(path.to_owned(), error);
    sync(partial).map_err(io)?;
    fs::rename(partial, path).map_err(io)?;
    sync(folder(path)).map_err(|error| {
        // A command that failed must leave nothing that looks like its result.
        let _ = fs::rename(path, partial);
        io(error)
    })
}

fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn skip_revisions(connection: &Connection, hasher: KeyedHasher) -> rows::Result<()> {
    let sql = format!("{} ORDER BY seq DESC LIMIT 1", rows::BATCH);
    let head = {
        let mut statement = connection.prepare(&sql)?;
        let mut found = statement.query([])?;
        match found.next()? {
            Some(row) => rows::batch(hasher, row)?.head,
            None => Head::default(),
        }
    };
    let base = head.revision.saturating_add(RESTORE_GAP);
    let transaction = connection.unchecked_transaction()?;
    let batch = Commit {
        seq: head.seq + 1,
        time: head.time,
        stamp: Stamp {
            age: head.age,
            newest: None,
        },
        horizon: head.horizon,
        session_horizon: head.session_horizon,
        places: 0,
        ids: [].into(),
        forget_before: reader::oldest(connection, hasher)?,
        deletions_up_to: 0,
        changes: Changes::default(),
    };
    rows::put_batch(
        &mut transaction.prepare(rows::PUT_BATCH)?,
        hasher,
        &batch,
        base,
    )?;
    Meta::update(&transaction, |meta| {
        meta.forgotten = base;
        meta.moved_to.clear();
        meta.made_by_move.clear();
    })?;
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests;
