//! The feed of commits by all nodes, from etcd's watch.

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

/// The pause between two attempts to begin.
const PAUSE: Duration = Duration::from_secs(1);

/// The changes of all lanes. They are followed once somebody has asked for them.
pub(super) struct WatchFeed {
    changes: ChangeFeed,
    runtime: tokio::runtime::Handle,
    /// Their source; a model of etcd has none.
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

/// Publishes changes from now on. After a gap it begins anew, and watchers that were behind read the store.
async fn tell(client: Client, layout: Layout, changes: ChangeFeed) {
    let mut warned = false;
    loop {
        // The key is below the prefix: a user may have no permission outside of it.
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
            // The loop begins anew at the current revision.
            Err(Problem::Watch(error)) => debug!("{error}"),
            Err(Problem::Corrupt(error)) => {
                error!("{error}");
                sleep(PAUSE).await;
            }
            Ok(never) => match never {},
        }
    }
}

/// Warns once that etcd refuses to watch.
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

/// The batch for which a row was written, if it is in that row.
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

    /// A user without the permission to watch is warned of once, however often it is tried.
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
