//! Replicas of the logs. They are kept, since packs do not change, so that the next reader reads only newer batches.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::time::timeout;

use super::Problem;
use crate::model::{Corrupt, Millis, SessionId};
use crate::proto::etcd::mvccpb::KeyValue;
use crate::proto::sumd::store::v1::{Batch, Head, Pack, SessionChange};
use crate::store::etcd::kv::{Kv, PATIENCE};
use crate::store::etcd::load;
use crate::store::etcd::rows::{self, Layout};
use crate::store::etcd::sessions::Told;
use crate::store::memtable::{Memtable, SortedRun};
use crate::store::{LaneNumber, StoreError};

/// The replicas of all lanes. Nothing is locked while a head is read, so a lane that is slow to read delays only its
/// own readers.
pub(super) struct Replicas(Box<[Lane]>);

#[derive(Default)]
struct Lane {
    /// The newest known replica.
    known: Mutex<Option<Arc<Replica>>>,
    /// Held while packs are read, so the packs in memory do not depend on the number of readers.
    reading: tokio::sync::Mutex<()>,
}

/// The log of one lane up to one head.
#[derive(Clone)]
pub(super) struct Replica {
    /// The revision of the head's row.
    revision: i64,
    seq: u64,
    folded: u64,
    pub(super) forgotten: i64,
    pub(super) session_horizon: Millis,
    open_from: u64,
    pub(super) memtable: Memtable,
    sessions: Arc<Sessions>,
    kept: usize,
}

/// The changes of each session since a checkpoint, in batch order. Replicas of a lane share them, since batches are the
/// same for all. Each replica looks at those up to its own last batch.
#[derive(Default)]
struct Sessions(Mutex<BTreeMap<SessionId, Vec<(u64, SessionChange)>>>);

/// A lane's head as it was read, and the replica that was known before.
pub(super) struct Moment<'a> {
    pub(super) lane: LaneNumber,
    pub(super) head: &'a KeyValue,
    pub(super) before: Option<Arc<Replica>>,
    /// The etcd revision at which the head was read.
    pub(super) revision: i64,
}

impl Replicas {
    pub(super) fn new(lanes: u32) -> Self {
        Self((0..lanes).map(|_| Lane::default()).collect())
    }

    /// The known replica of a lane. If it is taken before a head is read, it is not newer than the head.
    pub(super) fn known(&self, lane: LaneNumber) -> Option<Arc<Replica>> {
        self.slot(lane).clone()
    }

    fn slot(&self, lane: LaneNumber) -> MutexGuard<'_, Option<Arc<Replica>>> {
        // The replica is replaced as a whole, so no panic leaves half of one.
        let slot = self.0[lane as usize].known.lock();
        slot.unwrap_or_else(PoisonError::into_inner)
    }

    /// A lane's log up to a head that was read.
    pub(super) async fn refresh(
        &self,
        kv: &impl Kv,
        layout: &Layout,
        moment: Moment<'_>,
    ) -> Result<Arc<Replica>, Problem> {
        let Moment {
            lane,
            head: row,
            before,
            revision,
        } = moment;
        let is_it = |known: &Arc<Replica>| known.revision == row.mod_revision;
        if let Some(known) = before.as_ref().filter(|known| is_it(known)) {
            return Ok(known.clone());
        }
        let head: Head = layout.need(row)?;
        let reading = timeout(PATIENCE, self.0[lane as usize].reading.lock()).await;
        let slow =
            |_| StoreError::Unavailable("another read of the lane did not finish in time".into());
        let _reading = reading.map_err(slow)?;
        // Another reader may have read on meanwhile: up to this head, or farther than this reader may see.
        let newest = self.known(lane);
        let is_overtaken = newest
            .as_ref()
            .is_some_and(|newest| newest.revision > row.mod_revision);
        let base = if is_overtaken { before } else { newest };
        if let Some(known) = base.as_ref().filter(|known| is_it(known)) {
            return Ok(known.clone());
        }
        let base = base.filter(|known| known.can_extend_to(&head, layout.tuning.kept_bytes));
        if is_overtaken && base.is_none() {
            // A read of a later head can extend the newest replica.
            return Err(Problem::Again);
        }
        let mut replica = base.map_or_else(|| Replica::begin(&head), |base| Replica::clone(&base));
        if head.open_from > replica.open_from {
            let from = replica.open_from.max(head.log_from);
            let first = layout.pack(lane, from).to_vec();
            let prefix = layout.packs(lane);
            let page = layout.tuning.packs_page;
            let packs = load::rows(kv, &prefix, Some(first), revision, page).await?;
            for row in packs {
                let pack: Pack = layout.need(&row)?;
                replica.take(layout, &pack.batches, row.mod_revision)?;
            }
        }
        replica.take(layout, &head.batches, row.mod_revision)?;
        replica.revision = row.mod_revision;
        replica.open_from = head.open_from;
        replica.forgotten = head.forgotten;
        replica.session_horizon = head.session_horizon;
        let replica = Arc::new(replica);
        if !is_overtaken {
            *self.slot(lane) = Some(replica.clone());
        }
        Ok(replica)
    }
}

impl Replica {
    /// Whether it can be extended to a head. The log has to have every later batch, since folded ones may be deleted.
    /// It also has to be within its bound, unless starting over would keep no less.
    fn can_extend_to(&self, head: &Head, kept_bytes: usize) -> bool {
        self.seq + 1 >= head.log_from && (self.kept <= kept_bytes || head.folded == self.folded)
    }

    /// The replica of a log of which nothing was read yet.
    fn begin(head: &Head) -> Self {
        Self {
            revision: 0,
            seq: head.folded,
            folded: head.folded,
            forgotten: 0,
            session_horizon: 0,
            open_from: head.log_from,
            memtable: Memtable::new(usize::MAX),
            sessions: Arc::default(),
            kept: 0,
        }
    }

    /// The changes of a session since the last checkpoint.
    pub(super) fn session(&self, id: &SessionId) -> Option<Told> {
        let sessions = self.sessions.lock();
        let mut told = Told::default();
        let changes = sessions.get(id)?.iter();
        let mut changes = changes
            .take_while(|(seq, _)| *seq <= self.seq)
            .map(|(_, change)| change)
            .peekable();
        changes.peek()?;
        changes.for_each(|change| told.take(change));
        Some(told)
    }

    fn take(&mut self, layout: &Layout, batches: &[Batch], row: i64) -> Result<(), Corrupt> {
        for batch in batches {
            if batch.seq <= self.seq {
                continue;
            }
            if batch.seq != self.seq + 1 {
                return Err(Corrupt("a batch is missing in a log"));
            }
            let changes = rows::changes(batch)?;
            self.memtable
                .push(SortedRun::new(&changes, layout.base_of(batch, row)));
            self.sessions.take(batch);
            self.kept += prost::Message::encoded_len(batch);
            self.seq = batch.seq;
        }
        Ok(())
    }
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<SessionId, Vec<(u64, SessionChange)>>> {
        // A batch that is taken in again after a panic changes nothing.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a batch's changes, unless they are known.
    fn take(&self, batch: &Batch) {
        let mut all = self.lock();
        for change in &batch.sessions {
            let of_one = all.entry(change.id.as_str().into()).or_default();
            if of_one.last().is_none_or(|(seq, _)| *seq < batch.seq) {
                // A copy, so that the large message around it can be freed.
                let change = SessionChange {
                    id: String::new(),
                    state: Bytes::copy_from_slice(&change.state),
                    added: Bytes::copy_from_slice(&change.added),
                };
                of_one.push((batch.seq, change));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_read_on_as_long_as_its_log_is_there() {
        let head = |log_from, folded| Head {
            log_from,
            folded,
            ..Head::default()
        };
        let replica = Replica {
            seq: 10,
            kept: 100,
            ..Replica::begin(&head(5, 4))
        };
        assert!(replica.can_extend_to(&head(11, 10), 100));
        assert!(
            !replica.can_extend_to(&head(12, 11), 100),
            "batch 11 is gone"
        );
        assert!(!replica.can_extend_to(&head(11, 10), 99), "it is large");
        assert!(
            replica.can_extend_to(&head(5, 4), 99),
            "nothing would get less"
        );
    }
}
