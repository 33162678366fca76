//! Writes the contents of another store under an empty prefix.
//!
//! The import takes many transactions. It writes the `meta` row first and marks the data incomplete there, so that no
//! node serves them; it clears the mark last. Each transaction compares that row, so that a delayed copy of a
//! transaction cannot land later. An import that finds incomplete data with the same key deletes them and begins again.

use std::iter;

use bytes::Bytes;
use prost::Message as _;
use tokio::time::{Duration, Instant, sleep};
use uuid::Uuid;

use crate::etcd::{Outcome, Refusal, at_revision, delete_prefix, prefix, put};
use crate::maintenance::dump::Dump;
use crate::maintenance::report::ToolError;
use crate::model::{Stamp, group};
use crate::proto::etcd::etcdserverpb::{RequestOp, TxnRequest};
use crate::proto::sumd::store::v1::{Batch, Before, BeforePack, Counter, Head, Meta, Session};
use crate::store::Remembered;
use crate::store::Row;
use crate::store::etcd::Location;
use crate::store::etcd::kv::{self, Kv};
use crate::store::etcd::rows::{FORMAT, Layout};
use crate::store::etcd::{OpenError, meta};

/// Upper bound of one transaction, and of one row of ids. etcd accepts 1.5 MiB by default.
const MAX_BYTES: usize = 512 << 10;
/// Deadline of one answer. Attempts are repeated until [`PATIENCE`] has passed.
const ANSWER: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_millis(200);

/// Data that are being imported.
pub(in crate::maintenance) struct Filling<K> {
    place: Location<K>,
    layout: Layout,
    meta: Meta,
    /// The revision at which the `meta` row was last changed; every transaction compares it.
    guard: i64,
    operations: Vec<RequestOp>,
    bytes: usize,
    /// By lane, the revision of the last deleted counter, which gets no row.
    forgotten: Vec<i64>,
}

impl<K: Kv> Filling<K> {
    /// Begins an import of `dump`. The revisions of the new store continue after a gap.
    pub(in crate::maintenance) async fn begin(
        place: &Location<K>,
        dump: &Dump,
        gap: i64,
    ) -> Result<Self, ToolError> {
        let lanes = place.lanes;
        for (id, session) in &dump.sessions {
            if let Some(of) = session.partially_applied().filter(|of| *of != lanes) {
                return Err(ToolError::Refused(format!(
                    "session {id:?} has partly applied messages, in some of {of} lanes: serve the source until its \
                     client has sent them again, or give the target as many lanes (--etcd-lanes {of})"
                )));
            }
        }
        let Location { client, prefix, .. } = place;
        let mut meta = Meta {
            format: FORMAT,
            lanes,
            key: dump.hasher.key().to_vec().into(),
            filling: true,
            ..Meta::default()
        };
        let expected = expected(place, &meta).await?;
        let first = meta::replace(prefix, &meta, expected);
        let answer = client.txn(first, Instant::now() + ANSWER).await;
        let answer = answer.map_err(|error| OpenError::Etcd(error.to_string()))?;
        if !answer.succeeded {
            return Err(not_empty(prefix));
        }
        let guard = answer.header.map_or(0, |header| header.revision);
        // The next revision of etcd is the first that a change here can have.
        let zero = Layout::new(prefix, &meta, guard).map_err(OpenError::Data)?;
        let last = dump.revision.checked_add(gap);
        let last = last.and_then(|last| last.checked_sub(zero.base(guard, 0)));
        meta.revisions_before =
            last.ok_or_else(|| ToolError::Refused("there are no revisions left".to_owned()))?;
        let newest = dump
            .packs
            .iter()
            .map(|pack| pack.newest.unwrap_or(pack.time));
        let newest = newest.max();
        meta.before_until = newest.unwrap_or(0);
        swap(place, &meta, guard).await?;
        let guard = match meta::read(client, prefix).await? {
            (Some((now, revision)), _) if now == meta => revision,
            _ => return Err(not_empty(prefix)),
        };
        let mut filling = Self {
            layout: Layout::new(prefix, &meta, guard).map_err(OpenError::Data)?,
            place: place.clone(),
            meta,
            guard,
            operations: Vec::new(),
            bytes: 0,
            forgotten: vec![0; lanes as usize],
        };
        filling.wipe().await?;
        Ok(filling)
    }

    /// Deletes the rows that an earlier attempt has left.
    async fn wipe(&mut self) -> Result<(), ToolError> {
        let layout = self.layout.clone();
        for rows in [
            layout.log(),
            layout.counters(),
            layout.all_sessions(),
            layout.all_before(),
        ] {
            self.operations.push(delete_prefix(rows));
        }
        self.send().await
    }

    /// Writes the next counters. Deleted counters get no row here; their revisions are noted.
    pub(in crate::maintenance) async fn counters(&mut self, rows: &[Row]) -> Result<(), ToolError> {
        for row in rows {
            if let Some(value) = row.value {
                let key = self.layout.counter(&row.name);
                let revision = row.revision;
                let sealed = self.layout.seal(&key, &Counter { value, revision });
                self.put(key, sealed).await?;
            } else {
                let lane = self.layout.hasher.lane(group(&row.name), self.layout.lanes);
                let forgotten = &mut self.forgotten[lane as usize];
                *forgotten = row.revision.max(*forgotten);
            }
        }
        Ok(())
    }

    /// Writes the contents of the dump, after all counters. Watchers whose last revision is at least `forgotten` can
    /// resume, unless a counter was deleted after that revision.
    pub(in crate::maintenance) async fn rest(
        &mut self,
        dump: &Dump,
        forgotten: i64,
    ) -> Result<(), ToolError> {
        let layout = self.layout.clone();
        for (lane, deleted) in (0..).zip(std::mem::take(&mut self.forgotten)) {
            // A lane resumes from its last batch, so each lane needs one.
            let batch = Batch {
                seq: 1,
                attempt: Bytes::copy_from_slice(Uuid::new_v4().as_bytes()),
                time: dump.time,
                extras: Stamp {
                    age: Some(0),
                    newest: None,
                }
                .encode()
                .into(),
                ..Batch::default()
            };
            let head = Head {
                seq: 1,
                time: dump.time,
                horizon: dump.horizon,
                session_horizon: dump.session_horizon,
                forget_before: 1,
                folded: 1,
                forgotten: forgotten.max(deleted),
                log_from: 1,
                open_from: 1,
                batches: vec![batch],
            };
            let key = layout.head(lane);
            let value = layout.seal(&key, &head);
            self.put(key, value).await?;
        }
        for (id, session) in &dump.sessions {
            for (lane, row) in session.split_by_lane(id, dump.hasher, self.layout.lanes, dump.time)
            {
                let key = layout.session(lane, id);
                let state = layout.encode(&row);
                let value = layout.seal(&key, &Session { state });
                self.put(key, value).await?;
            }
        }
        for (index, row) in (0..).zip(before_rows(&dump.packs)) {
            let key = layout.before(index);
            let value = layout.seal(&key, &row);
            self.put(key, value).await?;
        }
        self.send().await
    }

    /// Marks the data complete. Nodes can serve them from now on.
    pub(in crate::maintenance) async fn open(self) -> Result<(), ToolError> {
        let meta = Meta {
            filling: false,
            ..self.meta
        };
        swap(&self.place, &meta, self.guard).await
    }

    async fn put(&mut self, key: Bytes, value: Bytes) -> Result<(), ToolError> {
        let bytes = key.len() + value.len();
        let is_full =
            self.operations.len() >= self.place.max_operations || self.bytes + bytes > MAX_BYTES;
        if is_full {
            self.send().await?;
        }
        self.bytes += bytes;
        self.operations.push(put(key, value));
        Ok(())
    }

    async fn send(&mut self) -> Result<(), ToolError> {
        let operations = std::mem::take(&mut self.operations);
        self.bytes = 0;
        if operations.is_empty() {
            return Ok(());
        }
        let request = TxnRequest {
            compare: vec![at_revision(self.layout.meta(), self.guard)],
            success: operations,
            ..TxnRequest::default()
        };
        if insist(&self.place.client, request).await? {
            return Ok(());
        }
        Err(ToolError::Refused(format!(
            "another process has begun to write under {}",
            self.place.prefix
        )))
    }
}

/// The rows of imported request ids. There are as few as possible, because each lane reads all of them when it starts.
fn before_rows(packs: &[Remembered]) -> impl Iterator<Item = Before> {
    let packs = packs.iter().map(|pack| BeforePack {
        time: pack.time,
        base: pack.base,
        places: pack.places,
        ids: Bytes::copy_from_slice(&pack.ids),
        extras: Stamp {
            age: Some(0),
            newest: pack.newest,
        }
        .encode()
        .into(),
    });
    let mut packs = packs.peekable();
    iter::from_fn(move || {
        let mut row = Before {
            packs: vec![packs.next()?],
        };
        while let Some(pack) =
            packs.next_if(|pack| row.encoded_len() + pack.encoded_len() <= MAX_BYTES)
        {
            row.packs.push(pack);
        }
        Some(row)
    })
}

/// Whether there is a `meta` row, for complete or incomplete data.
pub(in crate::maintenance) async fn is_begun(place: &Location<impl Kv>) -> Result<bool, ToolError> {
    let (found, _) = meta::read(&place.client, &place.prefix).await?;
    Ok(found.is_some())
}

/// The revision of the `meta` row to replace, or 0 if the prefix is empty. A row may be replaced only if it marks an
/// unfinished import with the same key.
async fn expected(place: &Location<impl Kv>, wanted: &Meta) -> Result<i64, ToolError> {
    let Location { client, prefix, .. } = place;
    if let (Some((meta, revision)), _) = meta::read(client, prefix).await? {
        let is_ours = meta.filling && meta.key == wanted.key;
        return is_ours.then_some(revision).ok_or_else(|| not_empty(prefix));
    }
    let any = self::prefix(format!("{prefix}/"), 1);
    let found = kv::read(client, vec![any]).await.map_err(OpenError::from)?;
    let is_empty = found.ranges.iter().all(|range| range.kvs.is_empty());
    is_empty.then_some(0).ok_or_else(|| not_empty(prefix))
}

fn not_empty(prefix: &str) -> ToolError {
    ToolError::NotEmpty(prefix.to_owned())
}

/// Replaces the `meta` row if it was last changed at revision `guard`.
pub(in crate::maintenance) async fn swap(
    place: &Location<impl Kv>,
    meta: &Meta,
    guard: i64,
) -> Result<(), ToolError> {
    let request = meta::replace(&place.prefix, meta, guard);
    if insist(&place.client, request).await? {
        return Ok(());
    }
    // An earlier copy of this transaction may have landed.
    let (found, _) = meta::read(&place.client, &place.prefix).await?;
    if found.is_some_and(|(found, _)| found == *meta) {
        return Ok(());
    }
    Err(ToolError::Refused(format!(
        "another process has changed {}/meta in the meantime",
        place.prefix
    )))
}

/// Carries out an idempotent transaction, and repeats it after transient errors. Returns `false` if its comparison
/// failed.
async fn insist(client: &impl Kv, request: TxnRequest) -> Result<bool, ToolError> {
    let end = Instant::now() + PATIENCE;
    loop {
        let answer = client.txn(request.clone(), Instant::now() + ANSWER).await;
        match answer {
            Ok(answer) => return Ok(answer.succeeded),
            Err(error) if error.is_passing() && Instant::now() < end => sleep(PAUSE).await,
            Err(error) => {
                let hint = match error.outcome {
                    Outcome::Definite(Refusal::TooManyOperations) => " (--etcd-max-txn-ops)",
                    _ => "",
                };
                return Err(OpenError::Etcd(format!("{error}{hint}")).into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::etcd::kv::tests::Flaky;

    /// An etcd that cannot be asked is waited for as long as it may be an election, and no longer.
    #[tokio::test(start_paused = true)]
    async fn a_transaction_is_tried_for_a_while() {
        let insist = async |failures, refusal| {
            let begun = Instant::now();
            let kv = Flaky::new(failures, Some(Outcome::Definite(refusal)));
            let done = insist(&kv, TxnRequest::default()).await;
            (done.ok(), begun.elapsed())
        };
        let away = Refusal::NotConnected;
        // Its comparison fails, as that etcd has it.
        assert_eq!(insist(3, away).await, (Some(false), PAUSE * 3));
        assert_eq!(insist(u32::MAX, away).await, (None, PATIENCE));
        assert_eq!(insist(1, Refusal::Denied).await, (None, Duration::ZERO));
    }

    /// Ids are split, in order, into rows within etcd's size limit, and into as few rows as possible.
    #[test]
    fn ids_are_put_into_rows_that_etcd_takes() {
        let pack = |(base, size): (i64, usize)| Remembered {
            time: 0,
            newest: None,
            base,
            places: 1,
            ids: vec![7; size].into(),
        };
        let sizes = [MAX_BYTES / 4; 10].into_iter().chain([MAX_BYTES, 1, 1]);
        let packs: Vec<_> = (0..).zip(sizes).map(pack).collect();
        let rows: Vec<_> = before_rows(&packs).collect();
        let bases = rows
            .iter()
            .map(|row| row.packs.iter().map(|pack| pack.base));
        let bases: Vec<Vec<_>> = bases.map(Iterator::collect).collect();
        assert_eq!(
            bases,
            [
                vec![0, 1, 2],
                vec![3, 4, 5],
                vec![6, 7, 8],
                vec![9],
                vec![10],
                vec![11, 12]
            ]
        );
        assert_eq!(before_rows(&[]).count(), 0);
    }
}
