//! Rows and their check sums.

use std::sync::Arc;

use rusqlite::{Connection, ErrorCode, Row as SqlRow, Statement, params};

use crate::model::{
    Commit, Corrupt, CounterChange, Head, KeyedHasher, Pack, Session, SessionId, Stamp,
    check_extras,
};
use crate::store::StoreError;
use crate::store::memtable::Latest;

/// The reason why a row cannot be read or written.
#[derive(Debug)]
pub(crate) enum Error {
    Sqlite(rusqlite::Error),
    Corrupt(String),
    /// The row of a counter is damaged. The name is the one in the row.
    Counter {
        name: Arc<str>,
        problem: String,
    },
    /// Nobody waits for the answer any more.
    Abandoned,
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Whether the disk was full.
pub(crate) fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        Self::Failed(error.to_string().into())
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sqlite(error) => write!(f, "SQLite: {error}"),
            Self::Corrupt(what) | Self::Counter { problem: what, .. } => f.write_str(what),
            Self::Abandoned => f.write_str("the answer is not waited for"),
        }
    }
}

/// The beginning of a statement that selects the columns of [`counter`].
pub(crate) const COUNTER: &str = "SELECT name, value, revision, digest, extras FROM counter";
/// The same for deleted counters.
pub(crate) const DELETED: &str = "SELECT name, NULL, revision, digest, x'' FROM deleted";
/// It costs half as much as an upsert.
pub(crate) const PUT_COUNTER: &str =
    "INSERT OR REPLACE INTO counter (name, value, revision, digest) VALUES (?1, ?2, ?3, ?4)";
pub(crate) const PUT_DELETED: &str =
    "INSERT OR REPLACE INTO deleted (name, revision, digest) VALUES (?1, ?2, ?3)";
pub(crate) const BATCH: &str = "SELECT seq, base, places, time, horizon, session_horizon, ids, digest, extras, length(log) FROM batch";
/// The same, with the column of [`log_of`].
pub(crate) const LOGGED: &str = "SELECT seq, base, places, time, horizon, session_horizon, ids, digest, extras, length(log), log FROM batch";
pub(crate) const PUT_BATCH: &str = "INSERT INTO batch \
    (seq, base, places, time, horizon, session_horizon, ids, digest, log, extras) \
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
pub(crate) const SESSION: &str = "SELECT id, state, digest FROM session";
pub(crate) const PUT_SESSION: &str = "INSERT INTO session (id, state, digest) VALUES (?1, ?2, ?3) \
    ON CONFLICT (id) DO UPDATE SET state = ?2, digest = ?3";

fn counter_digest(
    hasher: KeyedHasher,
    name: &str,
    value: Option<i64>,
    revision: i64,
    extras: &[u8],
) -> u32 {
    let numbers = [value.unwrap_or(0), revision].map(i64::to_le_bytes);
    let deleted = [value.is_none().into()];
    let parts = [name.as_bytes(), numbers.as_flattened(), &deleted, extras];
    check_with_extras(hasher, &parts)
}

/// The check sum of a row whose last part is its extras. A row without extras has the check sum of the formats before
/// them.
fn check_with_extras(hasher: KeyedHasher, parts: &[&[u8]]) -> u32 {
    let parts = parts.strip_suffix(&[&[][..]]).unwrap_or(parts);
    hasher.check(parts)
}

pub(crate) fn put_counter(
    statement: &mut Statement<'_>,
    hasher: KeyedHasher,
    (name, value, revision): (&str, i64, i64),
) -> Result<()> {
    let digest = counter_digest(hasher, name, Some(value), revision, &[]);
    statement.execute(params![name, value, revision, digest])?;
    Ok(())
}

pub(crate) fn put_deleted(
    statement: &mut Statement<'_>,
    hasher: KeyedHasher,
    (name, revision): (&str, i64),
) -> Result<()> {
    let digest = counter_digest(hasher, name, None, revision, &[]);
    statement.execute(params![name, revision, digest])?;
    Ok(())
}

/// Decodes a counter's row.
pub(crate) fn counter<'a>(hasher: KeyedHasher, row: &'a SqlRow<'_>) -> Result<Latest<'a>> {
    let name = row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?;
    let (value, revision) = (row.get(1)?, row.get(2)?);
    let extras = row.get_ref(4)?.as_blob().map_err(rusqlite::Error::from)?;
    let damaged = |problem| Error::Counter {
        name: name.into(),
        problem,
    };
    if row.get::<_, u32>(3)? != counter_digest(hasher, name, value, revision, extras) {
        return Err(damaged(format!("the row of counter {name:?} is damaged")));
    }
    check_extras(extras).map_err(|Corrupt(what)| damaged(format!("counter {name:?}: {what}")))?;
    Ok(Latest {
        name,
        value,
        revision,
        is_new: false,
    })
}

/// A row of `batch`: the lane's head after it, and its request ids.
pub(crate) struct BatchRow {
    pub(crate) head: Head,
    pub(crate) pack: Pack,
}

fn batch_digest(hasher: KeyedHasher, numbers: [i64; 6], ids: &[u8], extras: &[u8]) -> u32 {
    let numbers = numbers.map(i64::to_le_bytes);
    check_with_extras(hasher, &[numbers.as_flattened(), ids, extras])
}

/// Stores a batch. Returns the bytes of its log.
pub(crate) fn put_batch(
    statement: &mut Statement<'_>,
    hasher: KeyedHasher,
    batch: &Commit,
    base: i64,
) -> Result<usize> {
    let numbers = [
        batch.seq.cast_signed(),
        base,
        batch.places.into(),
        batch.time,
        batch.horizon,
        batch.session_horizon,
    ];
    let extras = batch.stamp.encode();
    let digest = batch_digest(hasher, numbers, &batch.ids, &extras);
    let [seq, base, places, time, horizon, session_horizon] = numbers;
    let ids = &*batch.ids;
    let log = log(hasher, batch);
    statement.execute(params![
        seq,
        base,
        places,
        time,
        horizon,
        session_horizon,
        ids,
        digest,
        log,
        extras
    ])?;
    Ok(log.len())
}

/// The log of a batch: a digest, the oldest batch of which anything is remembered, and the changes of counters.
fn log(hasher: KeyedHasher, batch: &Commit) -> Vec<u8> {
    let mut log = vec![0; DIGEST_BYTES];
    log.extend_from_slice(&batch.forget_before.to_le_bytes());
    CounterChange::put_all(&batch.changes.counters, &mut log);
    let digest = log_digest(hasher, batch.seq, &log[DIGEST_BYTES..]);
    log[..DIGEST_BYTES].copy_from_slice(&digest);
    log
}

const DIGEST_BYTES: usize = size_of::<u32>();

fn log_digest(hasher: KeyedHasher, seq: u64, contents: &[u8]) -> [u8; DIGEST_BYTES] {
    hasher.check(&[&seq.to_le_bytes(), contents]).to_le_bytes()
}

/// The log of a batch, decoded.
pub(crate) struct Log<'a> {
    seq: u64,
    /// Nothing is remembered of batches before this one.
    pub(crate) forget_before: u64,
    changes: &'a [u8],
}

impl<'a> Log<'a> {
    pub(crate) fn new(hasher: KeyedHasher, seq: u64, log: &'a [u8]) -> Result<Self> {
        // Format 1 had no log: its batches wrote the rows at once, and deleted the batches that they forgot.
        if log.is_empty() {
            return Ok(Self {
                seq,
                forget_before: 0,
                changes: &[],
            });
        }
        let damaged = || Error::Corrupt(format!("the log of batch {seq} is damaged"));
        let (digest, contents) = log.split_first_chunk().ok_or_else(damaged)?;
        if *digest != log_digest(hasher, seq, contents) {
            return Err(damaged());
        }
        let (forget_before, changes) = contents.split_first_chunk().ok_or_else(damaged)?;
        Ok(Self {
            seq,
            forget_before: u64::from_le_bytes(*forget_before),
            changes,
        })
    }

    pub(crate) fn bytes(&self) -> usize {
        DIGEST_BYTES + size_of_val(&self.forget_before) + self.changes.len()
    }

    /// Calls `each` for every counter that the batch has changed. Its first position follows the revision `base`.
    pub(crate) fn read(&self, base: i64, mut each: impl FnMut(Latest<'_>)) -> Result<()> {
        let read = CounterChange::read_all(self.changes, |name, value, place, is_new| {
            each(Latest {
                name,
                value,
                revision: base + i64::from(place),
                is_new,
            });
        });
        let seq = self.seq;
        read.map_err(|Corrupt(what)| Error::Corrupt(format!("the log of batch {seq}: {what}")))
    }
}

/// Whether a batch's row has a log. The first format had none.
pub(crate) fn has_log(row: &SqlRow<'_>) -> Result<bool> {
    Ok(row.get::<_, i64>(9)? > 0)
}

/// The log of a batch that is not folded.
pub(crate) fn log_of<'a>(hasher: KeyedHasher, row: &'a SqlRow<'_>) -> Result<Log<'a>> {
    let seq = row.get::<_, i64>(0)?.cast_unsigned();
    let log = row.get_ref(10)?.as_blob().map_err(rusqlite::Error::from)?;
    if !has_log(row)? {
        return Err(Error::Corrupt(format!("the log of batch {seq} is damaged")));
    }
    Log::new(hasher, seq, log)
}

pub(crate) fn batch(hasher: KeyedHasher, row: &SqlRow<'_>) -> Result<BatchRow> {
    let mut numbers = [0; 6];
    for (column, number) in numbers.iter_mut().enumerate() {
        *number = row.get(column)?;
    }
    let ids = row.get_ref(6)?.as_blob().map_err(rusqlite::Error::from)?;
    let [seq, base, places, time, horizon, session_horizon] = numbers;
    let extras = row.get_ref(8)?.as_blob().map_err(rusqlite::Error::from)?;
    if row.get::<_, u32>(7)? != batch_digest(hasher, numbers, ids, extras) {
        return Err(Error::Corrupt(format!("the row of batch {seq} is damaged")));
    }
    let seq = seq.cast_unsigned();
    let stamp = if extras.is_empty() {
        Ok(Stamp::of_time(time))
    } else {
        Stamp::decode(extras)
    };
    let stamp = stamp.map_err(|Corrupt(what)| Error::Corrupt(format!("batch {seq}: {what}")))?;
    Ok(BatchRow {
        head: Head {
            seq,
            revision: base + places,
            time,
            age: stamp.age,
            horizon,
            session_horizon,
        },
        pack: Pack {
            seq,
            time,
            stamp,
            base,
            ids: Arc::from(ids),
        },
    })
}

/// Replaces the numbers of a stored batch.
pub(crate) fn replace_batch(
    connection: &Connection,
    hasher: KeyedHasher,
    BatchRow { head, pack }: &BatchRow,
) -> Result<()> {
    let numbers = [
        head.seq.cast_signed(),
        pack.base,
        head.revision - pack.base,
        head.time,
        head.horizon,
        head.session_horizon,
    ];
    let extras = pack.stamp.encode();
    let digest = batch_digest(hasher, numbers, &pack.ids, &extras);
    let sql = "UPDATE batch SET time = ?2, horizon = ?3, session_horizon = ?4, digest = ?5, extras = ?6 WHERE seq = ?1";
    let [seq, _, _, time, horizon, session_horizon] = numbers;
    connection.prepare_cached(sql)?.execute(params![
        seq,
        time,
        horizon,
        session_horizon,
        digest,
        extras
    ])?;
    Ok(())
}

pub(crate) fn put_session(
    statement: &mut Statement<'_>,
    hasher: KeyedHasher,
    id: &str,
    state: &[u8],
) -> Result<()> {
    let digest = hasher.check(&[id.as_bytes(), state]);
    statement.execute(params![id, state, digest])?;
    Ok(())
}

/// The id in a session's row, whatever else is wrong with the row.
fn session_id(row: &SqlRow<'_>) -> Result<SessionId> {
    let id = row.get_ref(0)?.as_str();
    let id = id.map_err(|_| Error::Corrupt("the id of a session's row is damaged".to_owned()))?;
    Ok(id.into())
}

/// The session in a row; or its damage, if the id is intact.
pub(crate) fn session_or_damage(
    hasher: KeyedHasher,
    row: &SqlRow<'_>,
) -> Result<(SessionId, std::result::Result<Session, Error>)> {
    match session(hasher, row) {
        Ok((id, session)) => Ok((id, Ok(session))),
        Err(damage) => {
            check_session_id(hasher, row)?;
            Ok((session_id(row)?, Err(damage)))
        }
    }
}

/// Returns an error for a damaged row of a session if the damage is in its id.
fn check_session_id(hasher: KeyedHasher, row: &SqlRow<'_>) -> Result<()> {
    let id = session_id(row)?;
    if let (Ok(state), Ok(digest)) = (row.get_ref(1)?.as_blob(), row.get(2))
        && hasher.is_of_another_key(id.as_bytes(), state, digest)
    {
        let problem = format!("the id of a session's row is damaged: it is {id:?} now");
        return Err(Error::Corrupt(problem));
    }
    Ok(())
}

pub(crate) fn session(hasher: KeyedHasher, row: &SqlRow<'_>) -> Result<(SessionId, Session)> {
    let id = session_id(row)?;
    let damaged = || Error::Corrupt(format!("the row of session {id:?} is damaged"));
    let state = row.get_ref(1)?.as_blob().map_err(|_| damaged())?;
    if row.get(2) != Ok(hasher.check(&[id.as_bytes(), state])) {
        return Err(damaged());
    }
    let session = Session::decode(state)
        .map_err(|Corrupt(what)| Error::Corrupt(format!("session {id:?}: {what}")))?;
    Ok((id, session))
}

#[cfg(test)]
mod tests;
