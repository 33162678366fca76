//! What is known of the logs. It is kept, since packs do not change, so that the next reader reads only what is new.

use std::collections::{BTreeMap, HashMap};

use super::Problem;
use crate::model::{Corrupt, Millis, SessionId};
use crate::proto::etcd::mvccpb::KeyValue;
use crate::proto::sumd::store::v1::{Batch, Head, Pack};
use crate::store::LaneNumber;
use crate::store::etcd::kv::Kv;
use crate::store::etcd::load;
use crate::store::etcd::rows::{self, Layout};
use crate::store::etcd::sessions::{Told, tell};
use crate::store::recent::{Recent, Run};

/// Of all lanes.
#[derive(Default)]
pub(super) struct Replicas {
    lanes: HashMap<LaneNumber, Replica>,
}

/// Of one lane.
pub(super) struct Replica {
    /// That of the head's row.
    revision: i64,
    seq: u64,
    folded: u64,
    pub(super) forgotten: i64,
    pub(super) session_horizon: Millis,
    open_from: u64,
    pub(super) recent: Recent,
    /// What has become of each session since it was folded.
    pub(super) sessions: BTreeMap<SessionId, Told>,
    kept: usize,
}

impl Replicas {
    /// Brings what is known of a lane's log up to its head, as it was at a revision of etcd.
    pub(super) async fn refresh(
        &mut self,
        kv: &impl Kv,
        layout: &Layout,
        lane: LaneNumber,
        row: &KeyValue,
        revision: i64,
    ) -> Result<&Replica, Problem> {
        let known = self.lanes.get(&lane);
        if known.is_none_or(|known| known.revision != row.mod_revision) {
            let head: Head = layout.open(row)?;
            // What it has not seen may be deleted once it is folded; and there is an end to what is kept.
            let is_of_use = |known: &Replica| {
                known.seq + 1 >= head.log_from
                    && (known.kept <= layout.sizes.kept_bytes || head.folded == known.folded)
            };
            let replica = self.lanes.remove(&lane).filter(is_of_use);
            let mut replica = replica.unwrap_or_else(|| Replica {
                revision: 0,
                seq: head.folded,
                folded: head.folded,
                forgotten: 0,
                session_horizon: 0,
                open_from: head.log_from,
                recent: Recent::new(usize::MAX),
                sessions: BTreeMap::new(),
                kept: 0,
            });
            if head.open_from > replica.open_from {
                let from = replica.open_from.max(head.log_from);
                let first = layout.pack(lane, from).to_vec();
                let prefix = layout.packs(lane);
                let page = layout.sizes.packs_page;
                let packs = load::rows(kv, &prefix, Some(first), revision, page).await?;
                for row in packs {
                    let pack: Pack = layout.open(&row)?;
                    replica.take(layout, &pack.batches, row.mod_revision)?;
                }
            }
            replica.take(layout, &head.batches, row.mod_revision)?;
            replica.revision = row.mod_revision;
            replica.open_from = head.open_from;
            replica.forgotten = head.forgotten;
            replica.session_horizon = head.session_horizon;
            self.lanes.insert(lane, replica);
        }
        Ok(&self.lanes[&lane])
    }
}

impl Replica {
    fn take(&mut self, layout: &Layout, batches: &[Batch], row: i64) -> Result<(), Corrupt> {
        for batch in batches {
            if batch.seq <= self.seq {
                continue;
            }
            if batch.seq != self.seq + 1 {
                return Err(Corrupt("a batch is missing in a log"));
            }
            let changes = rows::changes(batch)?;
            self.recent
                .push(Run::new(&changes, layout.base_of(batch, row)));
            tell(batch, &mut self.sessions);
            self.kept += prost::Message::encoded_len(batch);
            self.seq = batch.seq;
        }
        Ok(())
    }
}
