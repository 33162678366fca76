//! What is served once there is a store: a server may listen before that.

use tokio::sync::watch;

use super::health::Health;
use crate::cluster::{IncomingCalls, Nodes};
use crate::counter::Counters;

/// What needs a store.
#[derive(Clone)]
pub struct Services {
    /// Each thread has its own way to it.
    pub counters: Counters,
    /// The nodes; this one alone, where there are no others.
    pub nodes: Option<Nodes>,
    /// For other nodes, where there are any; each thread has its own way to it.
    pub peers: Option<IncomingCalls>,
    /// Whether the store can be reached, where it may not be.
    pub available: Option<watch::Receiver<bool>>,
}

impl Services {
    /// Counters of this node alone.
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

/// Where a server finds them, once they are there.
pub(super) type Slot = watch::Receiver<Option<Services>>;

/// Says of counters what can be said of their store, for ever.
pub(super) async fn report(mut slot: Slot, health: &Health) {
    if slot.wait_for(Option::is_some).await.is_err() && slot.borrow().is_none() {
        // There will be none.
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
