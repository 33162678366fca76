//! Counters in an SQLite database: one writer, and threads that read beside it.
//!
//! Each batch is one transaction in WAL mode with `synchronous=FULL`: one fdatasync, after which it is durable, and
//! before which no reader sees it. Every row has a check sum, so that a file that was damaged is an error and
//! not a wrong answer.

pub(super) mod fill;
mod fold;
mod gate;
mod horizon;
mod reader;
mod rows;
mod schema;
pub(super) mod source;
mod tools;
mod writer;

pub use horizon::{Horizons, reset_horizon};
pub use schema::OpenError;
pub use tools::{backup, check, restore};

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::{
    After, Capabilities, Changes, LaneNumber, Loaded, Page, Reply, Rows, Scan, SessionRows, Store,
    StoreError, Sum,
};
use crate::model::{Commit, Digests, SessionId};
use crate::store::recent::{Current, Recent};
use gate::Gate;
use reader::Snapshot;
use writer::Writer;

/// Threads that read counters by name: they wait for the disk where it is not in memory.
const POINT_READERS: usize = 2;
/// Threads that scan, which may take seconds.
const SCAN_READERS: usize = 2;
/// Bytes of a batch: those who wait for it wait until all of it is on the disk.
const BATCH_BYTES: usize = 768 << 10;

/// A database that this process has to itself.
pub struct SqliteStore {
    digests: Digests,
    /// `None` once it has failed.
    writer: Mutex<Option<Writer>>,
    current: Current,
    changes: Changes,
    /// What a lane begins with, until one does.
    loaded: Mutex<Option<Loaded>>,
    /// Taken away to close the store.
    points: Option<mpsc::Sender<Read>>,
    scans: Option<mpsc::Sender<Read>>,
    threads: Vec<JoinHandle<()>>,
    /// Held for as long as the database is.
    _lock: File,
}

type Read = Box<dyn FnOnce(&mut Connection) + Send>;

impl SqliteStore {
    /// Opens a database, which is made where there is none. Counters whose rows are not up to date take up to twice
    /// `recent_bytes` of memory.
    ///
    /// # Errors
    /// Where another process has it, where it is none of ours, is of a newer version, or cannot be read.
    pub fn open(path: &Path, recent_bytes: usize) -> Result<Self, OpenError> {
        if let Some(folder) = folder(path) {
            make_folder(folder).map_err(|error| OpenError::Folder(folder.to_owned(), error))?;
        }
        let lock = lock(path)?;
        let (connection, digests) = schema::open(path)?;
        let moved_to = schema::moved_to(&connection);
        if let Some(to) = moved_to.map_err(|error| OpenError::Sqlite(path.to_owned(), error))? {
            let path = path.to_owned();
            return Err(OpenError::Moved { path, to });
        }
        let gate = Gate::default();
        let recent = Recent::new(recent_bytes);
        let wal = beside(path, "-wal");
        let damaged = |error: rows::Error| OpenError::Damaged(path.to_owned(), error.to_string());
        // Both take their time after a crash.
        let mut reader = schema::open_reader(path)?;
        let (writer, loaded) = thread::scope(|scope| {
            let loaded = scope.spawn(|| reader::load(&mut reader, digests));
            let writer = Writer::new(connection, digests, wal, gate.clone(), recent);
            let loaded = loaded.join();
            (writer, loaded.unwrap_or_else(|panic| resume_unwind(panic)))
        });
        let (writer, loaded) = (writer.map_err(damaged)?, loaded.map_err(damaged)?);
        let mut store = Self {
            digests,
            current: writer.current().clone(),
            changes: Changes::new(loaded.head.revision),
            writer: Mutex::new(Some(writer)),
            loaded: Mutex::new(Some(loaded)),
            points: None,
            scans: None,
            threads: Vec::new(),
            _lock: lock,
        };
        store.points = Some(store.readers(path, "point", POINT_READERS, &Gate::default())?);
        store.scans = Some(store.readers(path, "scan", SCAN_READERS, &gate)?);
        Ok(store)
    }

    /// Starts threads that read, each while it is inside of `gate`.
    fn readers(
        &mut self,
        path: &Path,
        kind: &str,
        count: usize,
        gate: &Gate,
    ) -> Result<mpsc::Sender<Read>, OpenError> {
        let (sender, jobs) = mpsc::channel::<Read>();
        let jobs = Arc::new(Mutex::new(jobs));
        for i in 0..count {
            let mut connection = schema::open_reader(path)?;
            let (jobs, gate) = (jobs.clone(), gate.clone());
            let work = move || {
                loop {
                    // A thread that reads has let go of the queue.
                    let job = jobs.lock().ok().and_then(|jobs| jobs.recv().ok());
                    let Some(job) = job else { break };
                    let _pass = gate.enter();
                    job(&mut connection);
                }
            };
            let thread = thread::Builder::new().name(format!("store-{kind}-{i}"));
            self.threads
                .push(thread.spawn(work).map_err(OpenError::Thread)?);
        }
        Ok(sender)
    }

    fn read_on<T: Send + 'static>(
        readers: Option<&mpsc::Sender<Read>>,
        read: impl FnOnce(&mut Connection, &dyn Fn() -> bool) -> rows::Result<T> + Send + 'static,
    ) -> Reply<T> {
        let (reply, answer) = oneshot::channel();
        let job: Read = Box::new(move |connection| {
            // Nobody waits for it any more.
            if !reply.is_closed() {
                let result = read(connection, &|| reply.is_closed());
                let _ = reply.send(result.map_err(StoreError::from));
            }
        });
        let sent = readers.is_some_and(|readers| readers.send(job).is_ok());
        Box::pin(async move {
            if !sent {
                return Err(gone());
            }
            answer.await.unwrap_or_else(|_| Err(gone()))
        })
    }

    fn write(&self, batch: &Commit) -> Result<i64, StoreError> {
        // A writer that panicked has failed.
        let mut writer = self.writer.lock().map_err(|_| gone())?;
        let result = writer.as_mut().ok_or_else(gone)?.commit(batch);
        match result {
            Ok(base) => {
                let end = base + i64::from(batch.places);
                let counters = batch.changes.counters.clone();
                self.changes.publish(counters, base, end);
            }
            Err(_) => *writer = None,
        }
        result.map_err(StoreError::from)
    }
}

impl Store for SqliteStore {
    fn digests(&self) -> Digests {
        self.digests
    }

    /// Its writer is one, and so is the disk.
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
        let digests = self.digests;
        Self::read_on(self.scans.as_ref(), move |connection, _| {
            reader::load(connection, digests)
        })
    }

    /// Writes at once, on the thread that calls, which waits for the disk: a lane has one to itself, and to hand its
    /// batches to another would cost more than some of them take.
    fn commit(&self, _lane: LaneNumber, batch: Arc<Commit>) -> Reply<i64> {
        let result = self.write(&batch);
        Box::pin(std::future::ready(result))
    }

    /// Nobody else can have committed.
    fn after(&self, _lane: LaneNumber, _seq: u64) -> Reply<After> {
        Box::pin(std::future::ready(Ok(After::Batches(Vec::new()))))
    }

    /// The only lane has it in memory, and is asked for it by a message.
    fn session(&self, _id: SessionId) -> Reply<SessionRows> {
        Box::pin(std::future::ready(Ok(SessionRows::default())))
    }

    fn read(&self, names: Vec<Arc<str>>) -> Reply<Rows> {
        let (digests, current) = (self.digests, self.current.clone());
        Self::read_on(self.points.as_ref(), move |connection, _| {
            Snapshot::take(connection, digests, &current)?.read(names)
        })
    }

    fn scan(&self, scan: Scan) -> Reply<Page> {
        let (digests, current) = (self.digests, self.current.clone());
        Self::read_on(self.scans.as_ref(), move |connection, _| {
            Snapshot::take(connection, digests, &current)?.scan(&scan)
        })
    }

    fn sum(&self, prefix: Arc<str>) -> Reply<Sum> {
        let (digests, current) = (self.digests, self.current.clone());
        Self::read_on(self.scans.as_ref(), move |connection, gone| {
            Snapshot::take(connection, digests, &current)?.sum(&prefix, gone)
        })
    }

    fn changes(&self) -> &Changes {
        &self.changes
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.points = None;
        self.scans = None;
        for thread in self.threads.drain(..) {
            // One that panicked has said so.
            let _ = thread.join();
        }
        let writer = self.writer.get_mut();
        if let Some(writer) = writer.unwrap_or_else(PoisonError::into_inner).take() {
            writer.close();
        }
    }
}

fn gone() -> StoreError {
    StoreError::Failed("it failed before".into())
}

/// Makes a folder, and those that it is in, that are there after a loss of power, too.
fn make_folder(folder: &Path) -> io::Result<()> {
    let parent = match folder.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Ok(()),
    };
    if !folder.is_dir() {
        make_folder(parent)?;
        match std::fs::create_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    // Also where it is there: whoever made it may not have come to this. Where that is not allowed, it was not us.
    match File::open(parent).and_then(|parent| parent.sync_all()) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        synced => synced,
    }
}

/// The folder that a file is in.
fn folder(path: &Path) -> Option<&Path> {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
}

/// Takes the database for this process alone.
fn lock(path: &Path) -> Result<File, OpenError> {
    // By whatever link it is reached.
    let real = path.canonicalize();
    let name = beside(real.as_deref().unwrap_or(path), "-lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&name)
        .map_err(|error| OpenError::Lock(name.clone(), error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(OpenError::InUse(path.to_owned())),
        Err(std::fs::TryLockError::Error(error)) => Err(OpenError::Lock(name, error)),
    }
}

/// The path of a file that belongs to another.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}
