//! Moves horizons back that a wrong clock has moved into the future.

use std::path::Path;

use rusqlite::Connection;

use crate::maintenance::report::{Times, ToolError};
use crate::maintenance::sqlite::check::times;
use crate::maintenance::sqlite::complete;
use crate::model::{KeyedHasher, Millis};
use crate::store::sqlite::lock::Lock;
use crate::store::sqlite::rows::{self, Error};
use crate::store::sqlite::{OpenError, database, reader};

/// Sets every time of day in a database that is later than `now` to `now`, and returns the latest times as they were.
/// The database must not be in use.
///
/// Ids and sessions with a time in between are taken for new ones if they come again, even if they were counted and
/// forgotten.
///
/// # Errors
/// Returns an error if there is no database, another process uses it, it is damaged, or it cannot be changed.
pub fn reset_horizon(path: &Path, now: Millis) -> Result<Times, ToolError> {
    if !path.exists() {
        return Err(OpenError::Missing(path.to_owned()).into());
    }
    let lock = Lock::take(path)?;
    let (connection, meta) = database::open(path)?;
    let reset = take_back(&connection, meta.hasher, now);
    let before = reset.map_err(|error| ToolError::Data(path.to_owned(), error.to_string()))?;
    // A backup has to be one file, without a log.
    complete(path, connection)?;
    lock.give_up();
    Ok(before)
}

fn take_back(connection: &Connection, hasher: KeyedHasher, now: Millis) -> rows::Result<Times> {
    let transaction = connection.unchecked_transaction()?;
    let mut before = Times::default();
    let mut batches = Vec::new();
    reader::each_batch(&transaction, hasher, |batch| {
        let mut batch = batch?;
        before.take(times(&batch));
        let (head, stamp) = (&mut batch.head, &mut batch.pack.stamp);
        let times = [&mut head.time, &mut head.horizon, &mut head.session_horizon];
        let times = times.into_iter().chain(stamp.newest.as_mut());
        let late = times.filter(|time| **time > now).map(|time| *time = now);
        if late.count() > 0 {
            batches.push(batch);
        }
        Ok(())
    })?;
    for batch in &batches {
        rows::replace_batch(&transaction, hasher, batch)?;
    }
    let mut sessions = Vec::new();
    {
        let mut statement = transaction.prepare(rows::SESSION)?;
        let mut found = statement.query([])?;
        while let Some(row) = found.next()? {
            let (id, session) = rows::session_or_damage(hasher, row)?;
            // A damaged row stays as it is. It counts as used at the time of the last batch, which is moved back.
            let Ok(mut session) = session else {
                continue;
            };
            before.session = before.session.max(session.used());
            if session.take_back(now) {
                sessions.push((id, session));
            }
        }
    }
    let mut put = transaction.prepare(rows::PUT_SESSION)?;
    for (id, session) in &sessions {
        rows::put_session(&mut put, hasher, id, &session.encode())?;
    }
    drop(put);
    transaction.commit().map_err(Error::from)?;
    Ok(before)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::maintenance::sqlite::check;
    use crate::model::{Changes, Commit, Session, Stamp};
    use crate::store::Store as _;
    use crate::store::sqlite::SqliteStore;

    const NOW: Millis = 1_700_000_000_000;
    const AHEAD: Millis = NOW + 10 * 365 * 86_400_000;

    /// A batch that was committed while the clock was ten years ahead.
    fn ahead(seq: u64) -> Arc<Commit> {
        Arc::new(Commit {
            seq,
            time: AHEAD,
            stamp: Stamp {
                age: Some(1000),
                newest: Some(AHEAD),
            },
            horizon: AHEAD - 600_000,
            session_horizon: AHEAD - 86_400_000,
            places: 0,
            ids: [].into(),
            forget_before: 1,
            deletions_up_to: 0,
            changes: Changes::default(),
        })
    }

    /// The damaged row of a session stays as it is, and all other times are moved back.
    #[tokio::test]
    async fn a_damaged_session_keeps_no_time_ahead() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sumd.db");
        let store = SqliteStore::open(&path, 1 << 20).expect("a new database");
        store.commit(0, ahead(1)).await.expect("stored");
        drop(store);
        let database = Connection::open(&path).expect("it is there");
        let damaged = "INSERT INTO session (id, state, digest) VALUES ('bad', x'00', 0)";
        database.execute(damaged, []).expect("a row");
        drop(database);
        let before = reset_horizon(&path, NOW).expect("reset");
        assert_eq!((before.last, before.session), (AHEAD, 0));
        let store = SqliteStore::open(&path, 1 << 20).expect("it is there");
        let loaded = store.load(0).await.expect("a lane");
        assert_eq!(loaded.head.session_horizon, NOW);
        let [(id, session)] = &loaded.sessions[..] else {
            panic!("{:?}", loaded.sessions);
        };
        assert_eq!(&**id, "bad");
        assert_eq!(**session, Session::damaged(NOW));
    }

    /// All times of a clock that was ten years ahead are moved back, and the data pass the check.
    #[tokio::test]
    async fn times_of_a_wrong_clock_are_taken_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sumd.db");
        let store = SqliteStore::open(&path, 1 << 20).expect("a new database");
        for seq in 1..=2 {
            store.commit(0, ahead(seq)).await.expect("stored");
        }
        drop(store);
        let before = Times {
            last: AHEAD,
            id_horizon: AHEAD - 600_000,
            session_horizon: AHEAD - 86_400_000,
            id: AHEAD,
            session: 0,
        };
        assert_eq!(check(&path).expect("a report").times, before);
        assert_eq!(reset_horizon(&path, NOW).expect("reset"), before);
        let report = check(&path).expect("a report");
        assert_eq!(report.problems, Vec::<String>::new());
        let store = SqliteStore::open(&path, 1 << 20).expect("it is there");
        let head = store.load(0).await.expect("a lane").head;
        assert_eq!((head.seq, head.age), (2, Some(1000)));
        assert_eq!(
            (head.time, head.horizon, head.session_horizon),
            (NOW, NOW, NOW)
        );
        drop(store);
        let after = Times {
            last: NOW,
            id_horizon: NOW,
            session_horizon: NOW,
            id: NOW,
            session: 0,
        };
        assert_eq!(reset_horizon(&path, NOW + 1).expect("nothing to do"), after);
    }
}
