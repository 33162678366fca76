//! What is committed, by whichever node, as etcd tells it.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::sleep;
use tracing::{debug, error, warn};

use super::kv::{self, ReadError};
use super::rows::{self, Layout};
use crate::etcd::{Client, Watch, WatchError, get};
use crate::model::{Corrupt, CounterChange};
use crate::proto::etcd::mvccpb::KeyValue;
use crate::proto::sumd::store::v1::{Head, Pack};
use crate::store::ChangeFeed;

/// Between two attempts to begin.
const PAUSE: Duration = Duration::from_secs(1);

/// The changes of all lanes, which are told once somebody has asked for them.
pub(super) struct WatchFeed {
    changes: ChangeFeed,
    runtime: tokio::runtime::Handle,
    /// Where they come from; a model of etcd has none.
    source: Option<(Client, Layout)>,
    begun: AtomicBool,
}

impl WatchFeed {
    pub(super) fn new(source: Option<(Client, Layout)>) -> Self {
        Self {
            changes: ChangeFeed::new(0),
            runtime: tokio::runtime::Handle::current(),
            source,
            begun: AtomicBool::new(false),
        }
    }

    pub(super) fn changes(&self) -> &ChangeFeed {
        if let Some((client, layout)) = &self.source
            && !self.begun.swap(true, Ordering::Relaxed)
        {
            let (client, layout) = (client.clone(), layout.clone());
            let _task = self
                .runtime
                .spawn(tell(client, layout, self.changes.clone()));
        }
        &self.changes
    }
}

/// Tells what happens, from now on. After a gap it begins anew, and those who were behind read the store.
async fn tell(client: Client, layout: Layout, changes: ChangeFeed) {
    let mut warned = false;
    loop {
        // Below the prefix, outside of which a user may have no rights.
        let now = kv::read(&client, vec![get(layout.meta())]).await;
        let now = match now {
            Ok(found) => found.revision,
            Err(error) => {
                if let ReadError::Failed(error) = &error {
                    refused(error, &mut warned);
                }
                debug!("{error:?}");
                sleep(PAUSE).await;
                continue;
            }
        };
        changes.restart(layout.end(now));
        let mut watch = client.watch(layout.log(), now + 1);
        match follow(&layout, &changes, &mut watch).await {
            Err(Problem::Watch(WatchError::Refused(error))) => {
                refused(&error, &mut warned);
                sleep(PAUSE).await;
            }
            // It goes on from what is there by now.
            Err(Problem::Watch(error)) => debug!("{error}"),
            Err(Problem::Corrupt(error)) => {
                error!("{error}");
                sleep(PAUSE).await;
            }
            Ok(never) => match never {},
        }
    }
}

/// Says once that etcd tells of no changes.
fn refused(error: &impl Display, warned: &mut bool) {
    if !std::mem::replace(warned, true) {
        warn!(
            "etcd refuses to tell of changes, which watchers and reads at a revision wait for: {error}"
        );
    }
}

enum Problem {
    Watch(WatchError),
    Corrupt(Corrupt),
}

enum Never {}

async fn follow(
    layout: &Layout,
    changes: &ChangeFeed,
    watch: &mut Watch,
) -> Result<Never, Problem> {
    loop {
        let told = watch.next().await.map_err(Problem::Watch)?;
        let mut batches = Vec::new();
        for row in told.events.iter().filter_map(|event| event.kv.as_ref()) {
            if row.version > 0 {
                let batch = newest(layout, row).map_err(Problem::Corrupt)?;
                batches.extend(batch);
            }
        }
        batches.sort_unstable_by_key(|(base, ..)| *base);
        for (base, places, counters) in batches {
            changes.publish(counters, base, base + i64::from(places));
        }
        changes.advance(layout.end(told.revision));
    }
}

type Told = (i64, u32, Arc<[CounterChange]>);

/// The batch that a row was written for.
fn newest(layout: &Layout, row: &KeyValue) -> Result<Option<Told>, Corrupt> {
    let batches = if layout.is_head(&row.key) {
        layout.open::<Head>(row)?.batches
    } else {
        layout.open::<Pack>(row)?.batches
    };
    let Some(last) = batches.last().filter(|batch| batch.etcd_revision == 0) else {
        return Ok(None);
    };
    let base = layout.base_of(last, row.mod_revision);
    Ok(Some((base, last.places, rows::changes(last)?.into())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notice::tests::logged;

    /// A user without the right to watch is told of once, however often that is tried.
    #[test]
    fn that_etcd_refuses_is_told_once() {
        let mut warned = false;
        let told = logged(|| {
            refused(&"permission denied", &mut warned);
            refused(&"permission denied", &mut warned);
        });
        assert_eq!(told.lines().count(), 1, "{told}");
        assert!(
            told.contains("watchers") && told.contains("permission denied"),
            "{told}"
        );
    }
}
