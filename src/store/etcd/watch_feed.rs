//! The feed of commits by all nodes, from etcd's watch.

use std::fmt::Display;
use std::sync::{Arc, Once};
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
    begun: Once,
}

impl WatchFeed {
    pub(super) fn new(source: Option<(Client, Layout)>) -> Self {
        Self {
            changes: ChangeFeed::new(0),
            runtime: tokio::runtime::Handle::current(),
            source,
            begun: Once::new(),
        }
    }

    pub(super) fn changes(&self) -> &ChangeFeed {
        if let Some((client, layout)) = &self.source {
            self.begun.call_once(|| {
                let told = tell(client.clone(), layout.clone(), self.changes.clone());
                let _task = self.runtime.spawn(told);
            });
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
            "etcd refuses to send changes, for which watchers and reads at a revision wait: {error}"
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
        let rows = told.events.iter().filter_map(|event| event.kv.as_ref());
        for batch in batches(layout, rows).map_err(Problem::Corrupt)? {
            changes.publish(batch.counters, batch.base, batch.end);
        }
        changes.advance(layout.end(told.revision));
    }
}

/// The changes of a batch, the revision before its first position, and the revision of its last.
#[derive(Debug)]
struct Told {
    base: i64,
    end: i64,
    counters: Arc<[CounterChange]>,
}

/// The batches that rows were written for, in their order. Rows that were deleted are of no batch.
fn batches<'a>(
    layout: &Layout,
    rows: impl Iterator<Item = &'a KeyValue>,
) -> Result<Vec<Told>, Corrupt> {
    let mut batches = Vec::new();
    for row in rows.filter(|row| row.version > 0) {
        batches.extend(newest(layout, row)?);
    }
    batches.sort_unstable_by_key(|batch| batch.base);
    Ok(batches)
}

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
    Ok(Some(Told {
        base,
        end: base + i64::from(last.places),
        counters: rows::changes(last)?.into(),
    }))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::notice::tests::logged;
    use crate::proto::sumd::store::v1::Batch;

    /// Each batch is told once, in the order of the revisions: of a head that is written again only the last batch is new, which was
    /// in no row before; and packs that are deleted tell nothing.
    #[test]
    fn each_batch_is_told_once() {
        let layout = rows::tests::layout(rows::FORMAT, 2);
        let batch = |seq, places, etcd_revision, offset| Batch {
            seq,
            places,
            etcd_revision,
            offset,
            ..Batch::default()
        };
        let row = |key: Bytes, value, version| KeyValue {
            key,
            value,
            version,
            mod_revision: 9,
            ..KeyValue::default()
        };
        let head = |lane, batches: &[Batch]| {
            let key = layout.head(lane);
            let head = Head {
                batches: batches.into(),
                ..Head::default()
            };
            row(key.clone(), layout.seal(&key, &head), 3)
        };
        let key = layout.pack(1, 1);
        let pack = Pack {
            batches: vec![batch(1, 4, 7, 0), batch(2, 5, 0, 2)],
        };
        let rows = [
            row(layout.pack(0, 1), Bytes::new(), 0),
            row(key.clone(), layout.seal(&key, &pack), 1),
            head(1, &[]),
            head(0, &[batch(5, 3, 8, 0), batch(6, 2, 0, 0)]),
            head(0, &[batch(5, 3, 8, 0)]),
        ];
        let told = batches(&layout, rows.iter()).expect("they are whole");
        let told: Vec<_> = told.iter().map(|told| (told.base, told.end)).collect();
        let base = layout.base(9, 0);
        assert_eq!(told, [(base, base + 2), (base + 2, base + 7)]);
    }

    /// A user without the permission to watch is warned of once, however often it is tried.
    #[test]
    fn that_etcd_refuses_is_told_once() {
        let mut warned = false;
        let mut tell = || logged(|| refused(&"permission denied", &mut warned));
        let (told, again) = (tell(), tell());
        assert_eq!((told.lines().count(), &*again), (1, ""), "{told}");
        assert!(
            told.contains("watchers") && told.contains("permission denied"),
            "{told}"
        );
    }
}
