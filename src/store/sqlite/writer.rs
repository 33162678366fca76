//! Writing: one transaction a batch, and none after one that failed.
//!
//! A batch is one row, with its ids and a log of what it has changed, at the end of its table. The rows of counters are
//! brought up to date later, some with each batch ([`super::recent`]).

use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rusqlite::{Connection, params};

use super::fold::Fold;
use super::gate::Gate;
use super::rows::{self, Error, Result};
use super::{reader, schema};
use crate::model::{Commit, Digests, Millis};
use crate::store::recent::{Current, Recent, Run};

/// How often deleted counters are looked for that nobody needs to be told of any more.
const FORGET_INTERVAL: Millis = 10_000;

/// Rows that are folded with a batch, at the least; and more than it changes, lest more comes in than is folded.
const FOLD_ROWS: usize = 128;
const FOLD_ROWS_AT_CLOSE: usize = 16 * 1024;

/// Batches that nothing is remembered of any more go so many at a time: more than come in.
const PRUNE_BATCHES: u64 = 16;

/// SQLite begins its write-ahead log anew when all of it is in the database and nobody reads. Where somebody always does, it
/// grows: up to this, and then readers are held up for once. Should that not do, as under a long backup, so much more.
const MAX_WAL_BYTES: u64 = 256 << 20;
const MORE_WAL_BYTES: u64 = 64 << 20;
/// How large it is, is looked at once in so many batches.
const WAL_LOOKS: u64 = 16;
/// How long the writer waits for readers by name, who take microseconds.
const READERS_TIMEOUT: Duration = Duration::from_millis(50);

pub(super) struct Writer {
    connection: Connection,
    digests: Digests,
    wal: PathBuf,
    max_wal_bytes: u64,
    /// Added to that, after it was tried in vain.
    more_wal_bytes: u64,
    scans: Gate,
    /// The last batch, and its revision.
    seq: u64,
    revision: i64,
    recent: Recent,
    current: Current,
    /// There is one while `recent` has something to fold.
    fold: Option<Fold>,
    /// All that batches up to this one have changed is in the rows.
    folded: u64,
    /// The batches before this one are gone.
    pruned: u64,
    /// Which revision it was at which age of the lane, as far back as deletions are remembered.
    past: VecDeque<(Millis, i64)>,
}

impl Writer {
    /// A writer to the database whose write-ahead log is the file `wal`. `scans` are held up where they are in its way.
    pub(super) fn new(
        connection: Connection,
        digests: Digests,
        wal: PathBuf,
        scans: Gate,
        mut recent: Recent,
    ) -> Result<Self> {
        reader::load_recent(&connection, digests, &mut recent)?;
        let first = "SELECT coalesce(min(seq), 0) FROM batch";
        let first: i64 = connection.query_row(first, [], |row| row.get(0))?;
        let last: i64 = reader::last(&connection, "seq")?.unwrap_or(0);
        let writer = Self {
            seq: last.cast_unsigned(),
            revision: reader::revision(&connection)?,
            current: Current::default(),
            fold: None,
            folded: reader::meta(&connection, "folded")?.cast_unsigned(),
            pruned: first.cast_unsigned(),
            past: VecDeque::new(),
            connection,
            digests,
            wal,
            max_wal_bytes: MAX_WAL_BYTES,
            more_wal_bytes: 0,
            scans,
            recent,
        };
        writer.publish();
        Ok(writer)
    }

    /// What has changed since the rows were brought up to date, for readers.
    pub(super) fn current(&self) -> &Current {
        &self.current
    }

    /// Makes a batch durable, and then visible; gives the revision before its first place. After an error the writer is
    /// not to be used any more: what the file holds is known again only once it is opened anew.
    pub(super) fn commit(&mut self, batch: &Commit) -> Result<i64> {
        let (seq, last, base) = (batch.seq, self.seq, self.revision);
        if seq != last + 1 {
            let problem = format!("batch {seq} does not follow batch {last}");
            return Err(Error::Corrupt(problem));
        }
        if self.fold.is_none() && self.recent.is_full() {
            self.recent.fold();
            self.fold = Some(Fold::new(last));
        }
        let prunable = batch.forget_before.min(self.folded + 1);
        let prune = prunable.min(self.pruned + PRUNE_BATCHES);
        let forgotten = self.forgettable(batch);

        // Prepared, as everything here. After an error nobody goes on, and it is rolled back as the connection closes.
        let transaction = &self.connection;
        transaction.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        // Where somebody else has written to this database there is such a batch already, and this fails.
        let mut put = transaction.prepare_cached(rows::PUT_BATCH)?;
        let logged_bytes = rows::put_batch(&mut put, self.digests, batch, base)?;
        drop(put);
        if prune > self.pruned {
            transaction
                .prepare_cached("DELETE FROM batch WHERE seq < ?1")?
                .execute(params![prune.cast_signed()])?;
            self.pruned = prune;
        }
        put_sessions(transaction, self.digests, batch)?;
        if let Some(revision) = forgotten {
            forget_deleted(transaction, revision)?;
        }
        let mut folded = None;
        if let Some(fold) = &mut self.fold {
            let count = FOLD_ROWS.max(batch.changes.counters.len() * 3 / 2);
            folded = fold.put(transaction, self.digests, self.recent.folding(), count)?;
        }
        transaction.prepare_cached("COMMIT")?.execute([])?;

        (self.seq, self.revision) = (seq, base + i64::from(batch.places));
        let run = Run::new(&batch.changes.counters, base);
        self.recent.push(run);
        self.recent.log(logged_bytes);
        self.end_fold(folded);
        self.publish();
        self.bound_wal()?;
        Ok(base)
    }

    fn end_fold(&mut self, folded: Option<u64>) {
        if let Some(seq) = folded {
            self.recent.folded();
            self.fold = None;
            self.folded = seq;
        }
    }

    fn publish(&self) {
        let view = self.recent.view(self.revision);
        // What it was is dropped when the lock is no longer held.
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

    fn bound_wal(&mut self) -> Result<()> {
        if !self.seq.is_multiple_of(WAL_LOOKS) {
            return Ok(());
        }
        let bytes = fs::metadata(&self.wal).map_or(0, |wal| wal.len());
        if bytes <= self.max_wal_bytes + self.more_wal_bytes || !self.scans.close() {
            return Ok(());
        }
        self.connection.busy_timeout(READERS_TIMEOUT)?;
        let busy = self.truncate_wal();
        self.connection.busy_timeout(schema::BUSY_TIMEOUT)?;
        self.more_wal_bytes = if busy? {
            bytes - self.max_wal_bytes + MORE_WAL_BYTES
        } else {
            0
        };
        self.scans.open();
        Ok(())
    }

    /// Brings everything up to date, so that the file by itself is complete. It need not be: that it fails, or that it is
    /// cut short, does no harm.
    pub(super) fn close(mut self) {
        if let Err(error) = self.try_close() {
            tracing::debug!(%error, "the log stays");
        }
    }

    fn try_close(&mut self) -> Result<()> {
        while self.folded < self.seq {
            let fold = self.fold.get_or_insert_with(|| {
                self.recent.fold();
                Fold::new(self.seq)
            });
            let transaction = self.connection.transaction()?;
            let runs = self.recent.folding();
            let folded = fold.put(&transaction, self.digests, runs, FOLD_ROWS_AT_CLOSE)?;
            transaction.commit()?;
            self.end_fold(folded);
        }
        self.truncate_wal()?;
        Ok(())
    }

    /// Copies the write-ahead log into the database; says whether somebody was in the way.
    fn truncate_wal(&self) -> rusqlite::Result<bool> {
        let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
        self.connection.query_row(checkpoint, [], |row| row.get(0))
    }
}

fn put_sessions(connection: &Connection, digests: Digests, batch: &Commit) -> Result<()> {
    let mut put = connection.prepare_cached(rows::PUT_SESSION)?;
    let mut delete = connection.prepare_cached("DELETE FROM session WHERE id = ?1")?;
    for (id, change) in &batch.changes.sessions {
        match &change.after {
            Some(session) => rows::put_session(&mut put, digests, id, &session.encode())?,
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
        connection
            .prepare_cached("UPDATE meta SET value = ?1 WHERE name = 'forgotten'")?
            .execute(params![revision])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;

    use super::super::beside;
    use super::super::reader::Snapshot;
    use super::*;
    use crate::model::{Changes, CounterChange, Stamp};
    use crate::store::recent;

    fn batch(seq: u64, counters: impl IntoIterator<Item = (String, Option<i64>)>) -> Commit {
        let changes = counters.into_iter().map(|(name, value)| CounterChange {
            name: name.into(),
            value,
            place: 1,
            is_new: true,
        });
        Commit {
            seq,
            time: 0,
            stamp: Stamp::of_time(0),
            horizon: 0,
            session_horizon: 0,
            places: 1,
            ids: [].into(),
            forget_before: seq,
            deletions_up_to: 0,
            changes: Changes {
                counters: changes.collect(),
                sessions: Vec::new(),
            },
        }
    }

    fn open(path: &std::path::Path, gate: &Gate, recent_bytes: usize) -> Writer {
        let (connection, digests) = schema::open(path).expect("a database");
        let wal = beside(path, "-wal");
        let recent = recent::Recent::new(recent_bytes);
        Writer::new(connection, digests, wal, gate.clone(), recent).expect("a writer")
    }

    /// While there is always somebody who reads, the write-ahead log stays within its bound, and everybody has their turn.
    #[test]
    fn readers_who_overlap_do_not_keep_the_log_from_ending() {
        const SCANS: u64 = 100;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sumd.db");
        let gate = Gate::default();
        let mut writer = open(&path, &gate, usize::MAX);
        writer.max_wal_bytes = 1 << 20;
        let (commits, scans) = (AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            for _ in 0..2 {
                let (digests, current) = (writer.digests, writer.current().clone());
                let mut connection = schema::open_reader(&path).expect("a reader");
                let (gate, commits, scans) = (gate.clone(), &commits, &scans);
                scope.spawn(move || {
                    while scans.load(Ordering::Relaxed) < SCANS {
                        let _pass = gate.enter();
                        let snapshot = Snapshot::take(&mut connection, digests, &current);
                        let snapshot = snapshot.expect("a snapshot");
                        let until = commits.load(Ordering::Relaxed) + 30;
                        while commits.load(Ordering::Relaxed) < until
                            && scans.load(Ordering::Relaxed) < SCANS
                        {
                            thread::yield_now();
                        }
                        drop(snapshot);
                        scans.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let mut largest = 0;
            for seq in 1.. {
                let names = (0..20).map(|i| (format!("{seq}/{i:0200}"), Some(1)));
                writer.commit(&batch(seq, names)).expect("a commit");
                commits.store(seq, Ordering::Relaxed);
                largest = largest.max(fs::metadata(&writer.wal).expect("a log").len());
                if scans.load(Ordering::Relaxed) >= SCANS {
                    break;
                }
            }
            // Beyond the bound there is what is written while those who read come to their end.
            assert!(largest < 4 << 20, "{largest} bytes");
        });
    }

    /// What nothing is remembered of is deleted once it is folded, and what is not folded is there after a crash.
    #[test]
    fn the_log_is_kept_until_it_is_folded() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sumd.db");
        let gate = Gate::default();
        let count = |writer: &Writer| {
            let sql = "SELECT count(*) FROM batch";
            let count = writer
                .connection
                .query_row(sql, [], |row| row.get::<_, i64>(0));
            count.expect("a number")
        };
        let mut writer = open(&path, &gate, usize::MAX);
        for seq in 1..=100_u64 {
            let counter = (format!("g/{}", seq % 7), Some(seq.cast_signed()));
            writer.commit(&batch(seq, [counter])).expect("a commit");
        }
        assert_eq!(count(&writer), 100);
        drop(writer);

        let mut writer = open(&path, &gate, 0);
        let value = |writer: &Writer, name: &str| {
            let view = writer.current().lock().clone();
            let latest = recent::Lookup::new(&view.runs).find(name);
            latest.map(|latest| (latest.value, latest.revision))
        };
        assert_eq!(value(&writer, "g/2"), Some((Some(100), 100)));
        for seq in 101..=140 {
            writer
                .commit(&batch(seq, [("h".to_owned(), None)]))
                .expect("a commit");
        }
        assert!(count(&writer) <= 3, "{} batches", count(&writer));
        assert_eq!(value(&writer, "g/2"), None);
        let row = "SELECT value, revision FROM counter WHERE name = 'g/2'";
        let row = writer
            .connection
            .query_row(row, [], |row| Ok((row.get(0)?, row.get(1)?)));
        assert_eq!(row, Ok((100, 100)));
    }
}
