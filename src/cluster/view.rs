//! The nodes at one moment, and the lanes that they own.

use super::Node;
use super::ownership::Owners;

/// The nodes, as this node has last heard. A wrong or late view costs conflicts, never correctness.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    revision: i64,
    nodes: Vec<Node>,
    owners: Owners,
}

impl View {
    /// The nodes as they were at a revision of etcd, and the number of lanes.
    #[must_use]
    pub fn new(revision: i64, mut nodes: Vec<Node>, lanes: u16) -> Self {
        nodes.sort_by(|a, b| a.id.cmp(&b.id));
        let owners = Owners::new(&nodes, lanes);
        Self {
            revision,
            nodes,
            owners,
        }
    }

    /// The revision of the view, which grows with every change; 0 if there is no view yet.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// All nodes that are alive, ordered by id.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node with this id.
    #[must_use]
    pub fn node(&self, id: &str) -> Option<&Node> {
        self.place(id).map(|place| &self.nodes[place])
    }

    /// The number of lanes.
    #[must_use]
    pub fn lanes(&self) -> u16 {
        self.owners.count()
    }

    /// The owner of the lane, or `None` if no node is alive or all are draining; then any node may commit.
    #[must_use]
    pub fn owner(&self, lane: u16) -> Option<&Node> {
        self.owners.of(lane).map(|place| &self.nodes[place])
    }

    /// The lanes that a node owns, in their order.
    pub fn lanes_of(&self, id: &str) -> impl Iterator<Item = u16> {
        let place = self.place(id);
        place
            .into_iter()
            .flat_map(|place| self.owners.lanes_of(place))
    }

    fn place(&self, id: &str) -> Option<usize> {
        let found = self.nodes.binary_search_by(|node| node.id.as_str().cmp(id));
        found.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::node::tests::node;

    #[test]
    fn every_lane_is_its_owners() {
        let view = View::new(7, vec![node("c"), node("a"), node("b")], 256);
        let ids: Vec<_> = view.nodes().iter().map(|node| node.id.as_str()).collect();
        assert_eq!(ids, ["a", "b", "c"]);
        let mut lanes = 0;
        for id in ids {
            for lane in view.lanes_of(id) {
                assert_eq!(view.owner(lane).expect("an owner").id, id);
                lanes += 1;
            }
        }
        assert_eq!(lanes, view.lanes());
        assert_eq!(view.lanes_of("d").count(), 0);
        assert_eq!(view.node("b").expect("it is there").id, "b");
    }
}
