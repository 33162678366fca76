//! Rounds of reads by name: all pending ones are read together, at one moment.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::replicas::{Moment, Replica};
use super::{Problem, Shared, to_row};
use crate::etcd::get;
use crate::proto::etcd::etcdserverpb::RangeRequest;
use crate::proto::etcd::mvccpb::KeyValue;
use crate::store::etcd::kv::{self, Kv, MAX_RANGES, ReadError};
use crate::store::memtable::Lookup;
use crate::store::{LaneNumber, Row, Rows, StoreError};

/// The queue of the task that reads the rounds.
pub(super) struct Points(mpsc::UnboundedSender<Point>);

/// Counters to be read, and their caller.
struct Point {
    names: Vec<Arc<str>>,
    reply: oneshot::Sender<Result<Rows, StoreError>>,
}

/// Rows of counters and heads of their lanes, read at one moment.
struct Round {
    names: Vec<Arc<str>>,
    /// One for each name.
    rows: Vec<Option<KeyValue>>,
    heads: Arc<BTreeMap<LaneNumber, KnownHead>>,
    /// The etcd revision of the read.
    revision: i64,
}

/// A lane's head, if there is one, and the replica that was known before the read.
struct KnownHead {
    head: Option<KeyValue>,
    before: Option<Arc<Replica>>,
}

impl Points {
    /// Starts the rounds on the calling runtime.
    pub(super) fn start<K: Kv>(shared: Arc<Shared<K>>) -> Self {
        let (points, mut waiting) = mpsc::unbounded_channel::<Point>();
        tokio::spawn(async move {
            // While one round is read the next one gathers: each of its callers asked before it began.
            while let Some(first) = waiting.recv().await {
                let mut round = vec![first];
                while round.len() < MAX_RANGES
                    && let Ok(point) = waiting.try_recv()
                {
                    round.push(point);
                }
                shared.answer(round).await;
            }
        });
        Self(points)
    }

    pub(super) async fn read(&self, names: Vec<Arc<str>>) -> Result<Rows, StoreError> {
        let (reply, answer) = oneshot::channel();
        let ended = || StoreError::Failed("its reader has ended".into());
        let sent = self.0.send(Point { names, reply });
        sent.map_err(|_| ended())?;
        answer.await.unwrap_or_else(|_| Err(ended()))
    }
}

impl<K: Kv> Shared<K> {
    /// Reads for pending callers, all at one revision of etcd. Callers with the same lanes are answered together and
    /// apart from the others, since reading a lane's packs may take its time.
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
            // All rows are taken even if one is damaged: the next ones belong to the next callers.
            let own: Vec<_> = rows.by_ref().take(point.names.len()).collect();
            let rows: Result<Vec<_>, _> = own.into_iter().collect();
            let _ = point.reply.send(rows.map(|rows| Rows { rows, revision }));
        }
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

    /// The counters of a round. A damaged one fails the callers that asked for it, and no others.
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
                views.insert(lane, replica.memtable.view(0));
            }
        }
        let rows = round.names.iter().zip(&round.rows).map(|(name, row)| {
            let view = views.get(&self.lane_of(name));
            let latest = view.and_then(|view| Lookup::new(&view.runs).find(name).map(to_row));
            match (latest, row) {
                (Some(latest), _) => Ok(latest.value.is_some().then_some(latest)),
                (None, Some(row)) => self.row(row).map(Some),
                (None, None) => Ok(None),
            }
        });
        Ok(rows.collect())
    }
}

fn refuse(points: Vec<Point>, error: &StoreError) {
    for point in points {
        let _ = point.reply.send(Err(error.clone()));
    }
}
