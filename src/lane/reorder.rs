//! Parts of messages that have come before those they follow.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::debug;

use super::error::{Decided, LaneError, Result};
use super::job::Job;
use crate::model::{Operation, Rejection};

/// How long a part waits for the one before it, which is on its way by another node.
const MAX_PARK: Duration = Duration::from_secs(3);
/// When it looks again, at first, and later on, as a part of what it has waited.
const PAUSE: Duration = Duration::from_millis(5);
const PAUSE_PART: u32 = 4;
/// So many may wait; whichever comes then is refused at once.
const MAX_PARKED: usize = 4096;

/// Those that wait.
#[derive(Default)]
pub(super) struct ReorderBuffer(Vec<Job>);

impl ReorderBuffer {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keeps a part until the one before it has come, unless that takes too long.
    pub(super) fn park(
        &mut self,
        mut job: Job,
        decided: Result<Decided>,
    ) -> Option<(Job, Result<Decided>)> {
        if !matches!(
            decided,
            Err(LaneError::Refused(Rejection::Overtaken { .. }))
        ) {
            return Some((job, decided));
        }
        let since = *job.parked_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= MAX_PARK || self.0.len() >= MAX_PARKED {
            return Some((job, decided));
        }
        debug!("a part has overtaken the one before it");
        self.0.push(job);
        None
    }

    /// Waits until they are to look again.
    pub(super) fn pause(&self) -> impl Future<Output = ()> + use<> {
        let oldest = self.0.iter().filter_map(|job| job.parked_since).min();
        let waited = oldest.map_or(Duration::ZERO, |since| since.elapsed());
        // Made only when it is waited for: the only lane of a store has no timer.
        async move { sleep(PAUSE.max(waited / PAUSE_PART)).await }
    }

    /// Returns the waiting parts to a batch, which is in the order of messages then: a part is applied together with those that it
    /// has waited for, although they have just come. Parts from a node that has died come back in any order.
    pub(super) fn drain_into(&mut self, batch: &mut Vec<Job>) {
        if self.0.is_empty() {
            return;
        }
        batch.append(&mut self.0);
        batch.sort_by_key(|job| match &job.request.operation {
            Operation::Record(record) => record.sequence,
            _ => 0,
        });
    }
}
