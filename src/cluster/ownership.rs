//! Divides the lanes among the nodes by highest random weight (rendezvous hashing), so that a node that joins or leaves
//! moves its own lanes and few others. The share of a node is bounded: with few lanes, chance alone could give one node
//! twice its share. See <https://arxiv.org/abs/1608.01350>, with an epsilon of 0, and its balls in the order of their
//! weights.
//!
//! All nodes compute the same result from the same list of nodes. A wrong result costs conflicts, not correctness.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher13;

use super::{ClockState, Node};

/// These keys must never change: a node of a version with other keys would forward lanes to other nodes.
const KEYS: (u64, u64) = (0x7375_6d64_2d6c_616e, 0x652d_6f77_6e65_7273);

/// The owner of each lane, as an index into a list of nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owners(Vec<Option<usize>>);

impl Owners {
    /// Assigns each lane to one of the nodes that are not draining, if there is one. Nodes whose clocks are off get no
    /// lanes, unless all clocks are off.
    pub(super) fn new(nodes: &[Node], lanes: u16) -> Self {
        let stays = |node: &Node| !node.draining;
        let agrees = |node: &Node| stays(node) && node.clock != ClockState::Off;
        let any_agrees = nodes.iter().any(agrees);
        let is_able = |node: &Node| {
            if any_agrees {
                agrees(node)
            } else {
                stays(node)
            }
        };
        let able = nodes.iter().enumerate().filter(|(_, node)| is_able(node));
        let mut wishes: Vec<(u64, &str, u16, usize)> = able
            .clone()
            .flat_map(|(place, node)| {
                // The id breaks a tie of two weights, which has never occurred.
                (0..lanes).map(move |lane| (weight(&node.id, lane), &*node.id, lane, place))
            })
            .collect();
        wishes.sort_unstable_by(|a, b| b.cmp(a));
        let share = usize::from(lanes).div_ceil(able.count().max(1));
        let mut left = vec![share; nodes.len()];
        let mut owners = vec![None; usize::from(lanes)];
        for (_, _, lane, place) in wishes {
            let owner = &mut owners[usize::from(lane)];
            if owner.is_none() && left[place] > 0 {
                *owner = Some(place);
                left[place] -= 1;
            }
        }
        Self(owners)
    }

    pub(super) fn count(&self) -> u16 {
        u16::try_from(self.0.len()).expect("it was made with a u16")
    }

    pub(super) fn of(&self, lane: u16) -> Option<usize> {
        self.0.get(usize::from(lane)).copied().flatten()
    }

    pub(super) fn lanes_of(&self, place: usize) -> impl Iterator<Item = u16> {
        (0..self.count()).filter(move |lane| self.of(*lane) == Some(place))
    }
}

/// The preference of a lane for a node: SipHash-1-3, with fixed keys, of the bytes of the id and the two bytes of the
/// lane, little-endian.
fn weight(id: &str, lane: u16) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(KEYS.0, KEYS.1);
    hasher.write(id.as_bytes());
    hasher.write(&lane.to_le_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::cluster::node::tests::node;

    const LANES: u16 = 256;

    fn nodes(ids: &BTreeSet<String>) -> Vec<Node> {
        ids.iter().map(|id| node(id)).collect()
    }

    /// The ids of the owners.
    fn owners(nodes: &[Node]) -> Vec<Option<&str>> {
        let owners = Owners::new(nodes, LANES);
        let id = |lane| owners.of(lane).map(|place| nodes[place].id.as_str());
        (0..LANES).map(id).collect()
    }

    fn ids(count: std::ops::Range<usize>) -> impl Strategy<Value = BTreeSet<String>> {
        prop::collection::btree_set("[a-z0-9.-]{1,20}", count)
    }

    proptest! {
        /// A node that leaves is treated like one that is draining: its lanes move, and few others.
        #[test]
        fn the_lanes_of_a_node_that_goes_move(ids in ids(1..9), which: prop::sample::Index) {
            let all = nodes(&ids);
            let gone = which.index(all.len());
            let (mut rest, mut draining) = (all.clone(), all.clone());
            rest.remove(gone);
            draining[gone].draining = true;
            prop_assert_eq!(owners(&rest), owners(&draining));
            let gone = Some(all[gone].id.as_str());
            let (before, after) = (owners(&all), owners(&rest));
            prop_assert!(!after.contains(&gone));
            let moved = before.iter().zip(&after).filter(|(before, after)| before != after);
            let others = moved.filter(|(before, _)| **before != gone).count();
            prop_assert!(others <= usize::from(LANES) / 8, "{}", others);
        }

        /// The result does not depend on the order of the nodes.
        #[test]
        fn the_order_of_nodes_does_not_matter(ids in ids(1..9)) {
            let all = nodes(&ids);
            let mut reversed = all.clone();
            reversed.reverse();
            prop_assert_eq!(owners(&all), owners(&reversed));
        }

        /// Each lane has an owner, and no node has more than its share.
        #[test]
        fn shares_are_alike(ids in ids(1..9), lanes in 1..=LANES) {
            let all = nodes(&ids);
            let owners = Owners::new(&all, lanes);
            let counts = (0..all.len()).map(|place| owners.lanes_of(place).count());
            let counts: Vec<_> = counts.collect();
            prop_assert_eq!(counts.iter().sum::<usize>(), usize::from(lanes));
            let share = usize::from(lanes).div_ceil(all.len());
            prop_assert!(counts.iter().all(|count| *count <= share), "{:?}", counts);
        }
    }

    /// A node whose clock is off owns no lanes, unless all clocks are off or the others drain.
    #[test]
    fn a_node_whose_clock_is_off_owns_nothing() {
        let mut nodes = ["a", "b"].map(node);
        nodes[0].clock = ClockState::Off;
        let owners = |nodes: &[Node]| {
            let owners = Owners::new(nodes, LANES);
            [0, 1].map(|place| owners.lanes_of(place).count())
        };
        assert_eq!(owners(&nodes), [0, LANES.into()]);
        nodes[1].draining = true;
        assert_eq!(owners(&nodes), [LANES.into(), 0]);
        nodes[1].draining = false;
        nodes[1].clock = ClockState::Off;
        assert_eq!(owners(&nodes), [128, 128]);
        nodes[0].clock = ClockState::BehindHorizon;
        assert_eq!(owners(&nodes), [LANES.into(), 0]);
    }

    #[test]
    fn nobody_owns_anything_where_nobody_is() {
        assert_eq!(Owners::new(&[], LANES).of(0), None);
        let mut draining = node("a");
        draining.draining = true;
        assert_eq!(Owners::new(&[draining], LANES).of(0), None);
        assert_eq!(Owners::new(&[node("a")], 1).of(1), None, "no such lane");
    }

    /// The weights never change, or nodes of different versions would forward lanes to each other.
    #[test]
    fn weights_are_what_they_always_were() {
        assert_eq!(weight("sumd-0", 0), 5_528_952_070_493_713_474);
        assert_eq!(weight("sumd-1", 255), 8_826_661_109_777_049_948);
    }
}
