//! Handles of counters in memory.

use std::num::NonZeroU32;

/// A counter in memory. Stale once counters are evicted or a batch is undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SlotId(NonZeroU32);

impl SlotId {
    pub(super) fn new(slot: u32) -> Self {
        // Never saturates: memory holds fewer slots.
        Self(NonZeroU32::MIN.saturating_add(slot))
    }

    pub(super) fn slot(self) -> u32 {
        self.0.get() - 1
    }
}
