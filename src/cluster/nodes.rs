//! The nodes that there are, as this one knows.

use std::sync::Arc;

use tokio::sync::watch;

use super::{ClockState, Node, View};

/// The nodes of a cluster, or a node that is alone.
#[derive(Clone)]
pub struct Nodes {
    view: watch::Receiver<Arc<View>>,
    /// Of a node that is alone.
    own: Option<watch::Sender<Arc<View>>>,
}

impl Nodes {
    /// The nodes of a cluster.
    #[must_use]
    pub fn new(view: watch::Receiver<Arc<View>>) -> Self {
        Self { view, own: None }
    }

    /// A node that is alone, and owns the only lane.
    #[must_use]
    pub fn alone(node: Node) -> Self {
        let (own, view) = watch::channel(Arc::new(View::new(1, vec![node], 1)));
        let own = Some(own);
        Self { view, own }
    }

    /// The nodes, now and whenever they change.
    #[must_use]
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// A node that is alone says that it is about to stop. One of a cluster has [told all](super::Members) before.
    pub fn announce_draining(&self) {
        self.change(|node| node.draining = true);
    }

    /// A node that is alone says what is known of its clock.
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
