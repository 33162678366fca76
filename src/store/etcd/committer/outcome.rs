//! What became of an attempt, as etcd's rows tell: the head of its lane, and the log if that has moved.

use super::{CommitAttempt, FULL_PAUSE, Failure, Flight, OVER_QUOTA, again};
use crate::etcd::get;
use crate::proto::etcd::mvccpb::KeyValue;
use crate::proto::sumd::store::v1::{Batch, Head, Pack};
use crate::store::StoreError;
use crate::store::etcd::kv::{self, Kv};
use crate::store::etcd::log::{Landed, WritePlan};
use crate::store::etcd::meta;

impl<K: Kv> Flight<K> {
    /// Answers an attempt whose head has moved. Gives it back if it cannot be told whether that was by this attempt.
    pub(super) async fn settle(
        &self,
        mut attempt: CommitAttempt,
        head: Option<&KeyValue>,
    ) -> Option<CommitAttempt> {
        let outcome = match head {
            Some(head) => self.find(&attempt, head).await,
            None => Err(StoreError::Failed("a lane's head has vanished".into())),
        };
        let answer = outcome.and_then(|found| found.ok_or(StoreError::Conflict));
        if let Err(StoreError::Unavailable(_)) = answer {
            // The head has moved, maybe by this attempt: it is not to be told that nothing was changed.
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

    /// etcd is over its quota. A member says so before it proposes a transaction, or once it has applied it or refused to: the
    /// copy that it has answered does not land later. So the heads tell now whether it has landed, unless earlier copies are in
    /// doubt.
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
                // The copy that was answered may be what has moved it.
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

    /// The row that says what the data are has changed: goes on with it, if another node has raised its format.
    pub(super) async fn adopt(&self) -> Result<(), StoreError> {
        let found = kv::read(&self.kv, vec![get(self.layout.meta())]).await?;
        let row = found.ranges.first().and_then(|range| range.kvs.first());
        let gone = || StoreError::Failed("the data are gone".into());
        let row = row.ok_or_else(gone)?;
        let adopted = self.layout.adopt(&meta::open_row(row)?, row.mod_revision);
        adopted.map_err(|problem| StoreError::Failed(problem.into()))
    }

    /// Looks for a batch in the log, where the head has moved: it is where it was planned to be, or nowhere.
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
            // The lane has been elsewhere for so long that the pack is deleted. That matters only where a copy was on its way;
            // and whoever the batch is by that took its place, there were no ids in it.
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
