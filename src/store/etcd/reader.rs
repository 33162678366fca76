//! Reading counters: their rows, and over them what the logs have that is not folded, all at one revision of etcd.

mod replicas;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::client::{get, prefix, prefix_end, range};
use super::kv::{self, Kv, MAX_RANGES, ReadError};
use super::load;
use super::rows::Layout;
use crate::model::{Corrupt, SessionId, group};
use crate::proto::etcd::etcdserverpb::RangeRequest;
use crate::proto::etcd::mvccpb::KeyValue;
use crate::proto::sumd::store::v1 as stored;
use crate::store::recent::{Lookup, Merged, View};
use crate::store::{LaneNumber, Page, Row, Rows, Scan, SessionRows, StoreError, Sum};
use replicas::{Moment, Replica, Replicas};

struct Point {
    names: Vec<Arc<str>>,
    reply: oneshot::Sender<Result<Rows, StoreError>>,
}

/// The way to the readers.
pub(super) struct Reader<K> {
    shared: Arc<Shared<K>>,
    points: mpsc::UnboundedSender<Point>,
}

struct Shared<K> {
    kv: K,
    layout: Layout,
    replicas: Replicas,
}

/// Rows of counters and heads of their lanes, read at one moment.
struct Round {
    names: Vec<Arc<str>>,
    /// One for each name.
    rows: Vec<Option<KeyValue>>,
    heads: Arc<BTreeMap<LaneNumber, KnownHead>>,
    /// That of etcd.
    revision: i64,
}

/// A lane's head, if there is one, and the replica that was known before it was read.
struct KnownHead {
    head: Option<KeyValue>,
    before: Option<Arc<Replica>>,
}

impl<K: Kv> Reader<K> {
    /// Starts to read, on the runtime that this is called on.
    pub(super) fn start(kv: K, layout: Layout) -> Self {
        let shared = Arc::new(Shared {
            kv,
            replicas: Replicas::new(layout.lanes),
            layout,
        });
        let (points, mut waiting) = mpsc::unbounded_channel::<Point>();
        let of_task = shared.clone();
        tokio::spawn(async move {
            // While one round is read the next one gathers: each of its readers asked before it began.
            while let Some(first) = waiting.recv().await {
                let mut round = vec![first];
                while round.len() < MAX_RANGES
                    && let Ok(point) = waiting.try_recv()
                {
                    round.push(point);
                }
                of_task.answer(round).await;
            }
        });
        Self { shared, points }
    }

    pub(super) async fn read(&self, names: Vec<Arc<str>>) -> Result<Rows, StoreError> {
        let (reply, answer) = oneshot::channel();
        let ended = || StoreError::Failed("its reader has ended".into());
        self.points
            .send(Point { names, reply })
            .map_err(|_| ended())?;
        answer.await.unwrap_or_else(|_| Err(ended()))
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

/// Why nothing was read.
enum Problem {
    /// What was to be read is forgotten meanwhile.
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
    /// Reads for those who wait, all at one moment, unless they are too many for a transaction. Those of the same lanes are
    /// answered together, and beside the others: to read a lane's packs may take its time.
    async fn answer(self: &Arc<Self>, points: Vec<Point>) {
        let names = points.iter().flat_map(|point| &point.names);
        let round = match self.read_round(names.cloned().collect()).await {
            Ok(round) => round,
            Err(error) => return refuse(points, &error),
        };
        let mut rows = round.names.into_iter().zip(round.rows);
        let mut groups: BTreeMap<Vec<LaneNumber>, (Vec<Point>, Round)> = BTreeMap::new();
        for point in points {
            let lanes = self.lanes(&point.names);
            let (points, group) = groups.entry(lanes).or_insert_with(|| {
                let group = Round {
                    names: Vec::new(),
                    rows: Vec::new(),
                    heads: round.heads.clone(),
                    revision: round.revision,
                };
                (Vec::new(), group)
            });
            for (name, row) in rows.by_ref().take(point.names.len()) {
                group.names.push(name);
                group.rows.push(row);
            }
            points.push(point);
        }
        for (points, group) in groups.into_values() {
            tokio::spawn(self.clone().finish(points, group));
        }
    }

    async fn finish(self: Arc<Self>, points: Vec<Point>, mut round: Round) {
        let rows = loop {
            match self.points(&round).await {
                Err(Problem::Again) => {}
                Err(Problem::Store(error)) => return refuse(points, &error),
                Ok(rows) => break rows,
            }
            round = match self.read_round(round.names).await {
                Ok(round) => round,
                Err(error) => return refuse(points, &error),
            };
        };
        let revision = self.layout.end(round.revision);
        let mut rows = rows.into_iter();
        for point in points {
            // All are taken, whether one of them is damaged or not: the others are of those who come next.
            let own: Vec<_> = rows.by_ref().take(point.names.len()).collect();
            let rows: Result<Vec<_>, _> = own.into_iter().collect();
            let _ = point.reply.send(rows.map(|rows| Rows { rows, revision }));
        }
    }

    fn lane_of(&self, name: &str) -> LaneNumber {
        self.layout.digests.lane(group(name), self.layout.lanes)
    }

    /// The lanes of counters, each once.
    fn lanes(&self, names: &[Arc<str>]) -> Vec<LaneNumber> {
        let mut lanes: Vec<_> = names.iter().map(|name| self.lane_of(name)).collect();
        lanes.sort_unstable();
        lanes.dedup();
        lanes
    }

    async fn read_round(&self, names: Vec<Arc<str>>) -> Result<Round, StoreError> {
        loop {
            match self.try_round(&names).await {
                Err(ReadError::Compacted) => {}
                Err(error) => return Err(error.into()),
                Ok((rows, heads, revision)) => {
                    return Ok(Round {
                        names,
                        rows,
                        heads: Arc::new(heads),
                        revision,
                    });
                }
            }
        }
    }

    async fn try_round(
        &self,
        names: &[Arc<str>],
    ) -> Result<(Vec<Option<KeyValue>>, BTreeMap<LaneNumber, KnownHead>, i64), ReadError> {
        let lanes = self.lanes(names);
        let before: Vec<_> = lanes
            .iter()
            .map(|lane| self.replicas.known(*lane))
            .collect();
        let heads = lanes.iter().map(|lane| get(self.layout.head(*lane)));
        let rows = names.iter().map(|name| get(self.layout.counter(name)));
        let mut ranges: Vec<_> = heads.chain(rows).collect();
        let rest = ranges.split_off(ranges.len().min(MAX_RANGES));
        let mut found = kv::read(&self.kv, ranges).await?;
        for more in rest.chunks(MAX_RANGES) {
            let at = |range: &RangeRequest| RangeRequest {
                revision: found.revision,
                ..range.clone()
            };
            let more = kv::read(&self.kv, more.iter().map(at).collect()).await?;
            found.ranges.extend(more.ranges);
        }
        let ranges = found.ranges.into_iter();
        let mut rows = ranges.map(|range| range.kvs.into_iter().next());
        let mut heads = BTreeMap::new();
        for (lane, before) in lanes.into_iter().zip(before) {
            let head = rows.next().flatten();
            heads.insert(lane, KnownHead { head, before });
        }
        Ok((rows.collect(), heads, found.revision))
    }

    /// What the counters of a round are: one that is damaged is no answer to those who asked for it, and only to those.
    async fn points(&self, round: &Round) -> Result<Vec<Result<Option<Row>, StoreError>>, Problem> {
        let mut views = HashMap::new();
        for lane in self.lanes(&round.names) {
            let known = &round.heads[&lane];
            if let Some(head) = &known.head {
                let moment = Moment {
                    lane,
                    head,
                    before: known.before.clone(),
                    revision: round.revision,
                };
                let replica = self.refresh(moment).await?;
                views.insert(lane, replica.recent.view(0));
            }
        }
        let rows = round.names.iter().zip(&round.rows).map(|(name, row)| {
            let view = views.get(&self.lane_of(name));
            let latest = view.and_then(|view| Lookup::new(&view.runs).find(name).map(to_row));
            match (latest, row) {
                (Some(latest), _) => Ok(latest.value.is_some().then_some(latest)),
                (None, Some(row)) => self.row(row, Some(name)).map(Some),
                (None, None) => Ok(None),
            }
        });
        Ok(rows.collect())
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
        let page = self.layout.sizes.rows_page;
        let limit = i64::try_from(scan.limit).unwrap_or(page).clamp(1, page);
        let (found, overlay) = self.snapshot(&scan.prefix, range(from, end, limit)).await?;
        // Rows that were read are all there are up to the last of them, or to the end.
        let last = found.kvs.last().filter(|_| found.more);
        let last = last
            .map(|row| self.name(row))
            .transpose()?
            .map(str::to_owned);
        let after = scan.after.as_deref().unwrap_or_default();
        let is_here = |name: &str| name > after && last.as_deref().is_none_or(|last| name <= last);
        let mut merged: BTreeMap<Arc<str>, Row> = BTreeMap::new();
        for row in &found.kvs {
            let row = self.row(row, None)?;
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
        let page = self.layout.sizes.rows_page;
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
                let row = self.row(row, None)?;
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
        let sessions = states.into_iter().filter_map(|(lane, told)| {
            let session = load::known(&self.layout, lane, id, told.session(), 0)?;
            Some(Arc::unwrap_or_clone(session))
        });
        Ok(SessionRows {
            lanes: sessions.collect(),
            revision: self.layout.end(revision),
            horizon,
        })
    }

    /// Reads a range, and what is newer of the counters with a prefix, all at one moment.
    async fn snapshot(
        &self,
        of: &str,
        wanted: RangeRequest,
    ) -> Result<(crate::proto::etcd::etcdserverpb::RangeResponse, Overlay), Problem> {
        // A prefix that has a whole group in it is of one lane.
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
            views.push(replica.recent.view(0));
            forgotten = forgotten.max(replica.forgotten);
        }
        let mut overlay = Vec::new();
        for view in &views {
            let newer = Merged::new(&view.runs, of);
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

    /// What is known of some lanes, before their heads are read.
    fn known(&self, lanes: Range<LaneNumber>) -> HashMap<LaneNumber, Arc<Replica>> {
        let known = lanes.map(|lane| Some((lane, self.replicas.known(lane)?)));
        known.flatten().collect()
    }

    fn lane(&self, head: &KeyValue) -> Result<LaneNumber, Corrupt> {
        let lane = self.layout.lane_of_head(&head.key);
        lane.ok_or(Corrupt("a head's key names no lane"))
    }

    fn name<'a>(&self, row: &'a KeyValue) -> Result<&'a str, Corrupt> {
        let name = self.layout.name(&row.key);
        name.ok_or(Corrupt("a counter's key is not UTF-8"))
    }

    /// What a counter's row says. `counter` is the one that was asked for by its name.
    fn row(&self, row: &KeyValue, counter: Option<&Arc<str>>) -> Result<Row, StoreError> {
        let name = self.name(row)?;
        let opened = self.layout.open(row);
        let counter: stored::Counter = opened.map_err(|_| StoreError::Damaged {
            counter: counter.cloned(),
            problem: format!("the row of counter {name:?} is damaged").into(),
        })?;
        Ok(Row {
            name: name.into(),
            value: Some(counter.value),
            revision: counter.revision,
        })
    }
}

fn refuse(points: Vec<Point>, error: &StoreError) {
    for point in points {
        let _ = point.reply.send(Err(error.clone()));
    }
}

/// What is newer than rows.
struct Overlay {
    rows: Vec<Row>,
    etcd_revision: i64,
    revision: i64,
    forgotten: i64,
}

fn to_row(latest: crate::store::recent::Latest<'_>) -> Row {
    Row {
        name: latest.name.into(),
        value: latest.value,
        revision: latest.revision,
    }
}
