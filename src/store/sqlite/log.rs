//! The WAL: its length, and the WAL checkpoints that copy it into the database.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use rusqlite::Connection;

use super::database;
use super::rows::{self, Result};

/// Pages of the WAL that make a WAL checkpoint due: some 30 MiB.
const CHECKPOINT_PAGES: i32 = 8000;

/// The bound of the WAL, some 256 MiB, beyond which scans are held up once. SQLite begins the WAL anew only when all of
/// it is in the database and nobody reads, so overlapping readers let it grow. If holding up scans does not help, as
/// during a long backup, the bound grows by [`MORE_LOG_PAGES`].
const MAX_LOG_PAGES: i32 = 64 << 10;
const MORE_LOG_PAGES: i32 = 16 << 10;
/// Batches until a WAL checkpoint is tried again after it found the disk full.
const RETRY_BATCHES: u64 = 16;

pub(super) struct Log {
    /// Pages in the WAL as of the last commit.
    pages: Arc<AtomicI32>,
    max_pages: i32,
    /// Added to `max_pages` after an attempt to truncate the WAL failed.
    more_pages: i32,
    /// No WAL checkpoint before this batch.
    checkpoint_from: u64,
}

impl Log {
    /// Follows the length of a connection's WAL. WAL checkpoints are run here and not by SQLite, which does not report
    /// their errors.
    pub(super) fn follow(connection: &mut Connection) -> Result<Self> {
        let pages = Arc::new(AtomicI32::new(0));
        let told = pages.clone();
        connection.wal_hook(Some(move |_: &mut _, pages| {
            told.store(pages, Ordering::Relaxed);
            Ok(())
        }))?;
        Ok(Self {
            pages,
            max_pages: MAX_LOG_PAGES,
            more_pages: 0,
            checkpoint_from: 0,
        })
    }

    /// Copies the WAL into the database after batch `seq` if that is due, as far as readers allow.
    ///
    /// An error is final. The kernel forgets a failed sync and counts its pages as written. The next checkpoint would
    /// start where this one ended and succeed, and the WAL would begin anew although the database lacks part of it.
    pub(super) fn checkpoint(&mut self, connection: &Connection, seq: u64) -> Result<()> {
        if !self.is_due(seq) {
            return Ok(());
        }
        let sql = "PRAGMA wal_checkpoint(PASSIVE)";
        let mut checkpoint = connection.prepare_cached(sql)?;
        self.checkpointed(seq, checkpoint.query_row([], |_| Ok(())))
    }

    fn is_due(&self, seq: u64) -> bool {
        let pages = self.pages.load(Ordering::Relaxed);
        pages >= CHECKPOINT_PAGES && seq >= self.checkpoint_from
    }

    fn checkpointed(&mut self, seq: u64, done: rusqlite::Result<()>) -> Result<()> {
        match done {
            // Pages were written, but no sync has failed.
            Err(error) if rows::is_full(&error) => {
                self.checkpoint_from = seq + RETRY_BATCHES;
                Ok(())
            }
            done => Ok(done?),
        }
    }

    /// Whether the WAL exceeds its bound, so that [`Log::end`] is due.
    pub(super) fn is_long(&self) -> bool {
        let pages = self.pages.load(Ordering::Relaxed);
        pages > self.max_pages.saturating_add(self.more_pages)
    }

    /// Truncates the WAL. The caller ensures that no scan is running.
    pub(super) fn end(&mut self, connection: &Connection) -> Result<()> {
        let is_cut = database::truncate_log(connection)?;
        self.ended(is_cut);
        Ok(())
    }

    fn ended(&mut self, is_cut: bool) {
        self.more_pages = if is_cut {
            self.pages.store(0, Ordering::Relaxed);
            0
        } else {
            let pages = self.pages.load(Ordering::Relaxed);
            pages.saturating_sub(self.max_pages) + MORE_LOG_PAGES
        };
    }

    /// The same WAL with another bound.
    #[cfg(test)]
    pub(super) fn with_max_pages(self, max_pages: i32) -> Self {
        Self { max_pages, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::super::database::tests::failed;
    use super::*;

    fn log(pages: i32) -> Log {
        Log {
            pages: Arc::new(pages.into()),
            max_pages: MAX_LOG_PAGES,
            more_pages: 0,
            checkpoint_from: 0,
        }
    }

    #[test]
    fn a_checkpoint_is_due_at_so_many_pages() {
        assert!(!log(CHECKPOINT_PAGES - 1).is_due(7));
        assert!(log(CHECKPOINT_PAGES).is_due(7));
        assert!(log(CHECKPOINT_PAGES + 1).is_due(7));
    }

    /// A WAL checkpoint that finds the disk full is tried again some batches later. Any other error is final.
    #[test]
    fn a_checkpoint_without_room_is_tried_again() {
        let mut log = log(CHECKPOINT_PAGES);
        log.checkpointed(7, Ok(())).expect("it is done");
        assert!(log.is_due(8));
        let full = failed(rusqlite::ffi::SQLITE_FULL);
        log.checkpointed(8, Err(full)).expect("not for ever");
        assert!(!log.is_due(8 + RETRY_BATCHES - 1));
        assert!(log.is_due(8 + RETRY_BATCHES));
        let sync = failed(rusqlite::ffi::SQLITE_IOERR_FSYNC);
        log.checkpointed(9, Err(sync)).expect_err("final");
    }

    /// A WAL that cannot be truncated may grow by another `MORE_LOG_PAGES`; a truncated one starts from zero.
    #[test]
    fn a_log_that_cannot_be_ended_may_be_longer() {
        let pages = MAX_LOG_PAGES + 5;
        let mut log = log(pages);
        assert!(log.is_long());
        log.ended(false);
        assert!(!log.is_long());
        log.pages.store(pages + MORE_LOG_PAGES, Ordering::Relaxed);
        assert!(!log.is_long());
        log.pages.fetch_add(1, Ordering::Relaxed);
        assert!(log.is_long());
        log.ended(true);
        assert!(!log.is_long());
        log.pages.store(pages, Ordering::Relaxed);
        assert!(log.is_long());
    }

    /// The log is copied into the database once it is long, and not before.
    #[test]
    fn a_long_log_is_copied_into_the_database() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sumd.db");
        let (mut connection, _) = database::open(&path).expect("a new database");
        let mut log = Log::follow(&mut connection).expect("a hook");
        let filled = "CREATE TABLE filling (x); INSERT INTO filling VALUES (randomblob(1 << 20))";
        connection.execute_batch(filled).expect("SQL");
        let bytes = || std::fs::metadata(&path).expect("a file").len();
        let mut checkpoint = |pages| {
            log.pages.store(pages, Ordering::Relaxed);
            log.checkpoint(&connection, 7).expect("it is well");
            bytes()
        };
        let before = checkpoint(CHECKPOINT_PAGES - 1);
        assert!(before < 1 << 20, "{before}");
        assert!(checkpoint(CHECKPOINT_PAGES) > 1 << 20);
    }
}
