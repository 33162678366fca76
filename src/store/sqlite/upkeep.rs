//! Upkeep beside the commits, on a thread of its own. It bounds the WAL, notices if the files are taken away, and
//! notices when a full disk has room again.

use std::sync::mpsc::{self, RecvTimeoutError, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::watch;

use super::OpenError;
use super::lock::Lock;
use super::readers::Gate;
use super::writer::Writer;

/// How often the files are checked, and a full disk is tried again.
const INTERVAL: Duration = Duration::from_secs(1);

/// The condition of a store, for its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It takes commits.
    Well,
    /// It refuses commits until the disk has room again, and answers reads.
    Full,
    /// It has failed outside of a commit, for this reason. The process has to end.
    Failed(Arc<str>),
}

/// State shared by commits and upkeep.
pub(super) struct Shared {
    /// `None` once it has failed or is closed.
    writer: Mutex<Option<Writer>>,
    condition: watch::Sender<Condition>,
}

impl Shared {
    pub(super) fn new(writer: Writer) -> Self {
        Self {
            writer: Mutex::new(Some(writer)),
            condition: watch::Sender::new(Condition::Well),
        }
    }

    /// The writer, for one commit or checkpoint at a time.
    pub(super) fn writer(&self) -> MutexGuard<'_, Option<Writer>> {
        self.writer.lock().unwrap_or_else(|poisoned| {
            // A writer that panicked has failed.
            let mut writer = PoisonError::into_inner(poisoned);
            *writer = None;
            writer
        })
    }

    pub(super) fn condition(&self) -> watch::Receiver<Condition> {
        self.condition.subscribe()
    }

    /// Records whether there is room for commits. A failed store stays failed.
    pub(super) fn set_full(&self, full: bool) {
        let now = if full {
            Condition::Full
        } else {
            Condition::Well
        };
        let is_news = self.condition.send_if_modified(|condition| {
            let changes = !matches!(condition, Condition::Failed(_)) && *condition != now;
            if changes {
                *condition = now.clone();
            }
            changes
        });
        match (is_news, full) {
            (true, true) => tracing::error!("no room on the disk: increments are refused"),
            (true, false) => tracing::info!("there is room on the disk again"),
            _ => {}
        }
    }

    /// Stops all commits, and reports why.
    fn fail(&self, problem: String) {
        *self.writer() = None;
        tracing::error!("{problem}; counting has stopped");
        self.condition
            .send_replace(Condition::Failed(problem.into()));
    }
}

pub(super) struct Upkeep {
    /// Taken to end the thread.
    log_is_long: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Upkeep {
    pub(super) fn start(
        shared: Arc<Shared>,
        scans: Gate,
        lock: Arc<Lock>,
    ) -> Result<Self, OpenError> {
        let (log_is_long, woken) = mpsc::sync_channel(1);
        let work = move || {
            loop {
                // This ends with the sender, or after the interval.
                match woken.recv_timeout(INTERVAL) {
                    Ok(()) => end_log(&shared, &scans),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break,
                }
                if let Some(file) = lock.replaced() {
                    let file = file.display();
                    shared.fail(format!(
                        "{file} was deleted, moved or replaced while in use"
                    ));
                    break;
                }
                if *shared.condition.borrow() == Condition::Full {
                    try_room(&shared);
                }
            }
        };
        let thread = thread::Builder::new().name("store-upkeep".to_owned());
        Ok(Self {
            log_is_long: Some(log_is_long),
            thread: Some(thread.spawn(work).map_err(OpenError::Thread)?),
        })
    }

    /// Reports that the WAL exceeds its bound.
    pub(super) fn log_is_long(&self) {
        if let Some(sender) = &self.log_is_long {
            match sender.try_send(()) {
                // The thread knows already; or it has failed, which the next commit will find.
                Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => {}
            }
        }
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.log_is_long = None;
        if let Some(thread) = self.thread.take() {
            // A panic is reported where it happens.
            let _ = thread.join();
        }
    }
}

/// Truncates the WAL in a moment without scans. New scans wait until it is done. Commits do not wait for running scans,
/// only for the checkpoint after them.
pub(super) fn end_log(shared: &Shared, scans: &Gate) {
    let _alone = scans.blocking_write();
    let mut writer = shared.writer();
    let ended = writer.as_mut().map_or(Ok(()), Writer::end_log);
    drop(writer);
    if let Err(error) = ended {
        shared.fail(format!(
            "the write-ahead log cannot be checkpointed: {error}"
        ));
    }
}

/// Commits a change without effect, to see if there is room.
fn try_room(shared: &Shared) {
    let mut writer = shared.writer();
    let tried = writer.as_mut().map_or(Ok(false), Writer::try_room);
    drop(writer);
    match tried {
        Ok(has_room) => shared.set_full(!has_room),
        Err(error) => shared.fail(format!("the database cannot be written: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::sync::atomic::{AtomicU64, Ordering};

    use tempfile::TempDir;

    use super::super::database;
    use super::super::meta::Meta;
    use super::super::paths::beside;
    use super::super::reader::Snapshot;
    use super::super::writer::tests::{batch, open};
    use super::*;
    use crate::notice::tests::logged;

    const PATIENCE: Duration = Duration::from_secs(20);
    /// Some 1 MiB.
    const LOG_PAGES: i32 = 256;

    /// A database whose WAL soon exceeds its bound.
    struct Scene {
        folder: TempDir,
        shared: Arc<Shared>,
        gate: Gate,
        upkeep: Upkeep,
    }

    impl Scene {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("sumd.db");
            let lock = Arc::new(Lock::take(&path).expect("nobody has it"));
            let writer = open(&path, usize::MAX).with_log_pages(LOG_PAGES);
            let shared = Arc::new(Shared::new(writer));
            let gate = Gate::default();
            let upkeep = Upkeep::start(shared.clone(), gate.clone(), lock);
            Self {
                folder,
                shared,
                gate,
                upkeep: upkeep.expect("a thread"),
            }
        }

        fn path(&self) -> std::path::PathBuf {
            self.folder.path().join("sumd.db")
        }

        /// Commits a batch of a few pages.
        fn commit(&self, seq: u64) {
            let mut writer = self.shared.writer();
            let writer = writer.as_mut().expect("it has not failed");
            let names = (0..20).map(|i| (format!("{seq}/{i:0200}"), Some(1)));
            writer.commit(&batch(seq, names)).expect("a commit");
            if writer.log_is_long() {
                self.upkeep.log_is_long();
            }
        }

        fn log_is_long(&self) -> bool {
            let writer = self.shared.writer();
            writer.as_ref().expect("it has not failed").log_is_long()
        }
    }

    fn log_bytes(path: &Path) -> u64 {
        fs::metadata(beside(path, "-wal")).map_or(0, |log| log.len())
    }

    /// Scans while a condition holds.
    fn scan(scene: &Scene, mut goes_on: impl FnMut() -> bool) {
        let path = scene.path();
        let mut connection = database::open_reader(&path).expect("a reader").connection;
        let hasher = Meta::read(&connection).expect("it is whole").hasher;
        let current = scene
            .shared
            .writer()
            .as_ref()
            .expect("well")
            .current()
            .clone();
        let _pass = scene.gate.blocking_read();
        let snapshot = Snapshot::take(&mut connection, hasher, &current).expect("a snapshot");
        while goes_on() {
            thread::yield_now();
        }
        drop(snapshot);
    }

    /// Overlapping readers do not prevent the WAL from being truncated again and again, and every reader has its turn.
    #[test]
    fn readers_who_overlap_do_not_keep_the_log_from_ending() {
        const ENDS: u64 = 3;
        let scene = Scene::new();
        let (commits, ends) = (AtomicU64::new(0), AtomicU64::new(0));
        let done = || ends.load(Ordering::Relaxed) >= ENDS;
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done() {
                        let until = commits.load(Ordering::Relaxed) + 30;
                        scan(&scene, || {
                            !done() && commits.load(Ordering::Relaxed) < until
                        });
                    }
                });
            }
            let mut before = 0;
            for seq in 1.. {
                scene.commit(seq);
                commits.store(seq, Ordering::Relaxed);
                let bytes = log_bytes(&scene.path());
                if bytes < before {
                    ends.fetch_add(1, Ordering::Relaxed);
                }
                before = bytes;
                if done() {
                    break;
                }
            }
        });
    }

    /// Scans are let in once a long WAL was truncated, even if nobody writes any more.
    #[test]
    fn scans_go_on_while_nobody_writes() {
        let scene = Scene::new();
        let (long, scanning) = mpsc::channel::<()>();
        let (told, entered) = mpsc::channel();
        thread::scope(|scope| {
            let (first, scene) = (scope, &scene);
            let (inside, is_inside) = mpsc::channel();
            first.spawn(move || {
                scan(scene, || {
                    let _ = inside.send(());
                    scanning.try_recv() == Err(mpsc::TryRecvError::Empty)
                });
            });
            is_inside.recv_timeout(PATIENCE).expect("a scan");
            for seq in 1.. {
                scene.commit(seq);
                if scene.log_is_long() {
                    break;
                }
            }
            scope.spawn(move || scan(scene, || told.send(()).is_err()));
            drop(long);
            entered.recv_timeout(PATIENCE).expect("it is let in");
        });
        // The upkeep has its notice, and truncates the WAL before it ends.
        let path = scene.path();
        drop(scene.upkeep);
        assert_eq!(log_bytes(&path), 0);
    }

    /// A truncated WAL is written again, and nothing of it is lost.
    #[test]
    fn commits_go_on_after_the_log_was_ended() {
        let scene = Scene::new();
        for seq in 1..=200 {
            scene.commit(seq);
        }
        end_log(&scene.shared, &scene.gate);
        assert_eq!(log_bytes(&scene.path()), 0);
        scene.commit(201);
        assert!(log_bytes(&scene.path()) > 0);
        let report = crate::maintenance::sqlite::check(&scene.path()).expect("a report");
        assert_eq!((report.counters, report.problems), (201 * 20, vec![]));
    }

    /// That there is no room, and that there is again, is told once each. A store that has failed stays so.
    #[test]
    fn a_condition_is_told_when_it_changes() {
        let folder = tempfile::tempdir().expect("a folder");
        let shared = Shared::new(open(&folder.path().join("sumd.db"), usize::MAX));
        let condition = shared.condition();
        let set_full = |full| logged(|| shared.set_full(full));
        assert_eq!(set_full(false), "");
        assert!(set_full(true).contains("no room on the disk"));
        assert_eq!(*condition.borrow(), Condition::Full);
        assert_eq!(set_full(true), "");
        assert!(set_full(false).contains("there is room"));
        assert_eq!(*condition.borrow(), Condition::Well);

        let told = logged(|| shared.fail("the file was deleted".to_owned()));
        assert!(told.contains("the file was deleted"), "{told}");
        assert!(shared.writer().is_none());
        for full in [true, false] {
            assert_eq!(set_full(full), "");
            let failed = Condition::Failed("the file was deleted".into());
            assert_eq!(*condition.borrow(), failed);
        }
    }

    /// A full disk is tried again by itself: while it is full nobody else may write.
    #[test]
    fn a_full_disk_is_tried_again() {
        let scene = Scene::new();
        scene.shared.set_full(true);
        let begun = std::time::Instant::now();
        while *scene.shared.condition().borrow() == Condition::Full {
            assert!(begun.elapsed() < PATIENCE);
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(*scene.shared.condition().borrow(), Condition::Well);
    }
}
