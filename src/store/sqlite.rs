//! Counters in an SQLite database: one thread that writes, others that read beside it.
//!
//! Each batch is one transaction in WAL mode with `synchronous=FULL`: one fsync, after which it is durable, and
//! before which no reader sees it. Every row has a check sum, so that a file that was damaged is an error and
//! not a wrong answer.

mod reader;
mod rows;
mod schema;
mod tools;
mod writer;

pub use schema::OpenError;
pub use tools::{Report, ToolError, backup, check, restore};

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::{Loaded, Page, Reply, Rows, Scan, Store, StoreError, Sum};
use crate::model::{Commit, Digests};
use writer::Write;

/// Threads that read counters by name: they wait for the disk where it is not in memory.
const POINT_READERS: usize = 2;
/// Threads that scan, which may take seconds.
const SCAN_READERS: usize = 2;

/// A database that this process has to itself.
pub struct SqliteStore {
    digests: Digests,
    /// Taken away to close the store.
    writer: Option<mpsc::Sender<Write>>,
    points: Option<mpsc::Sender<Read>>,
    scans: Option<mpsc::Sender<Read>>,
    threads: Vec<JoinHandle<()>>,
    /// Held for as long as the database is.
    _lock: File,
}

type Read = Box<dyn FnOnce(&mut Connection) + Send>;

impl SqliteStore {
    /// Opens a database, which is made where there is none.
    ///
    /// # Errors
    /// Where another process has it, where it is none of ours, is of a newer version, or cannot be read.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        if let Some(folder) = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            make_folder(folder).map_err(|error| OpenError::Folder(folder.to_owned(), error))?;
        }
        let lock = lock(path)?;
        let (connection, digests) = schema::open(path)?;
        let mut threads = Vec::new();
        let (writer, batches) = mpsc::channel();
        let spawn = |name: String, work: Box<dyn FnOnce() + Send>| {
            thread::Builder::new()
                .name(name)
                .spawn(work)
                .map_err(OpenError::Thread)
        };
        threads.push(spawn(
            "store-writer".into(),
            Box::new(move || writer::run(connection, digests, &batches)),
        )?);
        let mut readers = |kind: &str, count: usize| {
            let (sender, jobs) = mpsc::channel::<Read>();
            let jobs = Arc::new(std::sync::Mutex::new(jobs));
            for i in 0..count {
                let mut connection = schema::open_reader(path)?;
                let jobs = jobs.clone();
                let work = move || {
                    loop {
                        // A thread that reads has let go of the queue.
                        let job = jobs.lock().ok().and_then(|jobs| jobs.recv().ok());
                        let Some(job) = job else { break };
                        job(&mut connection);
                    }
                };
                threads.push(spawn(format!("store-{kind}-{i}"), Box::new(work))?);
            }
            Ok::<_, OpenError>(sender)
        };
        let points = readers("point", POINT_READERS)?;
        let scans = readers("scan", SCAN_READERS)?;
        Ok(Self {
            digests,
            writer: Some(writer),
            points: Some(points),
            scans: Some(scans),
            threads,
            _lock: lock,
        })
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
}

impl Store for SqliteStore {
    fn digests(&self) -> Digests {
        self.digests
    }

    fn load(&self) -> Reply<Loaded> {
        let digests = self.digests;
        Self::read_on(self.scans.as_ref(), move |connection, _| {
            reader::load(connection, digests)
        })
    }

    fn commit(&self, batch: Arc<Commit>) -> Reply<i64> {
        let (reply, answer) = oneshot::channel();
        let sent = self
            .writer
            .as_ref()
            .is_some_and(|writer| writer.send(Write { batch, reply }).is_ok());
        Box::pin(async move {
            if !sent {
                return Err(gone());
            }
            answer.await.unwrap_or_else(|_| Err(gone()))
        })
    }

    fn read(&self, names: Vec<Arc<str>>) -> Reply<Rows> {
        let digests = self.digests;
        Self::read_on(self.points.as_ref(), move |connection, _| {
            reader::read(connection, digests, names)
        })
    }

    fn scan(&self, scan: Scan) -> Reply<Page> {
        let digests = self.digests;
        Self::read_on(self.scans.as_ref(), move |connection, _| {
            reader::scan(connection, digests, &scan)
        })
    }

    fn sum(&self, prefix: Arc<str>) -> Reply<Sum> {
        let digests = self.digests;
        Self::read_on(self.scans.as_ref(), move |connection, gone| {
            reader::sum(connection, digests, &prefix, gone)
        })
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.writer = None;
        self.points = None;
        self.scans = None;
        for thread in self.threads.drain(..) {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

fn gone() -> StoreError {
    StoreError("it failed before".into())
}

/// Makes a folder that is there after a loss of power, too.
fn make_folder(folder: &Path) -> std::io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(folder)?;
    let parent = folder
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
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
