//! The thread that writes: one transaction a batch, and none after one that failed.

use std::collections::VecDeque;
use std::sync::{Arc, mpsc};

use rusqlite::{Connection, TransactionBehavior, params};
use tokio::sync::oneshot;

use super::reader;
use super::rows::{self, Error, Result};
use crate::model::{Commit, Digests, Millis};
use crate::store::StoreError;

/// How often deleted counters are looked for that nobody needs to be told of any more.
const FORGET_INTERVAL: Millis = 10_000;

pub(super) struct Write {
    pub(super) batch: Arc<Commit>,
    pub(super) reply: oneshot::Sender<std::result::Result<i64, StoreError>>,
}

/// Writes until nobody asks for more, or until something fails: then every later batch fails with the thread
/// gone, since what the file holds is known again only once it is opened anew.
pub(super) fn run(connection: Connection, digests: Digests, batches: &mpsc::Receiver<Write>) {
    let mut writer = Writer {
        connection,
        digests,
        revision: None,
        past: VecDeque::new(),
    };
    while let Ok(Write { batch, reply }) = batches.recv() {
        let result = writer.commit(&batch);
        let failed = result.is_err();
        // A lane that has gone does not need to know.
        let _ = reply.send(result.map_err(StoreError::from));
        if failed {
            return;
        }
    }
    // The log is in the database then, and a copy of that one file is complete. It need not be.
    let checkpoint = writer
        .connection
        .pragma_update(None, "wal_checkpoint", "TRUNCATE");
    if let Err(error) = checkpoint {
        tracing::debug!(%error, "the write-ahead log stays");
    }
}

struct Writer {
    connection: Connection,
    digests: Digests,
    /// That of the last batch, once one was written.
    revision: Option<i64>,
    /// Which revision it was at which time, as far back as deletions are remembered.
    past: VecDeque<(Millis, i64)>,
}

impl Writer {
    fn commit(&mut self, batch: &Commit) -> Result<i64> {
        let base = match self.revision {
            Some(revision) => revision,
            None => reader::revision(&self.connection)?,
        };
        let forgotten = self.forgettable(batch, base);
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        check_head(&transaction, batch)?;
        put_head(&transaction, self.digests, batch, base)?;
        put_counters(&transaction, self.digests, batch, base)?;
        put_sessions(&transaction, self.digests, batch)?;
        if let Some(revision) = forgotten {
            forget_deleted(&transaction, revision)?;
        }
        transaction.commit()?;
        self.revision = Some(base + i64::from(batch.places));
        Ok(base)
    }

    /// The revision up to which deletions are forgotten now, if it is time to look.
    fn forgettable(&mut self, batch: &Commit, revision: i64) -> Option<i64> {
        let last = self.past.back().map_or(0, |(time, _)| *time);
        if batch.time < last + FORGET_INTERVAL {
            return None;
        }
        self.past.push_back((batch.time, revision));
        let mut forgotten = None;
        while let Some((time, revision)) = self.past.front()
            && *time <= batch.horizon
        {
            forgotten = Some(*revision);
            self.past.pop_front();
        }
        forgotten
    }
}

/// The batch was made on top of the last one, or nothing of it holds.
fn check_head(connection: &Connection, batch: &Commit) -> Result<()> {
    let mut last = connection.prepare_cached("SELECT coalesce(max(seq), 0) FROM batch")?;
    let last: i64 = last.query_row([], |row| row.get(0))?;
    if last.cast_unsigned() + 1 == batch.seq {
        return Ok(());
    }
    Err(Error::Corrupt(format!(
        "batch {} does not follow batch {last}: somebody else has written to this database",
        batch.seq
    )))
}

fn put_head(connection: &Connection, digests: Digests, batch: &Commit, base: i64) -> Result<()> {
    let mut put = connection.prepare_cached(rows::PUT_BATCH)?;
    rows::put_batch(&mut put, digests, batch, base)?;
    // The head before has no ids: it was needed only until there was another.
    connection
        .prepare_cached("DELETE FROM batch WHERE seq = ?1 AND length(ids) = 0")?
        .execute(params![batch.seq.cast_signed() - 1])?;
    if batch.forget_before > 0 {
        connection
            .prepare_cached("DELETE FROM batch WHERE seq < ?1")?
            .execute(params![batch.forget_before.cast_signed()])?;
    }
    Ok(())
}

fn put_counters(
    connection: &Connection,
    digests: Digests,
    batch: &Commit,
    base: i64,
) -> Result<()> {
    let mut put = connection.prepare_cached(rows::PUT_COUNTER)?;
    let mut delete = connection.prepare_cached("DELETE FROM counter WHERE name = ?1")?;
    let mut put_deleted = connection.prepare_cached(rows::PUT_DELETED)?;
    let mut undelete = connection.prepare_cached("DELETE FROM deleted WHERE name = ?1")?;
    for counter in &*batch.changes.counters {
        let name = &*counter.name;
        let revision = base + i64::from(counter.place);
        if let Some(value) = counter.value {
            rows::put_counter(&mut put, digests, (name, value, revision))?;
            if counter.is_new {
                undelete.execute(params![name])?;
            }
        } else {
            delete.execute(params![name])?;
            rows::put_deleted(&mut put_deleted, digests, (name, revision))?;
        }
    }
    Ok(())
}

fn put_sessions(connection: &Connection, digests: Digests, batch: &Commit) -> Result<()> {
    let mut put = connection.prepare_cached(rows::PUT_SESSION)?;
    let mut delete = connection.prepare_cached("DELETE FROM session WHERE id = ?1")?;
    for (id, state) in &batch.changes.sessions {
        match state {
            Some(state) => rows::put_session(&mut put, digests, id, state)?,
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
