//! Reads of counters: their rows, and on top of them the logs' changes that are not folded, all at one revision of
//! etcd.

mod points;
mod replicas;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use super::kv::{self, Kv, MAX_RANGES, ReadError};
use super::rows::Layout;
use crate::etcd::{get, prefix, prefix_end, range};
use crate::model::{Corrupt, Millis, Session, SessionId, group};
use crate::proto::etcd::etcdserverpb::RangeRequest;
use crate::proto::etcd::mvccpb::KeyValue;
use crate::proto::sumd::store::v1 as stored;
use crate::store::memtable::{MergeIter, View};
use crate::store::{LaneNumber, Page, Row, Rows, Scan, SessionRows, StoreError, Sum};
use points::Points;
use replicas::{Moment, Replica, Replicas};

/// A handle of the readers.
pub(super) struct Reader<K> {
    shared: Arc<Shared<K>>,
    points: Points,
}

struct Shared<K> {
    kv: K,
    layout: Layout,
    replicas: Replicas,
}

impl<K: Kv> Reader<K> {
    /// Starts the readers on the calling runtime.
    pub(super) fn start(kv: K, layout: Layout) -> Self {
        let shared = Arc::new(Shared {
            kv,
            replicas: Replicas::new(layout.lanes),
            layout,
        });
        let points = Points::start(shared.clone());
        Self { shared, points }
    }

    pub(super) async fn read(&self, names: Vec<Arc<str>>) -> Result<Rows, StoreError> {
        self.points.read(names).await
    }

    pub(super) async fn scan(&self, scan: Scan) -> Result<Page, StoreError> {
        loop {
            match self.shared.scan(&scan).await {
                Err(Problem::Again) => {}
                Err(Problem::Store(error)) => return Err(error),
                Ok(page) => return Ok(page),
            }
        }
    }

    pub(super) async fn sum(&self, prefix: &str) -> Result<Sum, StoreError> {
        loop {
            match self.shared.sum(prefix).await {
                Err(Problem::Again) => {}
                Err(Problem::Store(error)) => return Err(error),
                Ok(sum) => return Ok(sum),
            }
        }
    }

    pub(super) async fn session(&self, id: &SessionId) -> Result<SessionRows, StoreError> {
        loop {
            match self.shared.session(id).await {
                Err(Problem::Again) => {}
                Err(Problem::Store(error)) => return Err(error),
                Ok(lanes) => return Ok(lanes),
            }
        }
    }
}

/// The reason why a read failed.
enum Problem {
    /// It has to begin again at a later revision.
    Again,
    Store(StoreError),
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Compacted => Self::Again,
            error => Self::Store(error.into()),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Corrupt> for Problem {
    fn from(corrupt: Corrupt) -> Self {
        Self::Store(corrupt.into())
    }
}

impl<K: Kv> Shared<K> {
    fn lane_of(&self, name: &str) -> LaneNumber {
        self.layout.hasher.lane(group(name), self.layout.lanes)
    }

    async fn refresh(&self, moment: Moment<'_>) -> Result<Arc<Replica>, Problem> {
        self.replicas.refresh(&self.kv, &self.layout, moment).await
    }

    async fn scan(&self, scan: &Scan) -> Result<Page, Problem> {
        let start = self.layout.counter(&scan.prefix);
        let end = prefix_end(&start);
        let mut from = start.to_vec();
        if let Some(after) = scan.after.as_ref().filter(|after| **after >= scan.prefix) {
            from = self.layout.counter(after).to_vec();
            from.push(0);
        }
        let page = self.layout.tuning.rows_page;
        let limit = i64::try_from(scan.limit).unwrap_or(page).clamp(1, page);
        let (found, overlay) = self.snapshot(&scan.prefix, range(from, end, limit)).await?;
        // The rows are complete up to the last one, or to the end.
        let last = found.kvs.last().filter(|_| found.more);
        let last = last
            .map(|row| self.name(row))
            .transpose()?
            .map(str::to_owned);
        let after = scan.after.as_deref().unwrap_or_default();
        let is_here = |name: &str| name > after && last.as_deref().is_none_or(|last| name <= last);
        let mut merged: BTreeMap<Arc<str>, Row> = BTreeMap::new();
        for row in &found.kvs {
            let row = self.row(row)?;
            merged.insert(row.name.clone(), row);
        }
        for row in overlay.rows {
            if is_here(&row.name) {
                merged.insert(row.name.clone(), row);
            }
        }
        let wanted =
            |row: &Row| row.revision > scan.since && (row.value.is_some() || scan.since > 0);
        let mut rows = Vec::new();
        let mut next = last.map(Arc::from);
        for row in merged.into_values() {
            if rows.len() == scan.limit {
                let last: Option<&Row> = rows.last();
                next = last.map(|row| row.name.clone());
                break;
            }
            if wanted(&row) {
                rows.push(row);
            }
        }
        Ok(Page {
            rows,
            next,
            revision: overlay.revision,
            forgotten: overlay.forgotten,
        })
    }

    async fn sum(&self, prefix: &str) -> Result<Sum, Problem> {
        let start = self.layout.counter(prefix);
        let end = prefix_end(&start);
        let page = self.layout.tuning.rows_page;
        let first = range(start.clone(), end, page);
        let (mut found, overlay) = self.snapshot(prefix, first).await?;
        let newer: BTreeMap<&str, Option<i64>> = overlay
            .rows
            .iter()
            .map(|row| (&*row.name, row.value))
            .collect();
        let (mut sum, mut count) = (0, 0);
        for value in newer.values().flatten() {
            sum += i128::from(*value);
            count += 1;
        }
        loop {
            for row in &found.kvs {
                let row = self.row(row)?;
                if !newer.contains_key(&*row.name) {
                    sum += i128::from(row.value.unwrap_or(0));
                    count += 1;
                }
            }
            let Some(last) = found.kvs.last().filter(|_| found.more) else {
                break;
            };
            let mut from = last.key.to_vec();
            from.push(0);
            let mut next = range(from, prefix_end(&start), page);
            next.revision = overlay.etcd_revision;
            let read = kv::read(&self.kv, vec![next]).await?;
            found = read.ranges.into_iter().next().unwrap_or_default();
        }
        Ok(Sum {
            sum,
            count,
            revision: overlay.revision,
        })
    }

    async fn session(&self, id: &SessionId) -> Result<SessionRows, Problem> {
        let before = self.known(0..self.layout.lanes);
        let heads = kv::read(&self.kv, vec![prefix(self.layout.heads(), 0)]).await?;
        let revision = heads.revision;
        let heads = heads.ranges.into_iter().flat_map(|range| range.kvs);
        let mut lanes = Vec::new();
        let mut states = HashMap::new();
        let mut horizon = 0;
        for head in heads {
            let lane = self.lane(&head)?;
            let moment = Moment {
                lane,
                head: &head,
                before: before.get(&lane).cloned(),
                revision,
            };
            let replica = self.refresh(moment).await?;
            lanes.push(lane);
            horizon = horizon.max(replica.session_horizon);
            if let Some(told) = replica.session(id) {
                states.insert(lane, told);
            }
        }
        for lanes in lanes.chunks(MAX_RANGES) {
            let at = |lane: &LaneNumber| RangeRequest {
                revision,
                ..get(self.layout.session(*lane, id))
            };
            let found = kv::read(&self.kv, lanes.iter().map(at).collect()).await?;
            for (lane, range) in lanes.iter().zip(found.ranges) {
                if let Some(row) = range.kvs.first() {
                    let told = states.entry(*lane).or_default();
                    told.set_row(self.layout.open(row));
                }
            }
        }
        let sessions = states.into_values().filter_map(|told| {
            // This session is reported and not kept, so its time of last use does not matter.
            let damaged = |_| Some(Session::damaged(Millis::MAX));
            told.session().unwrap_or_else(damaged)
        });
        Ok(SessionRows {
            lanes: sessions.collect(),
            revision: self.layout.end(revision),
            horizon,
        })
    }

    /// Reads a range, and the newer changes of counters with a prefix, all at one moment.
    async fn snapshot(
        &self,
        of: &str,
        wanted: RangeRequest,
    ) -> Result<(crate::proto::etcd::etcdserverpb::RangeResponse, Overlay), Problem> {
        // A prefix with a whole group in it belongs to one lane.
        let (heads, before) = if of.contains('/') {
            let lane = self.lane_of(of);
            (get(self.layout.head(lane)), self.known(lane..lane + 1))
        } else {
            let heads = prefix(self.layout.heads(), 0);
            (heads, self.known(0..self.layout.lanes))
        };
        let found = kv::read(&self.kv, vec![heads, wanted]).await?;
        let mut ranges = found.ranges.into_iter();
        let (heads, rows) = (ranges.next().unwrap_or_default(), ranges.next());
        let mut views: Vec<View> = Vec::new();
        let mut forgotten = 0;
        for head in heads.kvs {
            let lane = self.lane(&head)?;
            let moment = Moment {
                lane,
                head: &head,
                before: before.get(&lane).cloned(),
                revision: found.revision,
            };
            let replica = self.refresh(moment).await?;
            views.push(replica.memtable.view(0));
            forgotten = forgotten.max(replica.forgotten);
        }
        let mut overlay = Vec::new();
        for view in &views {
            let newer = MergeIter::new(&view.runs, of);
            overlay.extend(
                newer
                    .take_while(|latest| latest.name.starts_with(of))
                    .map(to_row),
            );
        }
        let overlay = Overlay {
            rows: overlay,
            etcd_revision: found.revision,
            revision: self.layout.end(found.revision),
            forgotten,
        };
        Ok((rows.unwrap_or_default(), overlay))
    }

    /// The replicas of some lanes that are known before their heads are read.
    fn known(&self, lanes: Range<LaneNumber>) -> HashMap<LaneNumber, Arc<Replica>> {
        let known = lanes.map(|lane| Some((lane, self.replicas.known(lane)?)));
        known.flatten().collect()
    }

    fn lane(&self, head: &KeyValue) -> Result<LaneNumber, Corrupt> {
        let lane = self.layout.lane_of_head(&head.key);
        lane.ok_or(Corrupt("the key of a head is not that of a lane"))
    }

    fn name<'a>(&self, row: &'a KeyValue) -> Result<&'a str, Corrupt> {
        let name = self.layout.name(&row.key);
        name.ok_or(Corrupt("a counter's key is not UTF-8"))
    }

    /// Decodes a counter's row.
    fn row(&self, row: &KeyValue) -> Result<Row, StoreError> {
        let name = self.name(row)?;
        let opened = self.layout.open(row);
        let counter: stored::Counter = opened.map_err(|_| StoreError::Damaged {
            counter: Some(name.into()),
            problem: format!("the row of counter {name:?} is damaged").into(),
        })?;
        Ok(Row {
            name: name.into(),
            value: Some(counter.value),
            revision: counter.revision,
        })
    }
}

/// Changes that are newer than the rows.
struct Overlay {
    rows: Vec<Row>,
    etcd_revision: i64,
    revision: i64,
    forgotten: i64,
}

fn to_row(latest: crate::store::memtable::Latest<'_>) -> Row {
    Row {
        name: latest.name.into(),
        value: latest.value,
        revision: latest.revision,
    }
}

#[cfg(test)]
mod tests;
