//! The counters of a node: its lanes with their store, and the other nodes.

use std::sync::{Arc, OnceLock};

use super::forward::{Forwarder, RemoteOwner};
use super::stale::Stale;
use crate::lane::Lanes;
use crate::model::KeyedHasher;
use crate::store::{LaneNumber, Store};

/// The counters of a node, over lanes and their store.
#[derive(Clone)]
pub struct Counters {
    pub(super) lanes: Lanes,
    pub(super) hasher: KeyedHasher,
    /// Set if there are other nodes.
    pub(super) forwarder: Option<Forwarder>,
    /// The cache of stale reads, set by the first of them.
    stale: Arc<OnceLock<Stale>>,
}

impl Counters {
    /// The service over running lanes.
    #[must_use]
    pub fn new(lanes: Lanes) -> Self {
        Self {
            hasher: lanes.store().hasher(),
            lanes,
            forwarder: None,
            stale: Arc::default(),
        }
    }

    /// The hasher of the store's digests.
    pub(crate) fn hasher(&self) -> KeyedHasher {
        self.hasher
    }

    pub(super) fn store(&self) -> &dyn Store {
        self.lanes.store()
    }

    /// The cache of stale reads.
    pub(super) fn stale(&self) -> &Stale {
        let begin = || Stale::new(self.store().changes().clone());
        self.stale.get_or_init(begin)
    }

    /// The same service, in a cluster.
    #[must_use]
    pub fn among(self, forwarder: Forwarder) -> Self {
        let others = forwarder.clone();
        self.lanes
            .set_owner_check(move |lane| others.is_elsewhere(lane));
        Self {
            forwarder: Some(forwarder),
            ..self
        }
    }

    /// The same service, which forwards nothing.
    pub(crate) fn alone(&self) -> Self {
        Self {
            forwarder: None,
            ..self.clone()
        }
    }

    /// The same service, for callers on the current runtime.
    #[must_use]
    pub fn for_this_runtime(&self) -> Self {
        Self {
            lanes: self.lanes.for_this_runtime(),
            forwarder: self.forwarder.as_ref().map(Forwarder::for_this_runtime),
            ..self.clone()
        }
    }

    /// The owner of a lane, if it is another node and accepts calls.
    pub(super) fn elsewhere(&self, lane: LaneNumber) -> Option<RemoteOwner> {
        self.forwarder.as_ref()?.elsewhere(lane)
    }

    /// The lane of a group's counters.
    pub(super) fn lane(&self, group: &str) -> LaneNumber {
        self.hasher.lane(group, self.store().lanes())
    }
}
