//! Backup, restore and check: on a database file, also while a server uses it.

pub(super) mod export;
mod horizon;
pub(super) mod import;

pub use horizon::reset_horizon;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, params};

use crate::maintenance::report::{Answers, RESTORE_GAP, Report, Times, ToolError};
use crate::model::{Changes, Commit, Head, KeyedHasher, PackEntry, Stamp};
use crate::store::sqlite::lock::{Lock, create, folder, make_folder};
use crate::store::sqlite::meta::Meta;
use crate::store::sqlite::paths::beside;
use crate::store::sqlite::reader::{Snapshot, Walk};
use crate::store::sqlite::rows::{self, Error};
use crate::store::sqlite::{OpenError, reader, schema};

/// Copies a database, as it is at one moment, to a new file. The copy is checked before it has its name; the report is of it.
///
/// # Errors
/// Returns an error if the target is there already, either cannot be used, or the database is damaged. Nothing is left under
/// the target's name then.
pub fn backup(path: &Path, to: &Path) -> Result<Report, ToolError> {
    refuse_existing(to)?;
    let reader = schema::open_reader(path)?;
    let partial = Partial::new(to)?;
    copy(&reader, path, &partial.path)?;
    let report = check_copy(&partial.path, path)?;
    publish(&partial.path, to)?;
    Ok(report)
}

/// Makes a database of a backup. Revisions go on far beyond the backup's, so that those given since are not given
/// again, and watchers start afresh.
///
/// # Errors
/// Where the backup is damaged, or there is a database already.
pub fn restore(from: &Path, path: &Path) -> Result<Report, ToolError> {
    let place = reserve(path)?;
    let report = fill(from, path)?;
    place.keep();
    Ok(report)
}

fn fill(from: &Path, path: &Path) -> Result<Report, ToolError> {
    let partial = Partial::new(path)?;
    let partial = &*partial.path;
    copy(&schema::open_any(from)?, from, partial)?;
    let data = |problem: String| ToolError::Data(partial.to_owned(), problem);
    let (connection, meta) = schema::open(partial)?;
    let skipped = skip_revisions(&connection, meta.hasher);
    skipped.map_err(|error| data(error.to_string()))?;
    complete(partial, connection)?;
    let report = check_copy(partial, from)?;
    publish(partial, path)?;
    Ok(report)
}

/// Checks a copy of a database: damage of the one is damage of the other.
fn check_copy(copy: &Path, from: &Path) -> Result<Report, ToolError> {
    let report = check(copy)?;
    match report.problems.first() {
        Some(problem) => Err(ToolError::Data(from.to_owned(), problem.clone())),
        None => Ok(report),
    }
}

/// A place for a new database. It is left as it was found, unless it is kept.
pub(in crate::maintenance) struct Reservation {
    /// Taken away once it is used up.
    lock: Option<Lock>,
    /// Folders that were made for it, the outermost first.
    made: Vec<PathBuf>,
}

/// Takes the place of a database that is to be made, if there is none.
pub(in crate::maintenance) fn reserve(path: &Path) -> Result<Reservation, ToolError> {
    let home = folder(path);
    let made = make_folder(home).map_err(|error| ToolError::Io(home.to_owned(), error))?;
    let mut place = Reservation { lock: None, made };
    place.lock = Some(Lock::reserve(path)?);
    refuse_existing(path)?;
    Ok(place)
}

impl Reservation {
    /// There is a database now.
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
            // One that somebody else uses by now is not empty, and stays.
            let _ = fs::remove_dir(folder);
        }
    }
}

/// A file that is being written, beside the one that it becomes. Nothing is left of it unless it does, or is kept.
pub(super) struct Partial {
    pub(super) path: PathBuf,
    keep: bool,
}

impl Partial {
    /// Makes an empty one.
    ///
    /// # Errors
    /// Returns an error if it cannot be made, or what a move has made is in its place.
    pub(super) fn new(path: &Path) -> Result<Self, ToolError> {
        if schema::nameless(path).is_some() {
            return Err(OpenError::Nameless(path.to_owned()).into());
        }
        Self::anew(path)
    }

    /// Makes an empty one for a move of the data with these digests, in the place of what an earlier attempt has left.
    pub(super) fn of_move(path: &Path, hasher: KeyedHasher) -> Result<Self, ToolError> {
        let is_other = |meta: &Meta| meta.hasher.key() != hasher.key();
        if schema::nameless(path).as_ref().is_some_and(is_other) {
            return Err(OpenError::Nameless(path.to_owned()).into());
        }
        Self::anew(path)
    }

    fn anew(path: &Path) -> Result<Self, ToolError> {
        let mut partial = Self::left(path);
        // The rest of an earlier attempt.
        partial.remove()?;
        let made = create(&partial.path);
        made.map_err(|error| ToolError::Io(path.to_owned(), error))?;
        partial.keep = false;
        Ok(partial)
    }

    /// The one that was kept.
    pub(super) fn left(path: &Path) -> Self {
        Self {
            path: schema::partial(path),
            keep: true,
        }
    }

    /// Keeps it, whatever becomes of this process, or of the machine's power.
    pub(super) fn keep(&mut self) -> Result<(), ToolError> {
        let settled = sync(&self.path).and_then(|()| sync(folder(&self.path)));
        settled.map_err(|error| ToolError::Io(self.path.clone(), error))?;
        self.keep = true;
        Ok(())
    }

    /// Removes what there is of it once it is dropped.
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
            // The next attempt removes what stays.
            let _ = self.remove();
        }
    }
}

pub(super) fn refuse_existing(path: &Path) -> Result<(), ToolError> {
    // A log that a crash has left would be taken for that of whatever file has its name.
    for suffix in ["", "-wal", "-journal"] {
        let file = beside(path, suffix);
        if file.exists() {
            return Err(ToolError::Exists(file));
        }
    }
    Ok(())
}

fn copy(reader: &schema::Reader, from: &Path, to: &Path) -> Result<(), ToolError> {
    let target = to.to_string_lossy();
    reader
        .connection
        .pragma_update(None, "query_only", false)
        .and_then(|()| reader.connection.execute("VACUUM INTO ?1", params![target]))
        .map_err(|error| match error.sqlite_error_code() {
            // Nothing is written to the source.
            Some(ErrorCode::DiskFull | ErrorCode::CannotOpen) => {
                ToolError::Io(to.to_owned(), io::Error::other(error))
            }
            _ => ToolError::Data(from.to_owned(), error.to_string()),
        })?;
    Ok(())
}

/// Closes a database that is written, which is complete without its log.
pub(super) fn complete(path: &Path, connection: Connection) -> Result<(), ToolError> {
    let data = |problem: String| ToolError::Data(path.to_owned(), problem);
    schema::close(connection).map_err(|error| data(error.to_string()))?;
    if beside(path, "-wal").exists() {
        return Err(data("its log cannot be copied into it".to_owned()));
    }
    Ok(())
}

/// Gives a file that is complete its name, durably, or leaves it as it is.
pub(super) fn publish(partial: &Path, path: &Path) -> Result<(), ToolError> {
    let io = |error| ToolError::Io(path.to_owned(), error);
    sync(partial).map_err(io)?;
    fs::rename(partial, path).map_err(io)?;
    sync(folder(path)).map_err(|error| {
        // A command that has failed leaves nothing that looks like its result.
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

/// Looks at everything in a database: its pages, every row's check sum, and whether counters, batches and remembered ids
/// fit together.
///
/// # Errors
/// Where it cannot be opened. What is wrong inside is in the report.
pub fn check(path: &Path) -> Result<Report, ToolError> {
    let mut reader = schema::open_reader(path)?;
    let mut report = Report::default();
    if let Err(error) = check_all(&mut reader.connection, &mut report) {
        report.problems.push(error.to_string());
    }
    Ok(report)
}

fn check_all(connection: &mut Connection, report: &mut Report) -> rows::Result<()> {
    let problems = &mut report.problems;
    let snapshot = Snapshot::of_file(connection, |damage| {
        note(Err::<(), _>(damage), problems);
        Ok(())
    })?;
    let connection = snapshot.connection();
    let hasher = Meta::read(connection)?.hasher;
    let mut statement = connection.prepare("PRAGMA integrity_check(20)")?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let line: String = row.get(0)?;
        if line != "ok" {
            report.problems.push(line);
        }
    }
    report.revision = snapshot.revision();
    let answers = check_batches(connection, hasher, report)?;
    // Batches are read twice, for what they have changed and for their ids.
    let mut told = HashSet::new();
    let problems = &mut report.problems;
    problems.retain(|problem| told.insert(problem.clone()));
    check_counters(&snapshot, &answers, report)?;
    let mut statement = connection.prepare(rows::SESSION)?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        if let Some((_, session)) = note(rows::session(hasher, row), &mut report.problems) {
            report.times.take(Times {
                session: session.used(),
                ..Times::default()
            });
        }
        report.sessions += 1;
    }
    Ok(())
}

/// The times of day that a batch has.
pub(super) fn times(batch: &rows::BatchRow) -> Times {
    let rows::BatchRow { head, pack } = batch;
    Times {
        last: head.time,
        id_horizon: head.horizon,
        session_horizon: head.session_horizon,
        id: pack.stamp.newest.unwrap_or(0),
        session: 0,
    }
}

fn note<T>(row: rows::Result<T>, problems: &mut Vec<String>) -> Option<T> {
    row.map_err(|error: Error| problems.push(error.to_string()))
        .ok()
}

/// Checks what is remembered; gives what each revision was answered.
fn check_batches(
    connection: &Connection,
    hasher: KeyedHasher,
    report: &mut Report,
) -> rows::Result<Answers> {
    let mut answers = Answers::new();
    let mut ids = HashSet::new();
    let (mut revision, mut time) = (0, i64::MIN);
    reader::each_batch(connection, hasher, |batch| {
        let Some(batch) = note(batch, &mut report.problems) else {
            return Ok(());
        };
        let (seq, head) = (batch.pack.seq, batch.head);
        if batch.pack.base < revision || head.time < time {
            let problem = format!("batch {seq} goes back behind the one before it");
            report.problems.push(problem);
        }
        (revision, time) = (head.revision, head.time);
        report.times.take(times(&batch));
        let entries = PackEntry::read_all(&batch.pack.ids);
        let entries = entries.map_err(|error| Error::Corrupt(format!("batch {seq}: {error}")));
        for entry in note(entries, &mut report.problems).unwrap_or_default() {
            let at = batch.pack.base + i64::from(entry.place);
            if at > head.revision || !ids.insert(entry.digest) {
                let problem = format!("batch {seq} has an id twice, or out of place");
                report.problems.push(problem);
            }
            answers.insert(at, entry.done);
        }
        Ok(())
    })?;
    report.ids = ids.len() as u64;
    Ok(answers)
}

/// Checks the counters, each against what the operation that changed it last was answered.
fn check_counters(
    snapshot: &Snapshot<'_>,
    answers: &Answers,
    report: &mut Report,
) -> rows::Result<()> {
    snapshot.walk("", Walk::All, |latest| {
        if let Some(latest) = note(latest, &mut report.problems) {
            report.take(answers, latest.name, latest.value, latest.revision);
        }
        ControlFlow::Continue(())
    })
}

#[cfg(test)]
mod tests;
