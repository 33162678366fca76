//! Which node carries out a stream's parts of each lane. Those of one lane are with one node at a time: on two ways at once
//! the later ones would come first, and the two nodes would get in each other's way in the lane.

use std::collections::HashMap;

use crate::store::LaneNumber;

/// Parts that are not answered, by their lanes.
#[derive(Default)]
pub(super) struct Places(HashMap<LaneNumber, Place>);

struct Place {
    /// `None` is this one.
    node: Option<String>,
    parts: usize,
}

impl Places {
    /// Whether a part of a lane may be given to a node: no other has any.
    pub(super) fn are_free(&self, lane: LaneNumber, node: Option<&str>) -> bool {
        let place = self.0.get(&lane);
        place.is_none_or(|place| place.node.as_deref() == node)
    }

    /// A part is given to a node.
    pub(super) fn take(&mut self, lane: LaneNumber, node: Option<&str>) {
        let place = self.0.entry(lane).or_insert_with(|| Place {
            node: node.map(str::to_owned),
            parts: 0,
        });
        if place.node.as_deref() != node {
            place.node = node.map(str::to_owned);
        }
        place.parts += 1;
    }

    /// A part is answered, or comes back without an answer.
    pub(super) fn leave(&mut self, lane: LaneNumber) {
        if let Some(place) = self.0.get_mut(&lane) {
            place.parts -= 1;
            if place.parts == 0 {
                self.0.remove(&lane);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_changes_its_place_when_all_is_answered() {
        let mut places = Places::default();
        places.take(7, None);
        places.take(7, None);
        assert!(places.are_free(7, None));
        assert!(places.are_free(8, Some("b")));
        places.leave(7);
        assert!(!places.are_free(7, Some("b")));
        places.leave(7);
        assert!(places.are_free(7, Some("b")));
    }

    /// A part that comes back is carried out here; those after it wait until all that were with the other node are back.
    #[test]
    fn a_part_that_comes_back_is_carried_out_here() {
        let mut places = Places::default();
        places.take(7, Some("b"));
        places.take(7, Some("b"));
        places.leave(7);
        places.take(7, None);
        assert!(places.are_free(7, None));
        places.leave(7);
        assert!(!places.are_free(7, Some("b")));
    }
}
