//! A lane's log as this node knows it. The next batch is planned on top of it, and taken in once it is committed.
//!
//! A batch is written to one row: the head's while batches are small, else a pack that also takes the batches in the
//! head. The rows of counters and sessions are brought up to date later by a *checkpoint*, a few with each batch; the
//! stored formats call that `folded`.

mod checkpoint;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;

use super::rows::Layout;
use super::sessions;
use crate::etcd::{at_revision, delete, get, put};
use crate::model::{self, Changes, Commit, Corrupt, CounterChange, SessionId};
use crate::proto::etcd::etcdserverpb::{Compare, DeleteRangeRequest, RequestOp};
use crate::proto::sumd::store::v1::{Batch, Head, Pack};
use crate::store::LaneNumber;
use crate::store::memtable::{Memtable, SortedRun};
use checkpoint::CheckpointProgress;

/// The log of a lane.
pub(super) struct Log {
    layout: Layout,
    lane: LaneNumber,
    /// The etcd revision of the last change of the head's row; 0 if there is none.
    revision: i64,
    head: Head,
    open_bytes: usize,
    /// The first and the last batch of each existing pack.
    packs: VecDeque<(u64, u64)>,
    memtable: Memtable,
    /// The current state of sessions whose rows are not up to date; `None` if forgotten.
    sessions: BTreeMap<SessionId, Option<Arc<model::Session>>>,
    checkpointing: Option<CheckpointProgress>,
    /// Bytes of rows that a checkpoint writes with one batch.
    fold_bytes: usize,
}

/// Sessions as batches have left them; `None` if forgotten.
pub(super) type Sessions = Vec<(SessionId, Option<Arc<model::Session>>)>;

/// The batches committed to a lane after a log's last one. All of it is read before any of it is taken in, so no failed
/// read leaves a log with half of it.
pub(super) struct Newer {
    pub(super) head: Head,
    /// The revision of the head's row.
    pub(super) row_revision: i64,
    /// Each with the revision of its row.
    pub(super) packs: Vec<(Pack, i64)>,
    pub(super) sessions: Sessions,
    /// The pack from which the memtable is read again, if another node has completed a checkpoint.
    pub(super) from: Option<u64>,
}

/// The writes of a batch. All attempts at it have the same guard.
pub(super) struct WritePlan {
    pub(super) lane: LaneNumber,
    head: Head,
    pack: Option<Pack>,
    /// All other operations: rows and deletions.
    others: Vec<RequestOp>,
    /// The revision of the head's row that it is based on.
    pub(super) revision: i64,
    /// The first batch of the pack that has the batch, now or later.
    pub(super) first: u64,
    pub(super) attempt: Bytes,
    pub(super) seq: u64,
    pub(super) places: u32,
    /// The approximate size.
    pub(super) bytes: usize,
    checkpointing: Option<CheckpointProgress>,
    fold_is_done: bool,
    pruned: usize,
}

/// The position of a committed batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Landed {
    pub(super) etcd_revision: i64,
    /// Positions before its own in that revision.
    pub(super) offset: u32,
    /// Since the previous batch another commit came too late, usually another node's.
    pub(super) is_contended: bool,
}

impl WritePlan {
    /// The number of its operations in a transaction.
    pub(super) fn operations(&self) -> usize {
        2 + usize::from(self.pack.is_some()) + self.others.len()
    }

    /// The comparison that lets it land at most once.
    pub(super) fn guard(&self, layout: &Layout) -> Compare {
        at_revision(layout.head(self.lane), self.revision)
    }

    /// Appends the operations. `offset` is the number of other lanes' positions before its own.
    pub(super) fn write(&self, layout: &Layout, offset: u32, operations: &mut Vec<RequestOp>) {
        let mut head = self.head.clone();
        if let Some(pack) = &self.pack {
            let mut pack = pack.clone();
            set_offset(&mut pack.batches, offset);
            let key = layout.pack(self.lane, self.first);
            operations.push(put(key.clone(), layout.seal(&key, &pack)));
        } else {
            set_offset(&mut head.batches, offset);
        }
        let key = layout.head(self.lane);
        operations.push(put(key.clone(), layout.seal(&key, &head)));
        operations.extend(self.others.iter().cloned());
        operations.push(delete(layout.waiting(self.lane)));
    }

    /// The operations for a head that has moved. The first one reads the head. The second one announces that this node
    /// waits for its turn; or, if a copy of this batch may have moved the head, it asks whether another node waits.
    pub(super) fn wait(&self, layout: &Layout, in_doubt: bool) -> Vec<RequestOp> {
        let head = get(layout.head(self.lane));
        let waiting = layout.waiting(self.lane);
        let waits = if in_doubt {
            get(waiting).into()
        } else {
            put(waiting, Bytes::new())
        };
        vec![head.into(), waits]
    }
}

/// Sets the offset of the last batch, which is the one being written.
fn set_offset(batches: &mut [Batch], offset: u32) {
    if let Some(last) = batches.last_mut() {
        last.offset = offset;
    }
}

impl Log {
    /// The log of a lane without commits.
    pub(super) fn empty(layout: Layout, lane: LaneNumber) -> Self {
        Self {
            memtable: Memtable::new(layout.tuning.recent_bytes),
            lane,
            revision: 0,
            head: Head {
                open_from: 1,
                log_from: 1,
                ..Head::default()
            },
            open_bytes: 0,
            packs: VecDeque::new(),
            sessions: BTreeMap::new(),
            checkpointing: None,
            fold_bytes: layout.tuning.folded_bytes,
            layout,
        }
    }

    pub(super) fn lane(&self) -> LaneNumber {
        self.lane
    }

    pub(super) fn revision(&self) -> i64 {
        self.revision
    }

    pub(super) fn head(&self) -> &Head {
        &self.head
    }

    /// Adds newer batches in one step. The log is consumed, so an error leaves no part of it.
    ///
    /// # Errors
    /// Returns an error if a row is damaged.
    pub(super) fn and(mut self, newer: Newer) -> Result<Self, Corrupt> {
        if let Some(from) = newer.from {
            self.restart(newer.head.folded, from);
        }
        for (pack, row_revision) in &newer.packs {
            self.add_pack(pack, *row_revision)?;
        }
        self.set_head(newer.head, newer.row_revision)?;
        for (id, session) in newer.sessions {
            self.set_session(id, session);
        }
        Ok(self)
    }

    /// Takes in a stored pack, without the batches that are known here.
    pub(super) fn add_pack(&mut self, pack: &Pack, row_revision: i64) -> Result<(), Corrupt> {
        let first = pack.batches.first().map(|batch| batch.seq);
        let last = pack.batches.last().map(|batch| batch.seq);
        let (Some(first), Some(last)) = (first, last) else {
            return Err(Corrupt("a pack is empty"));
        };
        self.packs.push_back((first, last));
        for batch in &pack.batches {
            self.add_changes(batch, row_revision)?;
        }
        Ok(())
    }

    /// Takes in the stored head, after the packs.
    pub(super) fn set_head(&mut self, mut head: Head, row_revision: i64) -> Result<(), Corrupt> {
        for batch in &mut head.batches {
            self.add_changes(batch, row_revision)?;
            if batch.etcd_revision == 0 {
                batch.etcd_revision = row_revision;
            }
        }
        self.open_bytes = head.batches.iter().map(prost::Message::encoded_len).sum();
        self.head = head;
        self.revision = row_revision;
        Ok(())
    }

    fn add_changes(&mut self, batch: &Batch, row_revision: i64) -> Result<(), Corrupt> {
        // Known batches have numbers up to the head's, which is set last.
        if batch.seq <= self.head.folded.max(self.head.seq) {
            return Ok(());
        }
        let changes = super::rows::changes(batch)?;
        let base = self.layout.base_of(batch, row_revision);
        self.memtable.log(batch.encoded_len());
        self.memtable.push(SortedRun::new(&changes, base));
        Ok(())
    }

    /// Takes in a session that the stored batches have changed.
    pub(super) fn set_session(&mut self, id: SessionId, session: Option<Arc<model::Session>>) {
        self.sessions.insert(id, session);
    }

    /// A session whose row is not up to date.
    pub(super) fn session(&self, id: &str) -> Option<&Arc<model::Session>> {
        let checkpointing = self.checkpointing.as_ref();
        let checkpointing =
            || checkpointing.and_then(|checkpointing| checkpointing.sessions.get(id));
        self.sessions.get(id).or_else(checkpointing)?.as_ref()
    }

    /// Starts over after another node's checkpoint: the memtable is read again, from a pack on.
    fn restart(&mut self, folded: u64, from: u64) {
        self.memtable = Memtable::new(self.layout.tuning.recent_bytes);
        self.sessions.clear();
        self.checkpointing = None;
        self.packs.retain(|(first, _)| *first < from);
        self.head.seq = folded;
        self.head.folded = folded;
    }

    /// Sets the last folded batch, before anything is read.
    pub(super) fn set_folded(&mut self, folded: u64) {
        self.head.folded = folded;
    }

    /// Plans the writes of the next batch, with some rows of a checkpoint if `may_fold`.
    pub(super) fn plan(&mut self, commit: &Commit, attempt: Bytes, may_fold: bool) -> WritePlan {
        let tuning = self.layout.tuning;
        let batch = to_batch(commit, attempt.clone(), &self.layout);
        let size = batch.encoded_len();
        let mut head = Head {
            seq: commit.seq,
            time: commit.time,
            horizon: commit.horizon,
            session_horizon: commit.session_horizon,
            forget_before: commit.forget_before.max(self.head.forget_before),
            ..self.head.clone()
        };
        head.batches.push(batch);
        let first = self.head.open_from;
        let pack = (self.open_bytes + size > tuning.open_bytes).then(|| {
            head.open_from = commit.seq + 1;
            Pack {
                batches: std::mem::take(&mut head.batches),
            }
        });
        let mut others = Vec::new();
        if self.checkpointing.is_none()
            && (self.memtable.is_full() || self.sessions.len() > tuning.recent_sessions)
        {
            self.begin_fold();
        }
        let mut checkpointing = self.checkpointing.clone();
        let fold_is_done = checkpointing
            .as_mut()
            .filter(|_| may_fold)
            .is_some_and(|checkpointing| self.checkpoint(checkpointing, &mut others));
        if let Some(checkpointing) = checkpointing.as_ref().filter(|_| fold_is_done) {
            head.folded = checkpointing.up_to;
            head.forgotten = head.forgotten.max(checkpointing.forgotten);
        }
        let needed = head.forget_before.min(head.folded + 1);
        let pruned = self.prune(needed, &mut others);
        let mut kept = self.packs.iter().skip(pruned);
        let log_from = kept.find(|(_, last)| *last > head.folded);
        head.log_from = log_from.map_or(first, |(first, _)| *first);
        WritePlan {
            lane: self.lane,
            bytes: self.open_bytes
                + size
                + others
                    .iter()
                    .map(prost::Message::encoded_len)
                    .sum::<usize>(),
            head,
            pack,
            others,
            revision: self.revision,
            first,
            attempt,
            seq: commit.seq,
            places: commit.places,
            checkpointing,
            fold_is_done,
            pruned,
        }
    }

    /// Deletes packs that are not needed, if there are many. Returns how many.
    fn prune(&self, needed: u64, operations: &mut Vec<RequestOp>) -> usize {
        let kept = self.packs.len();
        let kept = kept.saturating_sub(self.layout.tuning.kept_packs);
        let old = self.packs.iter().take(kept);
        let count = old.take_while(|(_, last)| *last < needed).count();
        let Some((first, _)) = self
            .packs
            .front()
            .filter(|_| count >= self.layout.tuning.pruned_packs)
        else {
            return 0;
        };
        let kept = self.packs.get(count).map(|(first, _)| *first);
        let range = DeleteRangeRequest {
            key: self.layout.pack(self.lane, *first),
            range_end: self
                .layout
                .pack(self.lane, kept.unwrap_or(self.head.open_from)),
            ..DeleteRangeRequest::default()
        };
        operations.push(range.into());
        count
    }

    /// Takes in the batch, which is committed as planned.
    pub(super) fn landed(&mut self, plan: WritePlan, changes: &Changes, at: Landed) {
        self.revision = at.etcd_revision;
        self.head = plan.head;
        let batch = match plan.pack {
            Some(pack) => {
                self.packs.push_back((plan.first, plan.seq));
                self.open_bytes = 0;
                pack.batches.into_iter().next_back()
            }
            None => self.head.batches.last_mut().map(|batch| {
                batch.etcd_revision = at.etcd_revision;
                batch.offset = at.offset;
                self.open_bytes += batch.encoded_len();
                batch.clone()
            }),
        };
        let batch = batch.unwrap_or_default();
        self.memtable.log(batch.encoded_len());
        let base = self.layout.base(at.etcd_revision, at.offset);
        self.memtable.push(SortedRun::new(&changes.counters, base));
        for (id, change) in &changes.sessions {
            self.sessions.insert(id.clone(), change.after.clone());
        }
        self.checkpointing = plan.checkpointing.filter(|_| !plan.fold_is_done);
        if plan.fold_is_done {
            self.memtable.drop_frozen();
        }
        self.packs.drain(..plan.pruned);
    }
}

fn to_batch(commit: &Commit, attempt: Bytes, layout: &Layout) -> Batch {
    let mut counters = Vec::new();
    CounterChange::put_all(&commit.changes.counters, &mut counters);
    let changed = commit.changes.sessions.iter();
    Batch {
        seq: commit.seq,
        attempt,
        time: commit.time,
        places: commit.places,
        offset: 0,
        etcd_revision: 0,
        ids: Bytes::copy_from_slice(&commit.ids),
        counters: counters.into(),
        sessions: changed
            .map(|(id, change)| sessions::to_stored(id, change, layout))
            .collect(),
        extras: commit.stamp.encode().into(),
    }
}

#[cfg(test)]
pub(super) mod tests;
