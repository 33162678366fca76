//! Parts of messages that have overtaken their predecessors.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::debug;

use super::error::{Decided, LaneError, Result};
use super::job::Job;
use crate::model::{Operation, Rejection};

/// Maximum wait of a part for its predecessor, which is in flight through another node.
const MAX_PARK: Duration = Duration::from_secs(3);
/// The first pause until parts are tried again; later ones are a fraction of the wait so far.
const PAUSE: Duration = Duration::from_millis(5);
const PAUSE_PART: u32 = 4;
/// Maximum number of parked parts. Further ones are refused at once.
const MAX_PARKED: usize = 4096;

/// Parked parts.
#[derive(Default)]
pub(super) struct ReorderBuffer(Vec<Job>);

impl ReorderBuffer {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Parks a part that has overtaken its predecessor, for a bounded time. Returns the job if it is not parked.
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
        debug!("a part overtook the one before it");
        self.0.push(job);
        None
    }

    /// Waits until the parked parts are to be tried again.
    pub(super) fn pause(&self) -> impl Future<Output = ()> + use<> {
        let oldest = self.0.iter().filter_map(|job| job.parked_since).min();
        let waited = oldest.map_or(Duration::ZERO, |since| since.elapsed());
        // The timer is made only when this is polled: `select!` evaluates this call even if no part is parked.
        async move { sleep(PAUSE.max(waited / PAUSE_PART)).await }
    }

    /// Moves the parked parts into a batch, in the order of messages: a part is applied together with predecessors that
    /// have just arrived. Parts from a node that has died are resent in any order.
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
