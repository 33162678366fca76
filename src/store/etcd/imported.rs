//! Request ids that were imported from another store by a move or a restore. Their rows never change.

use std::sync::Arc;

use bytes::Bytes;

use super::kv::{self, Kv, ReadError};
use super::rows::{self, Layout};
use crate::etcd::{prefix_end, range};
use crate::model::{Corrupt, ImportedIds, Millis};
use crate::proto::etcd::mvccpb::KeyValue;
use crate::proto::sumd::store::v1 as stored;
use crate::store::{Remembered, StoreError};

/// Rows of ids that are read at once, each of at most 1 MiB.
pub(crate) const PACKS: i64 = 16;

/// The imported ids of the data, which the lanes of a node share.
pub(super) async fn before(kv: &impl Kv, layout: &Layout) -> Result<ImportedIds, StoreError> {
    let mut packs = Vec::new();
    // The rows never change, so the pages may be read at different revisions.
    let mut pages = Pages::new(layout.all_before(), PACKS, 0);
    let mut before = BeforeRows::default();
    while let Some(page) = pages.read(kv).await? {
        for row in &page {
            let of_it = before.read(layout, row);
            let of_it = of_it.map_err(|damage| rows::needed(&row.key, damage))?;
            packs.extend(of_it.iter().map(Remembered::pack));
        }
    }
    let end = before.end(layout);
    end.map_err(|damage| rows::needed(&layout.all_before(), damage))?;
    Ok(ImportedIds::new(packs)?)
}

/// The rows of imported ids, in key order. They are numbered from 0, and the meta row has the latest time in them.
#[derive(Default)]
pub(crate) struct BeforeRows {
    count: u32,
    latest: Option<Millis>,
    has_damage: bool,
}

impl BeforeRows {
    pub(crate) fn read(
        &mut self,
        layout: &Layout,
        row: &KeyValue,
    ) -> Result<Vec<Remembered>, Corrupt> {
        let packs = self.next(layout, row);
        self.has_damage |= packs.is_err();
        packs
    }

    fn next(&mut self, layout: &Layout, row: &KeyValue) -> Result<Vec<Remembered>, Corrupt> {
        let packs = remembered(layout, row)?;
        let times = packs.iter().map(|pack| pack.newest.unwrap_or(pack.time));
        self.latest = self.latest.max(times.max());
        self.count += 1;
        if row.key != layout.before(self.count - 1) && !self.has_damage {
            return Err(Corrupt("a row is missing before it"));
        }
        Ok(packs)
    }

    pub(crate) fn end(&self, layout: &Layout) -> Result<(), Corrupt> {
        match layout.before_until {
            // Ids in the first formats count as later than they are.
            Some(until) if self.latest < Some(until) && !self.has_damage => {
                Err(Corrupt("its last rows are missing"))
            }
            _ => Ok(()),
        }
    }
}

fn remembered(layout: &Layout, row: &KeyValue) -> Result<Vec<Remembered>, Corrupt> {
    let before: stored::Before = layout.open(row)?;
    let pack = |pack: stored::BeforePack| {
        Ok(Remembered {
            time: pack.time,
            newest: rows::stamp(pack.time, &pack.extras)?.newest,
            base: pack.base,
            places: pack.places,
            ids: Arc::from(&*pack.ids),
        })
    };
    before.packs.into_iter().map(pack).collect()
}

/// The rows with a prefix, read page by page.
pub(crate) struct Pages {
    from: Vec<u8>,
    end: Bytes,
    limit: i64,
    revision: i64,
    is_done: bool,
}

impl Pages {
    pub(crate) fn new(prefix: Bytes, limit: i64, revision: i64) -> Self {
        Self {
            end: prefix_end(&prefix),
            from: prefix.into(),
            limit,
            revision,
            is_done: false,
        }
    }

    pub(crate) async fn read(&mut self, kv: &impl Kv) -> Result<Option<Vec<KeyValue>>, ReadError> {
        if self.is_done {
            return Ok(None);
        }
        let mut request = range(self.from.clone(), self.end.clone(), self.limit);
        request.revision = self.revision;
        let found = kv::read(kv, vec![request]).await?;
        let found = found.ranges.into_iter().next().unwrap_or_default();
        self.is_done = !found.more;
        if let Some(last) = found.kvs.last() {
            self.from = last.key.to_vec();
            self.from.push(0);
        }
        Ok(Some(found.kvs))
    }
}

#[cfg(test)]
mod tests;
