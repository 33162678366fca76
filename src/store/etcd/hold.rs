//! Keeps nodes from compacting history that is still being read.
//!
//! A read of all data at one revision takes longer than nodes keep history, if the data are large enough. The reader
//! puts a key under a lease. While the key exists, up to a bound, nodes compact nothing from its revision on. etcd's
//! own automatic compaction knows nothing of this.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::rows;
use crate::etcd::{Client, Lease};
use crate::proto::etcd::etcdserverpb::PutRequest;

/// How long the hold of a reader that has died remains.
const TTL: Duration = Duration::from_secs(15);
const ANSWER: Duration = Duration::from_secs(5);
/// How long a node compacts nothing for the sake of one reader.
const MAX_HELD: Duration = Duration::from_hours(1);

/// A hold on history: nodes compact nothing that is newer. It expires after it was dropped.
pub struct Hold(Lease);

impl Hold {
    /// Holds the history under a prefix from now on.
    ///
    /// # Errors
    /// Returns an error if etcd refuses, or does not answer in time.
    pub async fn take(client: &Client, prefix: &str) -> Result<Self, crate::etcd::Error> {
        let lease = client.grant(TTL, Instant::now() + ANSWER).await?;
        let put = PutRequest {
            key: format!("{}{}", rows::holds(prefix), Uuid::new_v4()).into(),
            lease: lease.id(),
            ..PutRequest::default()
        };
        client.put(put, Instant::now() + ANSWER).await?;
        Ok(Self(lease))
    }

    /// Releases the hold at once.
    pub async fn release(self) {
        // If this fails the lease expires.
        let _ = self.0.revoke(Instant::now() + ANSWER).await;
    }
}

/// The held revisions, as a node sees them.
#[derive(Default)]
pub(super) struct Holds(HashMap<i64, Instant>);

impl Holds {
    /// The first held revision of etcd. `found` has the revisions of the keys that exist now.
    pub(super) fn first(&mut self, now: Instant, found: &[i64]) -> Option<i64> {
        self.0.retain(|revision, _| found.contains(revision));
        for revision in found {
            self.0.entry(*revision).or_insert(now);
        }
        let held = self.0.iter();
        let held = held.filter(|(_, since)| now.duration_since(**since) < MAX_HELD);
        held.map(|(revision, _)| *revision).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The oldest hold that still exists counts, until it has existed for too long.
    #[test]
    fn what_is_held_is_held_for_a_bounded_time() {
        let mut holds = Holds::default();
        let start = Instant::now();
        let second = Duration::from_secs(1);
        assert_eq!(holds.first(start, &[]), None);
        assert_eq!(holds.first(start, &[7]), Some(7));
        assert_eq!(holds.first(start + second, &[7, 9]), Some(7));
        assert_eq!(holds.first(start + 2 * second, &[9]), Some(9));
        assert_eq!(holds.first(start + MAX_HELD, &[9]), Some(9));
        assert_eq!(holds.first(start + second + MAX_HELD, &[9]), None);
        let again = holds.first(start + second + MAX_HELD, &[9, 12]);
        assert_eq!(again, Some(12), "another one is held for as long");
    }
}
