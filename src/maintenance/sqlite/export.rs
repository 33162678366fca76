//! Reads the whole contents of a database, to write them to another store.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::Connection;

use crate::maintenance::dump::Dump;
use crate::maintenance::report::ToolError;
use crate::store::Remembered;
use crate::store::Row;
use crate::store::sqlite::lock::Lock;
use crate::store::sqlite::meta::Meta;
use crate::store::sqlite::reader::{Snapshot, Walk};
use crate::store::sqlite::{OpenError, database, reader, rows};

/// The database that is read.
pub(in crate::maintenance) struct Source {
    path: PathBuf,
    reader: database::Reader,
    /// Held when no other process may use the database.
    _lock: Option<Lock>,
}

/// A consistent view of the database at one moment.
pub(in crate::maintenance) struct Reading<'a> {
    path: &'a Path,
    snapshot: Snapshot<'a>,
}

impl Source {
    /// Opens a database that other processes may be using.
    pub(in crate::maintenance) fn open(path: &Path) -> Result<Self, ToolError> {
        Ok(Self {
            path: path.to_owned(),
            reader: database::open_reader(path)?,
            _lock: None,
        })
    }

    /// Opens a database for this process alone. Opening it for writing first migrates it to the current format.
    pub(in crate::maintenance) fn take(path: &Path) -> Result<Self, ToolError> {
        if !path.exists() {
            return Err(OpenError::Missing(path.to_owned()).into());
        }
        let lock = Lock::take(path)?;
        drop(database::open(path)?);
        Ok(Self {
            _lock: Some(lock),
            ..Self::open(path)?
        })
    }

    /// The target that the data were moved to, if they were moved.
    pub(in crate::maintenance) fn moved_to(&self) -> Result<Option<String>, ToolError> {
        let meta = Meta::read(&self.reader.connection);
        let moved_to = meta.map_err(|error| data(&self.path, &error))?.moved_to;
        Ok(Some(moved_to).filter(|to| !to.is_empty()))
    }

    /// Marks the data as moved to `to`, so that no process changes them any more.
    pub(in crate::maintenance) fn close(self, to: &str) -> Result<(), ToolError> {
        let (connection, _) = database::open(&self.path)?;
        put_moved_to(&connection, to).map_err(|error| data(&self.path, &error))?;
        drop(self.reader);
        // The mark is committed, so it does not matter if the log cannot be merged into the file.
        let _ = database::close(connection);
        Ok(())
    }

    pub(in crate::maintenance) fn read(&mut self) -> Result<Reading<'_>, ToolError> {
        let path = &*self.path;
        let snapshot = Snapshot::of_file(&mut self.reader.connection, Err);
        Ok(Reading {
            path,
            snapshot: snapshot.map_err(|error| data(path, &error))?,
        })
    }
}

impl Reading<'_> {
    /// Reads everything but the counters.
    pub(in crate::maintenance) fn dump(&self) -> Result<Dump, ToolError> {
        self.try_dump().map_err(|error| data(self.path, &error))
    }

    fn try_dump(&self) -> rows::Result<Dump> {
        let connection = self.snapshot.connection();
        let Meta {
            hasher,
            lanes,
            forgotten,
            ..
        } = Meta::read(connection)?;
        let mut dump = Dump {
            hasher,
            lanes,
            revision: self.snapshot.revision(),
            forgotten,
            time: 0,
            horizon: 0,
            session_horizon: 0,
            packs: Vec::new(),
            sessions: Vec::new(),
        };
        reader::each_batch(connection, hasher, |batch| {
            let rows::BatchRow { head, pack } = batch?;
            (dump.time, dump.horizon) = (head.time, head.horizon);
            dump.session_horizon = head.session_horizon;
            if !pack.ids.is_empty() {
                dump.packs.push(Remembered {
                    time: pack.time,
                    newest: pack.stamp.newest,
                    base: pack.base,
                    places: u32::try_from(head.revision - pack.base).unwrap_or(u32::MAX),
                    ids: pack.ids,
                });
            }
            Ok(())
        })?;
        let mut statement = connection.prepare(&format!("{} ORDER BY id", rows::SESSION))?;
        let mut found = statement.query([])?;
        while let Some(row) = found.next()? {
            dump.sessions.push(rows::session(hasher, row)?);
        }
        Ok(dump)
    }

    /// The next counters after a name, deleted ones included, ordered by name.
    pub(in crate::maintenance) fn counters(
        &self,
        after: Option<&str>,
        count: usize,
    ) -> Result<Vec<Row>, ToolError> {
        let mut page = Vec::new();
        let walked = self
            .snapshot
            .walk(after.unwrap_or(""), Walk::All, |latest| {
                let latest = match latest {
                    Ok(latest) => latest,
                    Err(damaged) => return ControlFlow::Break(Err(damaged)),
                };
                if after == Some(latest.name) {
                    return ControlFlow::Continue(());
                }
                page.push(Row {
                    name: Arc::from(latest.name),
                    value: latest.value,
                    revision: latest.revision,
                });
                if page.len() == count {
                    return ControlFlow::Break(Ok(()));
                }
                ControlFlow::Continue(())
            });
        walked.map_err(|error| data(self.path, &error))?;
        Ok(page)
    }
}

fn put_moved_to(connection: &Connection, to: &str) -> rows::Result<()> {
    let transaction = connection.unchecked_transaction()?;
    Meta::update(&transaction, |meta| to.clone_into(&mut meta.moved_to))?;
    Ok(transaction.commit()?)
}

fn data(path: &Path, problem: &impl std::fmt::Display) -> ToolError {
    ToolError::Data(path.to_owned(), problem.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::SqliteStore;

    /// A file that is being moved is this process's alone, and it is closed for good once it was moved.
    #[test]
    fn a_file_that_was_moved_is_closed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sumd.db");
        let serve = || SqliteStore::open(&path, 1 << 20).map(drop);
        serve().expect("a new database");
        let source = Source::take(&path).expect("it is free");
        assert_eq!(source.moved_to().expect("it is whole"), None);
        assert!(matches!(serve(), Err(OpenError::InUse(_))));
        source.close("etcd://there").expect("it is moved");
        let source = Source::take(&path).expect("it is free");
        let moved_to = source.moved_to().expect("it is whole");
        assert_eq!(moved_to.as_deref(), Some("etcd://there"));
        drop(source);
        assert!(matches!(serve(), Err(OpenError::Migrated { .. })));
    }
}
