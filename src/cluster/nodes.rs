//! The nodes of a cluster, or the one node without a cluster.

use std::sync::Arc;

use tokio::sync::watch;

use super::{ClockState, Node, View};

/// The nodes that this one knows, now and after each change.
#[derive(Clone)]
pub struct Nodes {
    view: watch::Receiver<Arc<View>>,
    /// The sender of the view of a standalone node.
    own: Option<watch::Sender<Arc<View>>>,
}

impl Nodes {
    /// The nodes of a cluster.
    #[must_use]
    pub fn new(view: watch::Receiver<Arc<View>>) -> Self {
        Self { view, own: None }
    }

    /// A standalone node, which owns the only lane.
    #[must_use]
    pub fn alone(node: Node) -> Self {
        let (own, view) = watch::channel(Arc::new(View::new(1, vec![node], 1)));
        let own = Some(own);
        Self { view, own }
    }

    /// The view of the nodes, and its changes.
    #[must_use]
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// Marks a standalone node as draining. A member of a cluster has [announced it](super::Members::announce_draining)
    /// before.
    pub fn announce_draining(&self) {
        self.change(|node| node.draining = true);
    }

    /// Sets the state of a standalone node's clock.
    pub fn tell_clock(&self, clock: ClockState) {
        self.change(|node| node.clock = clock);
    }

    fn change(&self, change: impl Fn(&mut Node)) {
        let Some(own) = &self.own else { return };
        own.send_if_modified(|view| {
            let mut nodes = view.nodes().to_vec();
            nodes.iter_mut().for_each(change);
            let is_changed = nodes != view.nodes();
            if is_changed {
                *view = Arc::new(View::new(view.revision() + 1, nodes, view.lanes()));
            }
            is_changed
        });
    }
}
