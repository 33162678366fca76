//! Reader threads beside the writer.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};

use rusqlite::Connection;
use tokio::sync::{RwLock, oneshot};

use super::database;
use super::open_error::OpenError;
use crate::store::{Reply, StoreError};

/// The lock between scans and the upkeep. A scan holds it shared while it reads. The upkeep, which needs a moment
/// without scans, takes it exclusively. It is fair, so later scans wait behind the upkeep. Both waits end, because
/// scans end and guards are dropped.
pub(super) type Gate = Arc<RwLock<()>>;

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// Threads with one connection each, and one queue. Dropping it abandons queued reads; a running read ends when it next
/// asks.
pub(super) struct Readers {
    /// Taken to end the threads.
    jobs: Option<mpsc::Sender<Job>>,
    closing: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    /// Starts reader threads. Each holds `gate`, if there is one, while it reads.
    pub(super) fn start(
        path: &Path,
        kind: &str,
        count: usize,
        gate: Option<&Gate>,
    ) -> Result<Self, OpenError> {
        let (sender, jobs) = mpsc::channel::<Job>();
        let jobs = Arc::new(Mutex::new(jobs));
        let mut readers = Self {
            jobs: Some(sender),
            closing: Arc::default(),
            threads: Vec::new(),
        };
        for i in 0..count {
            let mut connection = database::open_reader(path)?.connection;
            let sqlite = |error| OpenError::Sqlite(path.to_owned(), error);
            database::leave_log(&connection, true).map_err(sqlite)?;
            let (jobs, gate) = (jobs.clone(), gate.cloned());
            let work = move || {
                loop {
                    // A reading thread has released the queue. The loop ends with the sender.
                    let job = jobs.lock().ok().and_then(|jobs| jobs.recv().ok());
                    let Some(job) = job else { break };
                    let _pass = gate.as_ref().map(|gate| gate.blocking_read());
                    job(&mut connection);
                }
            };
            let thread = thread::Builder::new().name(format!("store-{kind}-{i}"));
            let thread = thread.spawn(work).map_err(OpenError::Thread)?;
            readers.threads.push(thread);
        }
        Ok(readers)
    }

    /// Reads on one of the threads. `read` gets a function that returns whether its answer is no longer needed.
    pub(super) fn ask<T: Send + 'static, E: Into<StoreError>>(
        &self,
        read: impl FnOnce(&mut Connection, &dyn Fn() -> bool) -> Result<T, E> + Send + 'static,
    ) -> Reply<T> {
        let (reply, answer) = oneshot::channel();
        let closing = self.closing.clone();
        let job: Job = Box::new(move |connection| {
            let abandoned = || reply.is_closed() || closing.load(Ordering::Relaxed);
            if !abandoned() {
                let result = read(connection, &abandoned);
                // The caller may have gone.
                let _ = reply.send(result.map_err(Into::into));
            }
        });
        let sent = self
            .jobs
            .as_ref()
            .is_some_and(|jobs| jobs.send(job).is_ok());
        Box::pin(async move {
            if !sent {
                return Err(gone());
            }
            answer.await.unwrap_or_else(|_| Err(gone()))
        })
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // A panic is reported where it happens.
            let _ = thread.join();
        }
    }
}

/// The error of a store that has failed or is closed.
pub(super) fn gone() -> StoreError {
    StoreError::Failed("it failed before".into())
}
