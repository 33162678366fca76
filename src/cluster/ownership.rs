//! Which lane is whose: highest random weight, so that a node that comes or goes moves only its own lanes.
//!
//! All nodes, of whatever version, come to the same answer from the same nodes. A wrong answer costs conflicts, no more.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher13;

use super::Node;

/// For ever: with other keys, a node of another version would send lanes elsewhere.
const KEYS: (u64, u64) = (0x7375_6d64_2d6c_616e, 0x652d_6f77_6e65_7273);

/// Whose each lane is, as places in a list of nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owners(Vec<Option<usize>>);

impl Owners {
    /// Gives each of the lanes to one of the nodes that are not about to stop, if there is one.
    pub(super) fn new(nodes: &[Node], lanes: u16) -> Self {
        let best = |lane| {
            let able = nodes.iter().enumerate().filter(|(_, node)| !node.draining);
            // Of two weights that are the same, which there never were, the id decides.
            let best = able.max_by_key(|(_, node)| (weight(&node.id, lane), node.id.as_str()));
            best.map(|(place, _)| place)
        };
        Self((0..lanes).map(best).collect())
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

/// How much a lane wants to be a node's: SipHash-1-3, with fixed keys, of the id's bytes and the lane's two,
/// little-endian.
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

    /// The owners' ids.
    fn owners(nodes: &[Node]) -> Vec<Option<&str>> {
        let owners = Owners::new(nodes, LANES);
        let id = |lane| owners.of(lane).map(|place| nodes[place].id.as_str());
        (0..LANES).map(id).collect()
    }

    fn ids(count: std::ops::Range<usize>) -> impl Strategy<Value = BTreeSet<String>> {
        prop::collection::btree_set("[a-z0-9.-]{1,20}", count)
    }

    proptest! {
        /// A node that goes, or says that it will, leaves all other lanes where they are.
        #[test]
        fn only_the_lanes_of_a_node_that_goes_move(ids in ids(1..9), which: prop::sample::Index) {
            let all = nodes(&ids);
            let gone = which.index(all.len());
            let (mut rest, mut draining) = (all.clone(), all.clone());
            rest.remove(gone);
            draining[gone].draining = true;
            prop_assert_eq!(owners(&rest), owners(&draining));
            for (before, after) in owners(&all).into_iter().zip(owners(&rest)) {
                if before != Some(&all[gone].id) {
                    prop_assert_eq!(before, after);
                }
                prop_assert_ne!(after, Some(all[gone].id.as_str()));
            }
        }

        /// The order in which nodes are known does not matter.
        #[test]
        fn the_order_of_nodes_does_not_matter(ids in ids(1..9)) {
            let all = nodes(&ids);
            let mut reversed = all.clone();
            reversed.reverse();
            prop_assert_eq!(owners(&all), owners(&reversed));
        }

        /// No node has more than twice its share, or less than half, and a bit: six standard deviations.
        #[test]
        fn shares_are_alike(ids in ids(1..9)) {
            let all = nodes(&ids);
            let owners = Owners::new(&all, LANES);
            let share = usize::from(LANES) / all.len();
            for place in 0..all.len() {
                let lanes = owners.lanes_of(place).count();
                prop_assert!(lanes <= 2 * share + 16 && lanes + 16 >= share / 2, "{} of {}", lanes, share);
            }
        }
    }

    #[test]
    fn nobody_owns_anything_where_nobody_is() {
        assert_eq!(Owners::new(&[], LANES).of(0), None);
        let mut draining = node("a");
        draining.draining = true;
        assert_eq!(Owners::new(&[draining], LANES).of(0), None);
        assert_eq!(Owners::new(&[node("a")], 1).of(1), None, "no such lane");
    }

    /// All versions agree, or they would send each other's lanes around.
    #[test]
    fn weights_are_what_they_always_were() {
        assert_eq!(weight("sumd-0", 0), 5_528_952_070_493_713_474);
        assert_eq!(weight("sumd-1", 255), 8_826_661_109_777_049_948);
    }
}
