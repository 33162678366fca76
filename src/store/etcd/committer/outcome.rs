//! The outcome of an attempt, according to etcd's rows: the head of its lane, and the log if the head has moved.

use super::{CommitAttempt, FULL_PAUSE, Failure, Flight, OVER_QUOTA, again};
use crate::etcd::get;
use crate::proto::etcd::mvccpb::KeyValue;
use crate::proto::sumd::store::v1::{Batch, Head, Pack};
use crate::store::StoreError;
use crate::store::etcd::kv::{self, Kv};
use crate::store::etcd::log::{Landed, WritePlan};
use crate::store::etcd::meta;

impl<K: Kv> Flight<K> {
    /// Answers an attempt whose head has moved. Returns it if nobody can tell yet whether this attempt moved it.
    pub(super) async fn settle(
        &self,
        mut attempt: CommitAttempt,
        head: Option<&KeyValue>,
    ) -> Option<CommitAttempt> {
        let outcome = match head {
            Some(head) => self.find(&attempt, head).await,
            None => Err(StoreError::Failed("the head of a lane is gone".into())),
        };
        let answer = outcome.and_then(|found| found.ok_or(StoreError::Conflict));
        if let Err(StoreError::Unavailable(_)) = answer {
            // This attempt may have moved the head, so the answer cannot be that nothing was changed.
            attempt.in_doubt = true;
            attempt.tries += 1;
            return Some(attempt);
        }
        let answer = answer.map(|mut landed| {
            landed.is_contended = attempt.is_contended;
            (attempt.plan, landed)
        });
        let _ = attempt.reply.send(answer.map_err(Failure::from));
        None
    }

    /// Handles an etcd over its quota. A member reports that before it proposes a transaction, or after it has applied
    /// or refused one. The answered copy therefore does not land later, and the heads show whether it has landed,
    /// unless earlier copies are in doubt.
    pub(super) async fn full(&self, group: Vec<CommitAttempt>) -> Vec<CommitAttempt> {
        let heads = group.iter();
        let heads = heads.map(|attempt| get(self.layout.head(attempt.plan.lane)));
        let Ok(found) = kv::read(&self.kv, heads.collect()).await else {
            return again(group, FULL_PAUSE, |attempt| attempt.in_doubt = true).await;
        };
        let mut left = Vec::new();
        for (mut attempt, range) in group.into_iter().zip(found.ranges) {
            let head = range.kvs.first();
            if head.map_or(0, |head| head.mod_revision) != attempt.plan.revision {
                // The answered copy may have moved the head.
                attempt.in_doubt = true;
                left.extend(self.settle(attempt, head).await);
            } else if attempt.in_doubt {
                left.push(attempt);
            } else {
                attempt.refuse(StoreError::Full(OVER_QUOTA.into()));
            }
        }
        if left.is_empty() {
            return left;
        }
        again(left, FULL_PAUSE, |_| {}).await
    }

    /// Goes on with the changed meta row, if another node has only raised its format.
    pub(super) async fn adopt(&self) -> Result<(), StoreError> {
        let found = kv::read(&self.kv, vec![get(self.layout.meta())]).await?;
        let row = found.ranges.first().and_then(|range| range.kvs.first());
        let gone = || StoreError::Failed("the data are gone".into());
        let row = row.ok_or_else(gone)?;
        let adopted = self.layout.adopt(&meta::open_row(row)?, row.mod_revision);
        adopted.map_err(|problem| StoreError::Failed(problem.into()))
    }

    /// Looks for a batch in the log after the head has moved: it is where it was planned, or nowhere.
    async fn find(
        &self,
        attempt: &CommitAttempt,
        head: &KeyValue,
    ) -> Result<Option<Landed>, StoreError> {
        let plan = &attempt.plan;
        let newest: Head = self.layout.need(head)?;
        if newest.open_from <= plan.seq {
            return Ok(find(&newest.batches, plan, head.mod_revision));
        }
        let range = get(self.layout.pack(plan.lane, plan.first));
        let found = kv::read(&self.kv, vec![range]).await?;
        let row = found.ranges.first().and_then(|range| range.kvs.first());
        let Some(row) = row else {
            // The pack is deleted, since other nodes have committed many batches. That matters only if a copy was in
            // flight. The batch with this number, whether this one or another, had no ids: its pack would still be
            // needed.
            return if attempt.in_doubt {
                Err(StoreError::Lost)
            } else {
                Ok(None)
            };
        };
        let pack: Pack = self.layout.need(row)?;
        Ok(find(&pack.batches, plan, row.mod_revision))
    }
}

fn find(batches: &[Batch], plan: &WritePlan, row_revision: i64) -> Option<Landed> {
    let found = batches.iter().find(|batch| batch.seq == plan.seq)?;
    let etcd_revision = match found.etcd_revision {
        0 => row_revision,
        committed => committed,
    };
    (found.attempt == plan.attempt).then_some(Landed {
        etcd_revision,
        offset: found.offset,
        is_contended: false,
    })
}
