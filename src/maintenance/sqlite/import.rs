//! Writes the contents of another store to a new database.

use std::path::{Path, PathBuf};

use rusqlite::Connection;
use uuid::Uuid;

use crate::maintenance::dump::Dump;
use crate::maintenance::report::{Report, ToolError};
use crate::maintenance::sqlite::{
    Partial, Reservation, check, complete, publish, refuse_existing, reserve,
};
use crate::model::{Changes, Commit, KeyedHasher, Stamp};
use crate::store::Row;
use crate::store::sqlite::database;
use crate::store::sqlite::meta::Meta;
use crate::store::sqlite::rows::{self, Error};

/// A database that is being written. It gets its name once it is complete.
pub(in crate::maintenance) struct Filling {
    path: PathBuf,
    connection: Connection,
    hasher: KeyedHasher,
    /// Removed once the connection is closed, unless it was published or kept.
    partial: Partial,
    /// The reservation of the path that the database will be served from, which keeps others from creating one there.
    place: Option<Reservation>,
}

impl Filling {
    /// Begins a backup file.
    pub(in crate::maintenance) fn backup(path: &Path, dump: &Dump) -> Result<Self, ToolError> {
        Self::begin(path, dump, None)
    }

    /// Begins a database that will be served, at a [reserved](reserve) path.
    pub(in crate::maintenance) fn database(
        path: &Path,
        place: Reservation,
        dump: &Dump,
    ) -> Result<Self, ToolError> {
        Self::begin(path, dump, Some(place))
    }

    fn begin(path: &Path, dump: &Dump, place: Option<Reservation>) -> Result<Self, ToolError> {
        refuse_existing(path)?;
        let partial = match place {
            Some(_) => Partial::of_move(path, dump.hasher)?,
            None => Partial::new(path)?,
        };
        let (connection, _) = database::open(&partial.path)?;
        let filling = Self {
            path: path.to_owned(),
            hasher: dump.hasher,
            partial,
            connection,
            place,
        };
        filling.done(filling.put_dump(dump))?;
        Ok(filling)
    }

    fn put_dump(&self, dump: &Dump) -> rows::Result<()> {
        let connection = &self.connection;
        // The file is synced as a whole before it gets its name.
        connection.pragma_update(None, "synchronous", "OFF")?;
        let transaction = connection.unchecked_transaction()?;
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
            // Each lane has its own time. A later time keeps ids longer than needed, which does no harm.
            batch.time = batch.time.max(pack.time);
            (batch.places, batch.ids) = (pack.places, pack.ids.clone());
            // Ages of other lanes mean nothing here: all ids are as old as the first batch of this store.
            batch.stamp = Stamp {
                age: Some(0),
                newest: pack.newest,
            };
            rows::put_batch(&mut put, self.hasher, &batch, pack.base)?;
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
        rows::put_batch(&mut put, self.hasher, &head, dump.revision)?;
        drop(put);
        let meta = Meta {
            hasher: self.hasher,
            folded: head.seq,
            forgotten: dump.forgotten,
            lanes: dump.lanes,
            moved_to: String::new(),
            made_by_move: Vec::new(),
        };
        meta.write(&transaction)?;
        let mut put = transaction.prepare(rows::PUT_SESSION)?;
        for (id, session) in &dump.sessions {
            rows::put_session(&mut put, self.hasher, id, &session.encode())?;
        }
        drop(put);
        Ok(transaction.commit()?)
    }

    /// Writes the next counters, deleted ones included.
    pub(in crate::maintenance) fn counters(&self, rows: &[Row]) -> Result<(), ToolError> {
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
                Some(value) => rows::put_counter(&mut put, self.hasher, (name, *value, *revision)),
                None => rows::put_deleted(&mut put_deleted, self.hasher, (name, *revision)),
            }?;
        }
        drop((put, put_deleted));
        Ok(transaction.commit()?)
    }

    /// Completes the file after its last row, checks it, also with `check_also`, and returns it with the report of the
    /// check.
    pub(in crate::maintenance) fn complete(
        self,
        check_also: impl FnOnce(&Path) -> Result<(), ToolError>,
    ) -> Result<(Written, Report), ToolError> {
        if self.place.is_some() {
            self.done(self.put_id())?;
        }
        complete(&self.partial.path, self.connection)?;
        let file = &*self.partial.path;
        let report = check(file)?;
        if let Some(problem) = report.problems.first() {
            return Err(ToolError::Data(file.to_owned(), problem.clone()));
        }
        check_also(file)?;
        let written = Written {
            path: self.path,
            partial: self.partial,
            place: self.place,
        };
        Ok((written, report))
    }

    /// Gives the file its id. A file with an id is complete.
    fn put_id(&self) -> rows::Result<()> {
        let transaction = self.connection.unchecked_transaction()?;
        let id = Uuid::new_v4().into_bytes();
        Meta::update(&transaction, |meta| meta.made_by_move = id.into())?;
        Ok(transaction.commit()?)
    }

    fn done(&self, written: Result<(), Error>) -> Result<(), ToolError> {
        written.map_err(|error| ToolError::Data(self.partial.path.clone(), error.to_string()))
    }
}

/// A complete database that has no name yet. It is removed when dropped, unless it was kept.
pub(in crate::maintenance) struct Written {
    path: PathBuf,
    partial: Partial,
    place: Option<Reservation>,
}

impl Written {
    /// The complete file that an interrupted move with this id has kept, if there is one.
    ///
    /// # Errors
    /// Returns an error if the file is there and its final path is not free.
    pub(in crate::maintenance) fn find(path: &Path, id: &[u8]) -> Result<Option<Self>, ToolError> {
        if database::nameless(path).is_none_or(|meta| meta.made_by_move != id) {
            return Ok(None);
        }
        let partial = Partial::left(path);
        let place = reserve(path).map_err(|error| match error {
            ToolError::Exists(other) => ToolError::Refused(format!(
                "the move is complete, and its file is {}, which does not have its name yet: {} is another file, and \
                 is in the way. Move that one away, and run the same move again",
                partial.path.display(),
                other.display()
            )),
            error => error,
        })?;
        Ok(Some(Self {
            path: path.to_owned(),
            partial,
            place: Some(place),
        }))
    }

    /// The id of the move that made the file; no other file has it.
    pub(in crate::maintenance) fn id(&self) -> Result<Vec<u8>, ToolError> {
        let file = self.file();
        let connection = database::open_reader(file)?.connection;
        let meta = Meta::read(&connection);
        let meta = meta.map_err(|error| ToolError::Data(file.to_owned(), error.to_string()))?;
        Ok(meta.made_by_move)
    }

    /// The file's path until it is published.
    pub(in crate::maintenance) fn file(&self) -> &Path {
        &self.partial.path
    }

    /// Keeps the file at its present path from now on, until it is published or given up.
    pub(in crate::maintenance) fn keep(&mut self) -> Result<(), ToolError> {
        self.partial.keep()
    }

    /// Removes the file.
    pub(in crate::maintenance) fn give_up(mut self) {
        self.partial.give_up();
    }

    /// Renames the file to its final name.
    pub(in crate::maintenance) fn publish(mut self) -> Result<(), ToolError> {
        publish(&self.partial.path, &self.path)?;
        // Remove the files that SQLite has created beside it.
        self.partial.give_up();
        if let Some(place) = self.place {
            place.keep();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maintenance::sqlite::export::Source;
    use crate::model::{self, Session};
    use crate::store::Remembered;
    use crate::store::sqlite::reader;

    /// A session with messages 2 and 3 remembered.
    fn session() -> Session {
        let mut row = vec![2, 6, 3, 1, 2];
        for message in [2, 1] {
            row.extend([message, 1, 7, 7, 7, 7, 7, 7, 7, 7]);
        }
        Session::decode(&row).expect("a session")
    }

    fn dump() -> Dump {
        let pack = |number: i64, newest| Remembered {
            time: 1000 + number,
            newest,
            base: 10 * number,
            places: 7,
            ids: model::pack(&[(number.cast_unsigned(), 1)]).into(),
        };
        Dump {
            hasher: KeyedHasher::new([7; 16]),
            lanes: 8,
            revision: 100,
            forgotten: 30,
            time: 2000,
            horizon: 500,
            session_horizon: 600,
            packs: vec![pack(1, None), pack(2, Some(900)), pack(3, None)],
            sessions: vec![("meter-7".into(), session())],
        }
    }

    /// The contents are read as they were written, so that another move or backup of the file gives the same.
    #[test]
    fn a_dump_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("copy.db");
        let dump = dump();
        let filling = Filling::backup(&path, &dump).expect("a new file");
        let row = |at: usize, value| Row {
            name: format!("group/{at}").into(),
            value,
            revision: 20,
        };
        let rows = [row(1, Some(5)), row(2, None), row(3, Some(-5))];
        filling.counters(&rows).expect("it is well");
        let mut source = Source::open(&filling.partial.path).expect("a database");
        let reading = source.read().expect("it is well");
        let read = reading.dump().expect("it is well");
        assert_eq!(format!("{read:?}"), format!("{dump:?}"));
        let first = reading.counters(None, 2).expect("it is well");
        assert_eq!(first, rows[..2]);
        let last = reading.counters(Some("group/2"), 2).expect("it is well");
        assert_eq!(last, rows[2..]);
    }

    /// A move finds the file that it has written and kept, and no other move does. A file that was not kept is removed.
    #[test]
    fn a_move_finds_the_file_that_it_has_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sumd.db");
        for is_kept in [false, true] {
            let place = reserve(&path).expect("there is room");
            let filling = Filling::database(&path, place, &dump()).expect("a new file");
            let (mut written, report) = filling.complete(|_| Ok(())).expect("it is well");
            assert_eq!(report.sessions, 1);
            let id = written.id().expect("it has one");
            if is_kept {
                written.keep().expect("it is on the disk");
            }
            let file = written.file().to_owned();
            drop(written);
            assert_eq!(file.exists(), is_kept);
            let found = Written::find(&path, &[1; 16]).expect("the place is free");
            assert!(found.is_none(), "of another move");
            let found = Written::find(&path, &id).expect("the place is free");
            assert_eq!(found.is_some(), is_kept);
            if let Some(found) = found {
                found.publish().expect("its place is free");
                assert!(path.exists() && !file.exists());
            }
        }
    }

    /// A file that was kept goes when it is given up. One that has its name has everything, and no other files beside it.
    #[test]
    fn a_file_is_whole_once_it_has_its_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sumd.db");
        let write = || {
            let place = reserve(&path).expect("there is room");
            let filling = Filling::database(&path, place, &dump()).expect("a new file");
            let (mut written, _) = filling.complete(|_| Ok(())).expect("it is well");
            written.keep().expect("it is on the disk");
            written
        };
        let files = || {
            let files = std::fs::read_dir(&folder).expect("a folder");
            let mut names: Vec<_> = files
                .map(|file| file.expect("a file").file_name())
                .collect();
            names.sort_unstable();
            names
        };
        write().give_up();
        assert_eq!(files(), [""; 0]);
        write().publish().expect("its place is free");
        assert_eq!(files(), ["sumd.db", "sumd.db-lock"]);
        let mut source = Source::open(&path).expect("a database");
        let read = source.read().and_then(|reading| reading.dump());
        let read = read.expect("it is well");
        assert_eq!(format!("{read:?}"), format!("{:?}", dump()));
    }

    /// Counters that cannot be written are told: a backup has no second look at them.
    #[test]
    fn a_write_that_fails_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("copy.db");
        let filling = Filling::backup(&path, &dump()).expect("a new file");
        let gone = filling.connection.execute_batch("DROP TABLE counter");
        gone.expect("SQL");
        let told = filling.counters(&[]);
        assert!(matches!(told, Err(ToolError::Data(..))), "{told:?}");
    }

    /// The lane of a new file is as young as can be, also if nothing is remembered.
    #[test]
    fn a_new_lane_has_an_age() {
        let folder = tempfile::tempdir().expect("a folder");
        for packs in [Vec::new(), dump().packs] {
            let path = folder.path().join(format!("{}.db", packs.len()));
            let dump = Dump { packs, ..dump() };
            let filling = Filling::backup(&path, &dump).expect("a new file");
            let loaded = reader::load(&mut { filling.connection }, dump.hasher);
            let head = loaded.expect("it is well").head;
            assert_eq!((head.age, head.time), (Some(0), 2000));
        }
    }
}
