//! Reading, each time from one snapshot.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};

use super::rows::{self, BatchRow, Error, Result};
use crate::model::{Digests, Head};
use crate::store::{Loaded, Page, Row, Rows, Scan, Sum};

/// Rows that a scan looks at before it answers with what it has.
const SCAN_ROWS: usize = 20_000;
/// Rows that a sum looks at before it asks whether it is still waited for.
const SUM_ROWS: usize = 4096;

/// The revision of the last operation that was committed.
pub(super) fn revision(connection: &Connection) -> Result<i64> {
    let sql = "SELECT base + places FROM batch ORDER BY seq DESC LIMIT 1";
    let mut statement = connection.prepare_cached(sql)?;
    let revision = statement.query_row([], |row| row.get(0)).optional()?;
    Ok(revision.unwrap_or(0))
}

pub(super) fn load(connection: &mut Connection, digests: Digests) -> Result<Loaded> {
    let snapshot = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
    let mut loaded = Loaded {
        head: Head::default(),
        packs: Vec::new(),
        sessions: Vec::new(),
    };
    let mut statement = snapshot.prepare(&format!("{} ORDER BY seq", rows::BATCH))?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let BatchRow { head, pack } = rows::batch(digests, row)?;
        loaded.head = head;
        if !pack.ids.is_empty() {
            loaded.packs.push(pack);
        }
    }
    let mut statement = snapshot.prepare(rows::SESSION)?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        loaded.sessions.push(rows::session(digests, row)?);
    }
    Ok(loaded)
}

pub(super) fn read(
    connection: &mut Connection,
    digests: Digests,
    names: Vec<Arc<str>>,
) -> Result<Rows> {
    let snapshot = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
    let revision = revision(&snapshot)?;
    let sql = format!("{} WHERE name = ?1", rows::COUNTER);
    let mut statement = snapshot.prepare_cached(&sql)?;
    let mut one = |name: Arc<str>| {
        let mut found = statement.query(params![name])?;
        let row = found.next()?.map(|row| rows::counter(digests, row));
        row.transpose()
    };
    let found: Result<Vec<Option<Row>>> = names.into_iter().map(&mut one).collect();
    Ok(Rows {
        rows: found?,
        revision,
    })
}

pub(super) fn scan(connection: &mut Connection, digests: Digests, scan: &Scan) -> Result<Page> {
    let snapshot = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
    let mut page = Page {
        rows: Vec::new(),
        next: None,
        revision: revision(&snapshot)?,
        forgotten: forgotten(&snapshot)?,
    };
    // Every name after `after` and with the prefix comes behind both, in the order of bytes.
    let from = scan
        .after
        .as_ref()
        .map_or(&scan.prefix, |after| after.max(&scan.prefix));
    let there = format!("{} WHERE name >= ?1", rows::COUNTER);
    let gone = format!("{} WHERE name >= ?1", rows::DELETED);
    let sql = match scan.since {
        0 => format!("{there} ORDER BY name"),
        _ => format!("{there} UNION ALL {gone} ORDER BY name"),
    };
    let mut statement = snapshot.prepare_cached(&sql)?;
    let mut found = statement.query(params![from])?;
    let mut seen = 0;
    while let Some(row) = found.next()? {
        let row = rows::counter(digests, row)?;
        if !row.name.starts_with(&*scan.prefix) {
            break;
        }
        if Some(&row.name) == scan.after.as_ref() {
            continue;
        }
        seen += 1;
        let last = row.name.clone();
        if row.revision > scan.since {
            page.rows.push(row);
        }
        if page.rows.len() == scan.limit || seen == SCAN_ROWS {
            page.next = Some(last);
            break;
        }
    }
    Ok(page)
}

pub(super) fn sum(
    connection: &mut Connection,
    digests: Digests,
    prefix: &str,
    abandoned: &dyn Fn() -> bool,
) -> Result<Sum> {
    let snapshot = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
    let mut sum = Sum {
        sum: 0,
        count: 0,
        revision: revision(&snapshot)?,
    };
    let sql = format!("{} WHERE name >= ?1 ORDER BY name", rows::COUNTER);
    let mut statement = snapshot.prepare_cached(&sql)?;
    let mut found = statement.query(params![prefix])?;
    let mut seen = 0;
    while let Some(row) = found.next()? {
        let row = rows::counter(digests, row)?;
        if !row.name.starts_with(prefix) {
            break;
        }
        sum.sum += i128::from(row.value.unwrap_or(0));
        sum.count += 1;
        seen += 1;
        if seen % SUM_ROWS == 0 && abandoned() {
            return Err(Error::Abandoned);
        }
    }
    Ok(sum)
}

/// Of the counters that were deleted up to this revision, some are not in `deleted`.
fn forgotten(connection: &Connection) -> Result<i64> {
    let sql = "SELECT value FROM meta WHERE name = 'forgotten'";
    let mut statement = connection.prepare_cached(sql)?;
    Ok(statement.query_row([], |row| row.get(0))?)
}
