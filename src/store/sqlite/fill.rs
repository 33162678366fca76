//! Writes what another store held to a new database.

use std::fs::File;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};

use super::rows::{self, Error};
use super::tools::{publish, refuse_existing, remove};
use super::{beside, check, folder, lock, make_folder, schema};
use crate::model::{Changes, Commit, Digests, Stamp};
use crate::store::Row;
use crate::store::dump::Dump;
use crate::store::tools::ToolError;

/// A database that is being written, which has its name once it is complete.
pub(in crate::store) struct Filling {
    path: PathBuf,
    partial: PathBuf,
    connection: Connection,
    digests: Digests,
    /// Where it is to be served, so that nobody begins another in its place.
    _lock: Option<File>,
}

/// Takes the place of a database that is to be made, where there is none.
pub(in crate::store) fn reserve(path: &Path) -> Result<File, ToolError> {
    if let Some(folder) = folder(path) {
        make_folder(folder).map_err(|error| ToolError::Io(folder.to_owned(), error))?;
    }
    let lock = lock(path)?;
    refuse_existing(path)?;
    Ok(lock)
}

impl Filling {
    /// Begins a file that is a backup.
    pub(in crate::store) fn backup(path: &Path, dump: &Dump) -> Result<Self, ToolError> {
        Self::begin(path, dump, None)
    }

    /// Begins a database that is to be served, in a place that is [reserved](reserve).
    pub(in crate::store) fn database(
        path: &Path,
        lock: File,
        dump: &Dump,
    ) -> Result<Self, ToolError> {
        Self::begin(path, dump, Some(lock))
    }

    fn begin(path: &Path, dump: &Dump, lock: Option<File>) -> Result<Self, ToolError> {
        refuse_existing(path)?;
        let partial = beside(path, ".partial");
        remove(&partial)?;
        let (connection, _) = schema::open(&partial)?;
        let filling = Self {
            path: path.to_owned(),
            digests: dump.digests,
            partial,
            connection,
            _lock: lock,
        };
        filling.done(filling.put_dump(dump))?;
        Ok(filling)
    }

    fn put_dump(&self, dump: &Dump) -> rows::Result<()> {
        let connection = &self.connection;
        // It is synced as a whole, before it has its name.
        connection.pragma_update(None, "synchronous", "OFF")?;
        let transaction = connection.unchecked_transaction()?;
        let mut meta = transaction.prepare("UPDATE meta SET value = ?2 WHERE name = ?1")?;
        meta.execute(params!["key", self.digests.key()])?;
        meta.execute(params!["lanes", dump.lanes])?;
        meta.execute(params!["forgotten", dump.forgotten])?;
        let mut put = transaction.prepare(rows::PUT_BATCH)?;
        let mut batch = Commit {
            seq: 0,
            time: 0,
            stamp: Stamp::of_time(0),
            horizon: dump.horizon,
            session_horizon: dump.session_horizon,
            places: 0,
            ids: [].into(),
            forget_before: 1,
            deletions_up_to: 0,
            changes: Changes::default(),
        };
        for pack in &dump.packs {
            batch.seq += 1;
            // Lanes have each their own time. What is remembered for longer than need be does no harm.
            batch.time = batch.time.max(pack.time);
            (batch.places, batch.ids) = (pack.places, pack.ids.clone());
            // The ages of lanes elsewhere are none of this one's: what is remembered is as young as its first batch here.
            batch.stamp = Stamp {
                age: Some(0),
                newest: pack.newest,
            };
            rows::put_batch(&mut put, self.digests, &batch, pack.base)?;
        }
        let head = Commit {
            seq: batch.seq + 1,
            time: batch.time.max(dump.time),
            stamp: Stamp {
                age: Some(0),
                newest: None,
            },
            places: 0,
            ids: [].into(),
            ..batch
        };
        rows::put_batch(&mut put, self.digests, &head, dump.revision)?;
        meta.execute(params!["folded", head.seq.cast_signed()])?;
        drop((meta, put));
        let mut put = transaction.prepare(rows::PUT_SESSION)?;
        for (id, session) in &dump.sessions {
            rows::put_session(&mut put, self.digests, id, &session.encode())?;
        }
        drop(put);
        Ok(transaction.commit()?)
    }

    /// Writes the next counters, those that were deleted too.
    pub(in crate::store) fn counters(&self, rows: &[Row]) -> Result<(), ToolError> {
        self.done(self.put_counters(rows))
    }

    fn put_counters(&self, rows: &[Row]) -> rows::Result<()> {
        let transaction = self.connection.unchecked_transaction()?;
        let mut put = transaction.prepare_cached(rows::PUT_COUNTER)?;
        let mut put_deleted = transaction.prepare_cached(rows::PUT_DELETED)?;
        for Row {
            name,
            value,
            revision,
        } in rows
        {
            match value {
                Some(value) => rows::put_counter(&mut put, self.digests, (name, *value, *revision)),
                None => rows::put_deleted(&mut put_deleted, self.digests, (name, *revision)),
            }?;
        }
        drop((put, put_deleted));
        Ok(transaction.commit()?)
    }

    /// All of it is written: gives it its name, once `check` has looked at the file.
    pub(in crate::store) fn publish(
        self,
        check_also: impl FnOnce(&Path) -> Result<(), ToolError>,
    ) -> Result<(), ToolError> {
        let Self {
            path,
            partial,
            connection,
            ..
        } = self;
        let damaged = |problem: String| ToolError::Data(partial.clone(), problem);
        let closed = connection.close();
        closed.map_err(|(_, error)| damaged(error.to_string()))?;
        if beside(&partial, "-wal").exists() {
            return Err(damaged("its log cannot be copied into it".to_owned()));
        }
        let report = check(&partial)?;
        if let Some(problem) = report.problems.into_iter().next() {
            return Err(damaged(problem));
        }
        check_also(&partial)?;
        publish(&partial, &path)
    }

    fn done(&self, written: Result<(), Error>) -> Result<(), ToolError> {
        written.map_err(|error| ToolError::Data(self.partial.clone(), error.to_string()))
    }
}
