//! A counter's place in memory.

use std::num::NonZeroU32;

/// A counter in memory, until room is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SlotId(NonZeroU32);

impl SlotId {
    pub(super) fn new(slot: u32) -> Self {
        // There is no room for so many slots.
        Self(NonZeroU32::MIN.saturating_add(slot))
    }

    pub(super) fn slot(self) -> u32 {
        self.0.get() - 1
    }
}
