//! The services that need a store. A server may listen before there is one.

use tokio::sync::watch;

use super::health::Health;
use crate::cluster::{IncomingCalls, Nodes};
use crate::counters::Counters;

/// The services that need a store.
#[derive(Clone)]
pub struct Services {
    /// The counters. Each worker has its own handle of them.
    pub counters: Counters,
    /// The nodes; `None` if this one is standalone.
    pub nodes: Option<Nodes>,
    /// The executor of calls from other nodes, if there are any. Each worker has its own handle of it.
    pub peers: Option<IncomingCalls>,
    /// Whether the store can be reached; `None` if it always can.
    pub available: Option<watch::Receiver<bool>>,
}

impl Services {
    /// The counters of a standalone node.
    #[must_use]
    pub fn alone(counters: Counters) -> Self {
        Self {
            counters,
            nodes: None,
            peers: None,
            available: None,
        }
    }
}

/// The services, once there is a store.
pub(super) type Slot = watch::Receiver<Option<Services>>;

/// Reports the availability of the store as the health of the counters, forever.
pub(super) async fn report(mut slot: Slot, health: &Health) {
    if slot.wait_for(Option::is_some).await.is_err() && slot.borrow().is_none() {
        // The services will never be set.
        return std::future::pending().await;
    }
    let services = slot.borrow().clone();
    let available = services.and_then(|services| services.available);
    let Some(mut available) = available else {
        health.set_counting(true);
        return std::future::pending().await;
    };
    loop {
        let now = *available.borrow_and_update();
        health.set_counting(now);
        if available.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}
