//! Reads, from the store or its cache.

use std::sync::Arc;

use super::error::Error;
use super::service::Counters;
use crate::store::{Row, Rows, Scan, Sum};

/// The minimum freshness of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// The read sees every change that was acknowledged before it.
    Newest,
    /// The read sees every change up to this revision.
    NotBefore(i64),
}

/// Some counters, in name order.
#[derive(Debug)]
pub struct Listed {
    /// The counters.
    pub rows: Vec<Row>,
    /// Whether there are more after these.
    pub has_more: bool,
}

impl Counters {
    /// Reads counters, all as of one moment.
    ///
    /// # Errors
    /// Returns the store's error if it cannot be read.
    pub async fn read(&self, names: Vec<Arc<str>>, freshness: Freshness) -> Result<Rows, Error> {
        let rows = match freshness {
            Freshness::NotBefore(revision) if self.store().capabilities().is_shared => {
                let read = |names| self.store().read(names);
                self.stale().read(names, revision, read).await
            }
            // A store that is not shared is in this process, so it needs no cache.
            Freshness::Newest | Freshness::NotBefore(_) => self.store().read(names).await,
        };
        rows.map_err(Error::of_read)
    }

    /// Reads at most `limit` counters with a prefix, after a name.
    ///
    /// # Errors
    /// Returns the store's error if it cannot be read.
    pub async fn list(
        &self,
        prefix: Arc<str>,
        mut after: Option<Arc<str>>,
        limit: usize,
    ) -> Result<Listed, Error> {
        let mut rows: Vec<Row> = Vec::new();
        // One more than the limit shows whether there are more.
        while rows.len() <= limit {
            let scan = Scan {
                prefix: prefix.clone(),
                after,
                since: 0,
                limit: limit + 1 - rows.len(),
            };
            let page = self.store().scan(scan).await.map_err(Error::of_read)?;
            rows.extend(page.rows);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        Ok(Listed { rows, has_more })
    }

    /// Sums the counters with a prefix.
    ///
    /// # Errors
    /// Returns the store's error if it cannot be read.
    pub async fn sum(&self, prefix: Arc<str>) -> Result<Sum, Error> {
        self.store().sum(prefix).await.map_err(Error::of_read)
    }
}
