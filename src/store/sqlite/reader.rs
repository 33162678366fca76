//! Reads, each from one snapshot: first the memtable, then the rows.

use std::ops::ControlFlow;
use std::sync::Arc;

use rusqlite::{
    Connection, OptionalExtension as _, Row as SqlRow, Transaction, TransactionBehavior, params,
};

use super::meta::Meta;
use super::rows::{self, BatchRow, Error, Log, Result};
use crate::model::{Head, KeyedHasher, Session};
use crate::store::memtable::{Current, Latest, Lookup, Memtable, MergeIter, RunBuilder, View};
use crate::store::{Loaded, Page, Row, Rows, Scan, SessionRows, StoreError, Sum, damaged_session};

/// Rows that a scan looks at before it returns a page.
const SCAN_ROWS: usize = 20_000;
/// Rows that a sum looks at before it checks whether its caller still waits.
const SUM_ROWS: usize = 4096;

/// The rows to walk over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Walk {
    /// The rows of counters that exist.
    There,
    /// The rows of deleted counters as well.
    All,
}

/// Distinguishes a damaged row from a database that cannot be read. `counter` is the one that the call named.
pub(crate) fn unread(error: Error, counter: Option<Arc<str>>) -> StoreError {
    match error {
        Error::Corrupt(problem) => StoreError::Damaged {
            counter,
            problem: problem.into(),
        },
        Error::Counter { name, problem } => StoreError::Damaged {
            counter: counter.or(Some(name)),
            problem: problem.into(),
        },
        error => error.into(),
    }
}

/// All rows, and the memtable, as of one moment.
pub(crate) struct Snapshot<'a> {
    transaction: Transaction<'a>,
    hasher: KeyedHasher,
    memtable: View,
}

impl<'a> Snapshot<'a> {
    /// The current state, beside this process's writer.
    pub(crate) fn take(
        connection: &'a mut Connection,
        hasher: KeyedHasher,
        current: &Current,
    ) -> Result<Self> {
        let transaction = begin(connection)?;
        let memtable = current.lock();
        // SQLite takes its snapshot at the first read. The lock is held meanwhile, so a change may be in both the rows
        // and the view, but never in neither.
        let first = "SELECT 1 FROM meta LIMIT 1";
        transaction
            .prepare_cached(first)?
            .query_row([], |_| Ok(()))?;
        Ok(Self {
            transaction,
            hasher,
            memtable: memtable.clone(),
        })
    }

    /// The state of the file, beside any writer, without the damage that `damaged` accepts.
    pub(crate) fn of_file(
        connection: &'a mut Connection,
        damaged: impl FnMut(Error) -> Result<()>,
    ) -> Result<Self> {
        let transaction = begin(connection)?;
        let hasher = Meta::read(&transaction)?.hasher;
        let mut memtable = Memtable::new(usize::MAX);
        load_recent(&transaction, hasher, &mut memtable, damaged)?;
        Ok(Self {
            memtable: memtable.view(revision(&transaction)?),
            transaction,
            hasher,
        })
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.transaction
    }

    pub(crate) fn revision(&self) -> i64 {
        self.memtable.revision
    }

    pub(crate) fn read(&self, names: Vec<Arc<str>>) -> std::result::Result<Rows, StoreError> {
        let sql = format!("{} WHERE name = ?1", rows::COUNTER);
        let statement = self.transaction.prepare_cached(&sql);
        let mut statement = statement.map_err(|error| unread(error.into(), None))?;
        let mut memtable = Lookup::new(&self.memtable.runs);
        let mut one = |name: &Arc<str>| {
            if let Some(latest) = memtable.find(name) {
                return Ok(latest.value.is_some().then(|| to_row(latest)));
            }
            let mut found = statement.query(params![name])?;
            let row = found.next()?;
            row.map(|row| rows::counter(self.hasher, row).map(to_row))
                .transpose()
        };
        let found: std::result::Result<Vec<Option<Row>>, StoreError> = names
            .into_iter()
            .map(|name| one(&name).map_err(|error| unread(error, Some(name))))
            .collect();
        Ok(Rows {
            rows: found?,
            revision: self.revision(),
        })
    }

    pub(crate) fn scan(&self, scan: &Scan) -> Result<Page> {
        let mut page = Page {
            rows: Vec::new(),
            next: None,
            revision: self.revision(),
            forgotten: Meta::read(&self.transaction)?.forgotten,
        };
        // In byte order, every name after `after` that has the prefix comes after both.
        let from = scan
            .after
            .as_ref()
            .map_or(&scan.prefix, |after| after.max(&scan.prefix));
        let walk = if scan.since == 0 {
            Walk::There
        } else {
            Walk::All
        };
        let mut seen = 0;
        self.walk(from, walk, |latest| {
            let latest = match latest {
                Ok(latest) => latest,
                Err(damaged) => return ControlFlow::Break(Err(damaged)),
            };
            if !latest.name.starts_with(&*scan.prefix) {
                return ControlFlow::Break(Ok(()));
            }
            if Some(latest.name) == scan.after.as_deref() {
                return ControlFlow::Continue(());
            }
            seen += 1;
            if latest.revision > scan.since {
                page.rows.push(to_row(latest));
            }
            if page.rows.len() == scan.limit || seen == SCAN_ROWS {
                page.next = Some(latest.name.into());
                return ControlFlow::Break(Ok(()));
            }
            ControlFlow::Continue(())
        })?;
        Ok(page)
    }

    pub(crate) fn sum(&self, prefix: &str, abandoned: &dyn Fn() -> bool) -> Result<Sum> {
        let mut sum = Sum {
            sum: 0,
            count: 0,
            revision: self.revision(),
        };
        let mut seen = 0;
        self.walk(prefix, Walk::There, |latest| {
            let latest = match latest {
                Ok(latest) => latest,
                Err(damaged) => return ControlFlow::Break(Err(damaged)),
            };
            if !latest.name.starts_with(prefix) {
                return ControlFlow::Break(Ok(()));
            }
            sum.sum += i128::from(latest.value.unwrap_or(0));
            sum.count += 1;
            seen += 1;
            if seen % SUM_ROWS == 0 && abandoned() {
                return ControlFlow::Break(Err(Error::Abandoned));
            }
            ControlFlow::Continue(())
        })?;
        Ok(sum)
    }

    /// Calls `each` in name order for every counter whose name is not before `from`, and for every damaged row, until
    /// it breaks.
    pub(crate) fn walk(
        &self,
        from: &str,
        walk: Walk,
        mut each: impl FnMut(Result<Latest<'_>>) -> ControlFlow<Result<()>>,
    ) -> Result<()> {
        let there = format!("{} WHERE name >= ?1", rows::COUNTER);
        let gone = format!("{} WHERE name >= ?1", rows::DELETED);
        let sql = match walk {
            Walk::There => format!("{there} ORDER BY name"),
            Walk::All => format!("{there} UNION ALL {gone} ORDER BY name"),
        };
        let mut statement = self.transaction.prepare_cached(&sql)?;
        let mut found = statement.query(params![from])?;
        let mut memtable = MergeIter::new(&self.memtable.runs, from).peekable();
        let mut show = |latest: Result<Latest<'_>>| match latest {
            Ok(latest) if latest.value.is_none() && walk == Walk::There => {
                ControlFlow::Continue(())
            }
            latest => each(latest),
        };
        while let Some(row) = found.next()? {
            let row = rows::counter(self.hasher, row);
            // The name in a damaged row proves nothing.
            let name = row.as_ref().map_or("", |row| row.name);
            while let Some(latest) = memtable.next_if(|latest| latest.name < name) {
                if let ControlFlow::Break(end) = show(Ok(latest)) {
                    return end;
                }
            }
            let is_newer = |latest: &Latest<'_>| latest.name == name;
            if !memtable.peek().is_some_and(is_newer)
                && let ControlFlow::Break(end) = show(row)
            {
                return end;
            }
        }
        for latest in memtable {
            if let ControlFlow::Break(end) = show(Ok(latest)) {
                return end;
            }
        }
        Ok(())
    }
}

fn to_row(latest: Latest<'_>) -> Row {
    Row {
        name: latest.name.into(),
        value: latest.value,
        revision: latest.revision,
    }
}

fn begin(connection: &mut Connection) -> Result<Transaction<'_>> {
    Ok(connection.transaction_with_behavior(TransactionBehavior::Deferred)?)
}

/// The revision of the last committed operation.
pub(crate) fn revision(connection: &Connection) -> Result<i64> {
    Ok(last(connection, "base + places")?.unwrap_or(0))
}

/// A column of the last batch, if there is a batch.
pub(crate) fn last<T: rusqlite::types::FromSql>(
    connection: &Connection,
    column: &str,
) -> Result<Option<T>> {
    let sql = format!("SELECT {column} FROM batch ORDER BY seq DESC LIMIT 1");
    let mut statement = connection.prepare(&sql)?;
    Ok(statement.query_row([], |row| row.get(0)).optional()?)
}

/// Reads the logs of batches that are not folded. A damaged or missing batch is left out if `damaged` accepts it.
pub(crate) fn load_recent(
    connection: &Connection,
    hasher: KeyedHasher,
    memtable: &mut Memtable,
    mut damaged: impl FnMut(Error) -> Result<()>,
) -> Result<()> {
    let first = Meta::read(connection)?.folded + 1;
    let mut gathered = RunBuilder::default();
    let mut take = |row: &SqlRow<'_>| {
        let BatchRow { pack, .. } = rows::batch(hasher, row)?;
        let log = rows::log_of(hasher, row)?;
        log.read(pack.base, |latest| gathered.push(latest))?;
        memtable.log(log.bytes());
        if gathered.is_full() {
            memtable.push(gathered.take());
        }
        Ok(())
    };
    batches_from(connection, rows::LOGGED, first, |row| {
        row.and_then(&mut take).or_else(&mut damaged)
    })?;
    memtable.push(gathered.take());
    Ok(())
}

/// The oldest batch of which anything is remembered.
pub(crate) fn oldest(connection: &Connection, hasher: KeyedHasher) -> Result<u64> {
    let seq: i64 = last(connection, "seq")?.unwrap_or(0);
    let log: Vec<u8> = last(connection, "log")?.unwrap_or_default();
    Ok(Log::new(hasher, seq.cast_unsigned(), &log)?.forget_before)
}

/// Calls `each` for every batch in order, from the oldest of which anything is remembered, and for every damaged or
/// missing one with an error.
pub(crate) fn each_batch(
    connection: &Connection,
    hasher: KeyedHasher,
    mut each: impl FnMut(Result<BatchRow>) -> Result<()>,
) -> Result<()> {
    let oldest = match oldest(connection, hasher) {
        Err(damage @ Error::Corrupt(_)) => {
            each(Err(damage))?;
            0
        }
        oldest => oldest?,
    };
    batches_from(connection, rows::BATCH, oldest, |row| {
        each(row.and_then(|row| rows::batch(hasher, row)))
    })
}

/// Calls `each` for every row of a batch from `first` to the last one, and with an error for every gap. The rows are
/// consecutive, since unneeded ones are deleted from the front. The first format left out batches without ids and did
/// not store the number of its first batch; `first` is then 0.
fn batches_from(
    connection: &Connection,
    columns: &str,
    first: u64,
    mut each: impl FnMut(Result<&SqlRow<'_>>) -> Result<()>,
) -> Result<()> {
    let last: i64 = last(connection, "seq")?.unwrap_or(0);
    let mut statement = connection.prepare(&format!("{columns} WHERE seq >= ?1 ORDER BY seq"))?;
    let mut found = statement.query([first.cast_signed()])?;
    let mut next = first.cast_signed();
    while let Some(row) = found.next()? {
        let seq: i64 = row.get(0)?;
        if next > 0 && seq != next && rows::has_log(row)? {
            each(Err(missing(next, seq - 1)))?;
        }
        next = seq.saturating_add(1);
        each(Ok(row))?;
    }
    let end = last.saturating_add(1);
    if next > end {
        each(Err(missing(end, next - 1)))?;
    }
    Ok(())
}

/// The rows of a session, at most one.
pub(crate) fn session(
    connection: &mut Connection,
    hasher: KeyedHasher,
    id: &str,
) -> Result<SessionRows> {
    let snapshot = begin(connection)?;
    let time = last(&snapshot, "time")?.unwrap_or(0);
    let mut statement = snapshot.prepare_cached(&format!("{} WHERE id = ?1", rows::SESSION))?;
    let mut found = statement.query([id])?;
    let row = found.next()?;
    let row = row.map(|row| rows::session_or_damage(hasher, row));
    let session = row.transpose()?.map(|(_, session)| session);
    Ok(SessionRows {
        lanes: Vec::from_iter(
            session.map(|found| found.unwrap_or_else(|_| Session::damaged(time))),
        ),
        revision: revision(&snapshot)?,
        horizon: last(&snapshot, "session_horizon")?.unwrap_or(0),
    })
}

fn missing(first: i64, last: i64) -> Error {
    Error::Corrupt(if first == last {
        format!("batch {first} is missing")
    } else {
        format!("batches {first} to {last} are missing")
    })
}

pub(crate) fn load(connection: &mut Connection, hasher: KeyedHasher) -> Result<Loaded> {
    let snapshot = begin(connection)?;
    let mut loaded = Loaded {
        head: Head::default(),
        packs: Vec::new(),
        sessions: Vec::new(),
        before: None,
    };
    each_batch(&snapshot, hasher, |batch| {
        let BatchRow { head, pack } = batch?;
        loaded.head = head;
        if !pack.ids.is_empty() {
            loaded.packs.push(pack);
        }
        Ok(())
    })?;
    let mut statement = snapshot.prepare(rows::SESSION)?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let (id, session) = rows::session_or_damage(hasher, row)?;
        let session = session.unwrap_or_else(|damage| {
            damaged_session(&damage);
            Session::damaged(loaded.head.time)
        });
        loaded.sessions.push((id, Arc::new(session)));
    }
    Ok(loaded)
}

#[cfg(test)]
mod tests;
