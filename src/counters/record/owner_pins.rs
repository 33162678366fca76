//! The node that executes a stream's parts of each lane. All in-flight parts of a lane go to one node: two routes would
//! reorder them, and two nodes would compete for the lane.

use crate::store::LaneNumber;

/// The unanswered parts of each lane.
pub(super) struct OwnerPins(Vec<Pin>);

#[derive(Clone, Default)]
struct Pin {
    parts: usize,
    /// The node that has the parts; `None` is this node. It has no meaning if there are no parts.
    node: Option<String>,
}

impl OwnerPins {
    pub(super) fn new(lanes: u32) -> Self {
        Self(vec![Pin::default(); lanes as usize])
    }

    /// Whether a part of a lane may be given to a node: no other node has parts of it.
    pub(super) fn may_use(&self, lane: LaneNumber, node: Option<&str>) -> bool {
        let place = &self.0[lane as usize];
        place.parts == 0 || place.node.as_deref() == node
    }

    /// Counts a part that is given to a node.
    pub(super) fn pin(&mut self, lane: LaneNumber, node: Option<&str>) {
        let place = &mut self.0[lane as usize];
        if place.node.as_deref() != node {
            place.node = node.map(str::to_owned);
        }
        place.parts += 1;
    }

    /// Removes a part that is answered, or that came back without an answer.
    pub(super) fn unpin(&mut self, lane: LaneNumber) {
        self.0[lane as usize].parts -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_changes_its_place_when_all_is_answered() {
        let mut pins = OwnerPins::new(16);
        pins.pin(7, None);
        pins.pin(7, None);
        assert!(pins.may_use(7, None));
        assert!(pins.may_use(8, Some("b")));
        pins.unpin(7);
        assert!(!pins.may_use(7, Some("b")));
        pins.unpin(7);
        assert!(pins.may_use(7, Some("b")));
        pins.pin(7, Some("b"));
        assert!(pins.may_use(7, Some("b")));
        assert!(!pins.may_use(7, None) && !pins.may_use(7, Some("c")));
    }

    /// A part that comes back is executed here, even while the other node has more parts of the lane. The lane then
    /// stays here until all of them are answered.
    #[test]
    fn a_part_that_comes_back_is_carried_out_here() {
        let mut pins = OwnerPins::new(16);
        pins.pin(7, Some("b"));
        pins.pin(7, Some("b"));
        pins.unpin(7);
        pins.pin(7, None);
        assert!(pins.may_use(7, None));
        pins.unpin(7);
        assert!(!pins.may_use(7, Some("b")));
    }
}
