//! Which node carries out a stream's parts of each lane. Those of one lane are with one node at a time: on two ways at once
//! the later ones would come first, and the two nodes would get in each other's way in the lane.

use crate::store::LaneNumber;

/// Parts that are not answered, by their lanes.
pub(super) struct OwnerPins(Vec<Pin>);

#[derive(Clone, Default)]
struct Pin {
    parts: usize,
    /// Who has them; `None` is this one. It tells nothing where there are none.
    node: Option<String>,
}

impl OwnerPins {
    pub(super) fn new(lanes: u32) -> Self {
        Self(vec![Pin::default(); lanes as usize])
    }

    /// Whether a part of a lane may be given to a node: no other has any.
    pub(super) fn may_use(&self, lane: LaneNumber, node: Option<&str>) -> bool {
        let place = &self.0[lane as usize];
        place.parts == 0 || place.node.as_deref() == node
    }

    /// A part is given to a node.
    pub(super) fn pin(&mut self, lane: LaneNumber, node: Option<&str>) {
        let place = &mut self.0[lane as usize];
        if place.node.as_deref() != node {
            place.node = node.map(str::to_owned);
        }
        place.parts += 1;
    }

    /// A part is answered, or comes back without an answer.
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

    /// A part that comes back is carried out here; those after it wait until all that were with the other node are back.
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
