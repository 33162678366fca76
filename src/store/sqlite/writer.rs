//! The writer: one transaction per batch. After any failure but a full disk it writes nothing more.
//!
//! A batch is one row at the end of its table, with its ids and a log of its changes. The rows of counters are brought
//! up to date later, some with each batch ([`crate::store::memtable`]).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};

use super::checkpoint::Checkpoint;
use super::log::Log;
use super::meta::Meta;
use super::rows::{self, Error, Result};
use super::{database, reader};
use crate::model::{Commit, KeyedHasher, Millis};
use crate::store::memtable::{Current, Memtable, SortedRun};

/// How often the writer looks for deletions that no watcher needs any more, by the lane's age.
const FORGET_INTERVAL: Millis = 10_000;

/// The minimum number of rows that a checkpoint writes with each batch.
const FOLD_ROWS: usize = 128;
const FOLD_ROWS_AT_CLOSE: usize = 4 * 1024;

/// How long a close may checkpoint rows before it begins its last step.
const CLOSE_TIME: Duration = Duration::from_secs(2);

/// Forgotten batches that one commit deletes at most: more than it adds.
const PRUNE_BATCHES: u64 = 16;

/// Why a batch was not committed.
#[derive(Debug)]
pub(super) enum NotCommitted {
    /// The disk is full. Nothing was changed, and the writer goes on.
    Full,
    /// The batch may have been committed or not. The writer must not be used any more: only opening the file anew shows
    /// what it holds.
    Failed(Error),
}

pub(super) struct Writer {
    connection: Connection,
    hasher: KeyedHasher,
    log: Log,
    /// The last batch, and in `revision` its revision.
    seq: u64,
    revision: i64,
    memtable: Memtable,
    current: Current,
    /// `Some` while `memtable` has frozen runs to write.
    checkpoint: Option<Checkpoint>,
    /// The rows have the changes of all batches up to this one.
    folded: u64,
    /// Batches before this one are deleted.
    pruned: u64,
    /// Ages of the lane, each with its revision, as far back as deletions are remembered.
    past: VecDeque<(Millis, i64)>,
}

impl Writer {
    /// A writer for a database that nobody else writes to.
    pub(super) fn new(
        mut connection: Connection,
        hasher: KeyedHasher,
        mut memtable: Memtable,
    ) -> Result<Self> {
        let log = Log::follow(&mut connection)?;
        reader::load_recent(&connection, hasher, &mut memtable, Err)?;
        let first = "SELECT coalesce(min(seq), 0) FROM batch";
        let first: i64 = connection.query_row(first, [], |row| row.get(0))?;
        let last: i64 = reader::last(&connection, "seq")?.unwrap_or(0);
        let writer = Self {
            seq: last.cast_unsigned(),
            revision: reader::revision(&connection)?,
            current: Current::default(),
            checkpoint: None,
            folded: Meta::read(&connection)?.folded,
            pruned: first.cast_unsigned(),
            past: VecDeque::new(),
            connection,
            hasher,
            log,
            memtable,
        };
        writer.publish();
        Ok(writer)
    }

    /// The memtable's view for readers.
    pub(super) fn current(&self) -> &Current {
        &self.current
    }

    /// Makes a batch durable, then visible. Returns the revision before its first position.
    pub(super) fn commit(&mut self, batch: &Commit) -> std::result::Result<i64, NotCommitted> {
        let last = self.seq;
        if batch.seq != last + 1 {
            let problem = format!("batch {} does not follow batch {last}", batch.seq);
            return Err(NotCommitted::Failed(Error::Corrupt(problem)));
        }
        if self.checkpoint.is_none() && self.memtable.is_full() {
            self.memtable.freeze();
            self.checkpoint = Some(Checkpoint::new(last));
        }
        let prunable = batch.forget_before.min(self.folded + 1);
        let prune = prunable.min(self.pruned + PRUNE_BATCHES);
        let forgotten = self.forgettable(batch);

        let stored = self.store(batch, prune, forgotten);
        let (logged_bytes, folded) = stored.map_err(|error| self.not_stored(error))?;
        let base = self.revision;
        (self.seq, self.revision) = (batch.seq, base + i64::from(batch.places));
        self.pruned = self.pruned.max(prune);
        let run = SortedRun::new(&batch.changes.counters, base);
        self.memtable.push(run);
        self.memtable.log(logged_bytes);
        self.end_fold(folded);
        self.publish();
        let checkpoint = self.log.checkpoint(&self.connection, self.seq);
        checkpoint.map_err(NotCommitted::Failed)?;
        Ok(base)
    }

    /// Stores a batch. Returns the bytes that it logged, and the last folded batch if a checkpoint has completed.
    fn store(
        &mut self,
        batch: &Commit,
        prune: u64,
        forgotten: Option<i64>,
    ) -> Result<(usize, Option<u64>)> {
        // Cached statements, as everywhere here.
        let transaction = &self.connection;
        transaction.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        // This fails if another process has written to the database, since such a batch then exists.
        let mut put = transaction.prepare_cached(rows::PUT_BATCH)?;
        let logged_bytes = rows::put_batch(&mut put, self.hasher, batch, self.revision)?;
        drop(put);
        if prune > self.pruned {
            transaction
                .prepare_cached("DELETE FROM batch WHERE seq < ?1")?
                .execute(params![prune.cast_signed()])?;
        }
        put_sessions(transaction, self.hasher, batch)?;
        if let Some(revision) = forgotten {
            forget_deleted(transaction, revision)?;
        }
        let mut folded = None;
        if let Some(checkpoint) = &mut self.checkpoint {
            let count = rows_to_fold(batch.changes.counters.len());
            folded = checkpoint.put(transaction, self.hasher, self.memtable.frozen(), count)?;
        }
        transaction.prepare_cached("COMMIT")?.execute([])?;
        Ok((logged_bytes, folded))
    }

    /// Distinguishes a full disk, after which nothing was changed, from everything else.
    ///
    /// SQLite reports FULL if a write finds no room, which is before the frame with the commit mark is complete. The
    /// partial batch is no part of the WAL, and the next one overwrites it. A failed sync, after which the batch may be
    /// on disk or not, is another error.
    fn not_stored(&mut self, error: Error) -> NotCommitted {
        match &error {
            Error::Sqlite(error) if rows::is_full(error) => {}
            _ => return NotCommitted::Failed(error),
        }
        if let Some(checkpoint) = &mut self.checkpoint {
            checkpoint.begin_again();
        }
        match self.roll_back() {
            Ok(seq) if seq == self.seq => NotCommitted::Full,
            Ok(seq) => {
                let problem = format!("batch {seq} is the last one; expected batch {}", self.seq);
                NotCommitted::Failed(Error::Corrupt(problem))
            }
            Err(error) => NotCommitted::Failed(error),
        }
    }

    /// Ends a failed transaction. Returns the last stored batch.
    fn roll_back(&self) -> Result<u64> {
        // SQLite may have rolled back already.
        if !self.connection.is_autocommit() {
            self.connection.execute_batch("ROLLBACK")?;
        }
        let last: Option<i64> = reader::last(&self.connection, "seq")?;
        Ok(last.unwrap_or(0).cast_unsigned())
    }

    /// Commits a change without effect. Returns whether there was room for it.
    pub(super) fn try_room(&mut self) -> Result<bool> {
        let nothing = "UPDATE meta SET value = value WHERE name = 'folded'";
        let tried = self.connection.execute(nothing, []);
        match tried.map_err(|error| self.not_stored(error.into())) {
            Ok(_) => Ok(true),
            Err(NotCommitted::Full) => Ok(false),
            Err(NotCommitted::Failed(error)) => Err(error),
        }
    }

    fn end_fold(&mut self, folded: Option<u64>) {
        if let Some(seq) = folded {
            self.memtable.drop_frozen();
            self.checkpoint = None;
            self.folded = seq;
        }
    }

    fn publish(&self) {
        let view = self.memtable.view(self.revision);
        // The old view is dropped after the lock is released.
        let _before = std::mem::replace(&mut *self.current.lock(), view);
    }

    /// The revision up to which deletions are forgotten now, if it is time to look.
    fn forgettable(&mut self, batch: &Commit) -> Option<i64> {
        let age = batch.stamp.age.unwrap_or(0);
        let last = self.past.back().map(|(age, _)| *age);
        if last.is_some_and(|last| age < last + FORGET_INTERVAL) {
            return None;
        }
        self.past.push_back((age, self.revision));
        let mut forgotten = None;
        while let Some((age, revision)) = self.past.front()
            && *age <= batch.deletions_up_to
        {
            forgotten = Some(*revision);
            self.past.pop_front();
        }
        forgotten
    }

    /// Whether the WAL exceeds its bound, so that [`Writer::end_log`] is due.
    pub(super) fn log_is_long(&self) -> bool {
        self.log.is_long()
    }

    /// Truncates the WAL. The caller ensures that no scan is running.
    pub(super) fn end_log(&mut self) -> Result<()> {
        self.log.end(&self.connection)
    }

    /// Checkpoints everything and removes the WAL, as far as little time allows, so that the file is complete on its
    /// own. A failure or an early end does no harm.
    pub(super) fn close(self) {
        self.close_within(CLOSE_TIME);
    }

    fn close_within(mut self, time: Duration) {
        let began = Instant::now();
        let closed = self.finish(|| began.elapsed() < time);
        let closed = closed.and_then(|finished| {
            if finished {
                database::close(self.connection)?;
            }
            Ok(())
        });
        if let Err(error) = closed {
            tracing::debug!(%error, "the log (-wal) is kept");
        }
    }

    /// Checkpoints everything and truncates the WAL while there is time. Returns whether both are done.
    fn finish(&mut self, has_time: impl Fn() -> bool) -> Result<bool> {
        while self.folded < self.seq {
            if !has_time() {
                return Ok(false);
            }
            let checkpoint = self.checkpoint.get_or_insert_with(|| {
                self.memtable.freeze();
                Checkpoint::new(self.seq)
            });
            let transaction = self.connection.transaction()?;
            let runs = self.memtable.frozen();
            let folded = checkpoint.put(&transaction, self.hasher, runs, FOLD_ROWS_AT_CLOSE)?;
            transaction.commit()?;
            self.end_fold(folded);
        }
        Ok(has_time() && database::truncate_log(&self.connection)?)
    }
}

/// The number of rows that a checkpoint writes with a batch: more than the batch changes, or else the memtable would
/// only grow.
fn rows_to_fold(changed: usize) -> usize {
    FOLD_ROWS.max(changed * 3 / 2)
}

fn put_sessions(connection: &Connection, hasher: KeyedHasher, batch: &Commit) -> Result<()> {
    let mut put = connection.prepare_cached(rows::PUT_SESSION)?;
    let mut delete = connection.prepare_cached("DELETE FROM session WHERE id = ?1")?;
    for (id, change) in &batch.changes.sessions {
        match &change.after {
            Some(session) => rows::put_session(&mut put, hasher, id, &session.encode())?,
            None => {
                delete.execute(params![id])?;
            }
        }
    }
    Ok(())
}

fn forget_deleted(connection: &Connection, revision: i64) -> Result<()> {
    let deleted = connection
        .prepare_cached("DELETE FROM deleted WHERE revision <= ?1")?
        .execute(params![revision])?;
    if deleted > 0 {
        Meta::update(connection, |meta| meta.forgotten = revision)?;
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests;
