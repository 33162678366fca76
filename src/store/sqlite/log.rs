//! The write-ahead log: how long it is, and when it is copied into the database.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use rusqlite::Connection;

use super::rows::{self, Result};
use super::schema;

/// Pages of the write-ahead log after which they are copied into the database: some 30 MiB.
const CHECKPOINT_PAGES: i32 = 8000;

/// SQLite begins its write-ahead log anew when all of it is in the database and nobody reads. If somebody always does, it
/// grows: up to so many pages, some 256 MiB, and then scans are held up for once. If that does not do, as under a long
/// backup, so many more.
const MAX_LOG_PAGES: i32 = 64 << 10;
const MORE_LOG_PAGES: i32 = 16 << 10;
/// After a checkpoint or an end of the log that was in vain, it is tried again after so many batches.
const RETRY_BATCHES: u64 = 16;

pub(super) struct Log {
    /// Pages in it, as of the last commit.
    pages: Arc<AtomicI32>,
    max_pages: i32,
    /// Added to that, after it was tried in vain.
    more_pages: i32,
    /// No checkpoint before this batch.
    checkpoint_from: u64,
}

impl Log {
    /// Follows how long the log of a connection gets. It is checkpointed here, in place of SQLite's own checkpoints, whose
    /// errors are not told.
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

    /// Copies the log into the database after batch `seq`, if it is time, as far as readers allow.
    ///
    /// An error is final. A sync that has failed is forgotten by the kernel, and the pages that it was about count as
    /// written: the next checkpoint, which begins where this one has ended, would succeed, and then the log would begin
    /// anew although the database lacks some of it.
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
            // Pages were written, and none was synced.
            Err(error) if rows::is_full(&error) => {
                self.checkpoint_from = seq + RETRY_BATCHES;
                Ok(())
            }
            done => Ok(done?),
        }
    }

    /// Whether it is beyond its bound, so that [`Log::end`] is due.
    pub(super) fn is_long(&self) -> bool {
        let pages = self.pages.load(Ordering::Relaxed);
        pages > self.max_pages.saturating_add(self.more_pages)
    }

    /// Ends it while no scan is running.
    pub(super) fn end(&mut self, connection: &Connection) -> Result<()> {
        let is_cut = schema::truncate_log(connection)?;
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

    /// The same log, which is long beyond so many pages.
    #[cfg(test)]
    pub(super) fn with_max_pages(self, max_pages: i32) -> Self {
        Self { max_pages, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema::tests::failed;
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

    /// One that finds no room on the disk is tried again some batches later. Any other error is final.
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

    /// A log that cannot be ended is long again only once it has so much more; one that was ended begins with nothing.
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
}
