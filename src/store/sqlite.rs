//! Counters in an SQLite database: one writer, and reader threads beside it.
//!
//! Each batch is one transaction in WAL mode with `synchronous=FULL`, hence one fdatasync. After it the batch is
//! durable; before it no reader sees the batch. Every row has a check sum, so a damaged file is an error and not a
//! wrong answer.

mod checkpoint;
pub(crate) mod database;
pub(crate) mod lock;
mod log;
pub(crate) mod meta;
mod open_error;
pub(crate) mod paths;
pub(crate) mod reader;
mod readers;
pub(crate) mod rows;
mod schema;
mod upkeep;
mod writer;

pub use lock::DATABASE;
pub use open_error::OpenError;
pub use upkeep::Condition;

use std::panic::resume_unwind;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::watch;

use super::{
    After, Capabilities, ChangeFeed, Committed, LaneNumber, Loaded, Page, Reply, Rows, Scan,
    SessionRows, Store, StoreError, Sum,
};
use crate::model::{Commit, KeyedHasher, SessionId};
use crate::store::memtable::{Current, Memtable};
use lock::{Lock, folder, make_folder};
use meta::Meta;
use reader::{Snapshot, unread};
use readers::{Gate, Readers, gone};
use upkeep::{Shared, Upkeep};
use writer::{NotCommitted, Writer};

/// Threads that read counters by name. Each waits for the disk if the pages are not in memory.
const POINT_READERS: usize = 2;
/// Threads that scan, which may take seconds.
const SCAN_READERS: usize = 2;
/// Bytes of a batch, whose callers wait until all of it is on disk.
const BATCH_BYTES: usize = 768 << 10;

/// Time that a start spends on counting its counters.
const COUNTING_TIME: Duration = Duration::from_millis(20);

/// A database that this process owns exclusively.
pub struct SqliteStore {
    hasher: KeyedHasher,
    /// The data found when it was opened.
    found: Found,
    shared: Arc<Shared>,
    current: Current,
    changes: ChangeFeed,
    /// The first result of `load`, until a lane takes it.
    loaded: Mutex<Option<Loaded>>,
    /// `None` once the store closes, as are the two below.
    points: Option<Readers>,
    scans: Option<Readers>,
    upkeep: Option<Upkeep>,
    /// Held while the database is open.
    _lock: Arc<Lock>,
}

/// The data that a database had when it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// None: it is new or was never written to.
    Nothing,
    /// This number of counters.
    Counters(i64),
    /// Some. They cannot be counted at once, or a row is damaged.
    Many,
}

impl SqliteStore {
    /// Opens a database, which is created if there is none. Counters whose rows are not up to date take up to twice
    /// `recent_bytes` of memory.
    ///
    /// # Errors
    /// Returns an error if the database belongs to another process, another program or a newer version, if its data
    /// were moved, or if it is damaged or cannot be read.
    pub fn open(path: &Path, recent_bytes: usize) -> Result<Self, OpenError> {
        let home = folder(path);
        make_folder(home).map_err(|error| OpenError::Folder(home.to_owned(), error))?;
        let mut lock = Lock::take(path)?;
        let (connection, meta) = database::open(path)?;
        if !meta.moved_to.is_empty() {
            let (path, to) = (path.to_owned(), meta.moved_to);
            return Err(OpenError::Migrated { path, to });
        }
        let sqlite = |error| OpenError::Sqlite(path.to_owned(), error);
        let failed = |error| OpenError::unreadable(path, error);
        if !meta.made_by_move.is_empty() {
            // From now on the file may hold more than the move has put into it.
            let transaction = connection.unchecked_transaction().map_err(sqlite)?;
            Meta::update(&transaction, |meta| meta.made_by_move.clear()).map_err(failed)?;
            transaction.commit().map_err(sqlite)?;
        }
        let hasher = meta.hasher;
        // The WAL of an earlier run may be long. It is durable, so it may stay if a backup is in the way.
        database::truncate_log(&connection).map_err(sqlite)?;
        // Both may take long after a crash.
        let mut reader = database::open_reader(path)?.connection;
        let (writer, loaded) = thread::scope(|scope| {
            let loaded = scope.spawn(|| reader::load(&mut reader, hasher));
            let writer = Writer::new(connection, hasher, Memtable::new(recent_bytes));
            let loaded = loaded.join();
            (writer, loaded.unwrap_or_else(|panic| resume_unwind(panic)))
        });
        let (writer, loaded) = (writer.map_err(failed)?, loaded.map_err(failed)?);
        let current = writer.current().clone();
        let found = count(&mut reader, hasher, &current, loaded.head.seq);
        let shared = Arc::new(Shared::new(writer));
        let gate = Gate::default();
        let points = Readers::start(path, "point", POINT_READERS, None)?;
        let scans = Readers::start(path, "scan", SCAN_READERS, Some(&gate))?;
        // All files exist by now, and stay while they are open.
        lock.watch("-wal");
        lock.watch("-shm");
        let lock = Arc::new(lock);
        let upkeep = Upkeep::start(shared.clone(), gate, lock.clone())?;
        Ok(Self {
            hasher,
            found,
            shared,
            current,
            changes: ChangeFeed::new(loaded.head.revision),
            loaded: Mutex::new(Some(loaded)),
            points: Some(points),
            scans: Some(scans),
            upkeep: Some(upkeep),
            _lock: lock,
        })
    }

    /// The data found when the database was opened.
    #[must_use]
    pub fn found(&self) -> Found {
        self.found
    }

    /// Whether the store takes commits, from now on.
    #[must_use]
    pub fn condition(&self) -> watch::Receiver<Condition> {
        self.shared.condition()
    }

    fn write(&self, batch: &Commit) -> Result<i64, StoreError> {
        let mut writer = self.shared.writer();
        let at_work = writer.as_mut().ok_or_else(gone)?;
        match at_work.commit(batch) {
            Ok(base) => {
                let end = base + i64::from(batch.places);
                let counters = batch.changes.counters.clone();
                self.changes.publish(counters, base, end);
                if at_work.log_is_long()
                    && let Some(upkeep) = &self.upkeep
                {
                    upkeep.log_is_long();
                }
                self.shared.set_full(false);
                Ok(base)
            }
            Err(NotCommitted::Full) => {
                self.shared.set_full(true);
                Err(StoreError::Full("the server's disk is full".into()))
            }
            Err(NotCommitted::Failed(error)) => {
                *writer = None;
                Err(error.into())
            }
        }
    }
}

/// The number of counters, if it is known within [`COUNTING_TIME`].
fn count(connection: &mut Connection, hasher: KeyedHasher, current: &Current, seq: u64) -> Found {
    if seq == 0 {
        return Found::Nothing;
    }
    let began = Instant::now();
    let counted = Snapshot::take(connection, hasher, current)
        .and_then(|snapshot| snapshot.sum("", &|| began.elapsed() > COUNTING_TIME));
    // A damaged row is reported when it is asked for.
    counted.map_or(Found::Many, |all| Found::Counters(all.count))
}

impl Store for SqliteStore {
    fn hasher(&self) -> KeyedHasher {
        self.hasher
    }

    /// One lane, since there is one writer and one disk.
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            is_shared: false,
            lanes: 1,
            batch_bytes: BATCH_BYTES,
        }
    }

    fn load(&self, _lane: LaneNumber) -> Reply<Loaded> {
        let first = self.loaded.lock().ok().and_then(|mut loaded| loaded.take());
        if let Some(loaded) = first {
            return Box::pin(std::future::ready(Ok(loaded)));
        }
        let hasher = self.hasher;
        ask(self.scans.as_ref(), move |connection, _| {
            reader::load(connection, hasher)
        })
    }

    /// Writes on the calling thread, which waits for the disk. A lane has a thread to itself, and handing a batch to
    /// another thread would cost more than some batches take.
    fn commit(&self, _lane: LaneNumber, batch: Arc<Commit>) -> Reply<Committed> {
        let result = self.write(&batch).map(Committed::alone);
        Box::pin(std::future::ready(result))
    }

    /// Nothing: no other process can commit.
    fn after(&self, _lane: LaneNumber, _seq: u64) -> Reply<After> {
        Box::pin(std::future::ready(Ok(After::Batches(Vec::new()))))
    }

    fn session(&self, id: SessionId) -> Reply<SessionRows> {
        let hasher = self.hasher;
        ask(self.points.as_ref(), move |connection, _| {
            reader::session(connection, hasher, &id)
        })
    }

    fn read(&self, names: Vec<Arc<str>>) -> Reply<Rows> {
        let (hasher, current) = (self.hasher, self.current.clone());
        ask(self.points.as_ref(), move |connection, _| {
            Snapshot::take(connection, hasher, &current)?.read(names)
        })
    }

    fn scan(&self, scan: Scan) -> Reply<Page> {
        let (hasher, current) = (self.hasher, self.current.clone());
        ask(self.scans.as_ref(), move |connection, _| {
            let page = Snapshot::take(connection, hasher, &current)?.scan(&scan);
            page.map_err(|error| unread(error, None))
        })
    }

    fn sum(&self, prefix: Arc<str>) -> Reply<Sum> {
        let (hasher, current) = (self.hasher, self.current.clone());
        ask(self.scans.as_ref(), move |connection, abandoned| {
            let sum = Snapshot::take(connection, hasher, &current)?.sum(&prefix, abandoned);
            sum.map_err(|error| unread(error, None))
        })
    }

    fn changes(&self) -> &ChangeFeed {
        &self.changes
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        // Queued and running reads end first, since the upkeep may be waiting for them.
        self.points = None;
        self.scans = None;
        self.upkeep = None;
        if let Some(writer) = self.shared.writer().take() {
            writer.close();
        }
    }
}

fn ask<T: Send + 'static, E: Into<StoreError>>(
    readers: Option<&Readers>,
    read: impl FnOnce(&mut Connection, &dyn Fn() -> bool) -> Result<T, E> + Send + 'static,
) -> Reply<T> {
    match readers {
        Some(readers) => readers.ask(read),
        None => Box::pin(std::future::ready(Err(gone()))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Serving a file clears the id of the move that made it. The file may hold more from then on, so the same move,
    /// run again, must not take it for its own.
    #[test]
    fn a_served_file_has_no_move_id() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sumd.db");
        let (connection, _) = database::open(&path).expect("a new database");
        Meta::update(&connection, |meta| meta.made_by_move = vec![7; 16]).expect("SQL");
        drop(connection);
        drop(SqliteStore::open(&path, 1 << 20).expect("it is free"));
        let reader = database::open_reader(&path).expect("it is free");
        let meta = Meta::read(&reader.connection).expect("it is whole");
        assert_eq!(meta.made_by_move, [0; 0]);
    }

    /// A store closes in spite of its readers: a long one, the upkeep that waits for it to truncate the WAL, and a
    /// reader behind both.
    #[test]
    fn readers_do_not_keep_a_store_from_closing() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = SqliteStore::open(&folder.path().join("sumd.db"), 1 << 20);
        let store = store.expect("a new database");
        let (inside, is_inside) = mpsc::channel();
        let scans = store.scans.as_ref().expect("it is open");
        let long = scans.ask(move |_, abandoned| {
            let _ = inside.send(());
            while !abandoned() {
                thread::yield_now();
            }
            Err::<(), _>(gone())
        });
        is_inside
            .recv_timeout(Duration::from_secs(20))
            .expect("it reads");
        store.upkeep.as_ref().expect("it is open").log_is_long();
        let waiting = store.sum("".into());
        let (closed, is_closed) = mpsc::channel();
        thread::spawn(move || {
            drop(store);
            let _ = closed.send(());
        });
        is_closed
            .recv_timeout(Duration::from_secs(20))
            .expect("it closes");
        drop((long, waiting));
    }

    /// The data of a closed store are in the rows of one file.
    #[test]
    fn a_closed_store_is_one_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sumd.db");
        let store = SqliteStore::open(&path, 1 << 20).expect("a new database");
        let batch = writer::tests::batch(1, [("g/a".to_owned(), Some(1))]);
        assert_eq!(store.write(&batch).expect("there is room"), 0);
        drop(store);
        assert!(!paths::beside(&path, "-wal").exists());
        let reader = database::open_reader(&path).expect("it is free");
        let meta = Meta::read(&reader.connection).expect("it is whole");
        assert_eq!(meta.folded, 1);
    }
}
