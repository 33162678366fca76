//! The memory of a node, shared by its lanes.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::model::{Bounds, State};

/// The usage of all lanes together, and its limits.
pub(super) struct MemoryBudget {
    bounds: Bounds,
    ids: AtomicUsize,
    counters: AtomicUsize,
    /// Number of lanes in memory.
    lanes: AtomicUsize,
}

/// The usage of one lane.
#[derive(Default)]
pub(super) struct Usage {
    ids: usize,
    counters: usize,
}

impl MemoryBudget {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            ids: AtomicUsize::new(0),
            counters: AtomicUsize::new(0),
            lanes: AtomicUsize::new(0),
        }
    }

    /// The limits for all lanes together, which are those of a lane that is alone.
    pub(super) fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Bytes that ids and sessions take in all lanes together.
    pub(super) fn id_bytes(&self) -> usize {
        self.ids.load(Ordering::Relaxed)
    }

    /// Adds a lane that is loaded.
    pub(super) fn join(&self) -> Usage {
        self.lanes.fetch_add(1, Ordering::Relaxed);
        Usage::default()
    }

    /// Publishes the usage of a lane, and sets the limits that the others leave it. Counters can be read again, so each
    /// lane has its part of the memory for them, whatever the others take.
    pub(super) fn share(&self, usage: &mut Usage, state: &mut State) {
        let ids = swap(&self.ids, &mut usage.ids, state.id_bytes());
        let counters = swap(&self.counters, &mut usage.counters, state.counter_bytes());
        let lanes = self.lanes.load(Ordering::Relaxed);
        state.share(ids, part(self.bounds.counter_bytes, counters, lanes));
    }

    /// Removes a lane that is unloaded.
    pub(super) fn leave(&self, mut usage: Usage) {
        swap(&self.ids, &mut usage.ids, 0);
        swap(&self.counters, &mut usage.counters, 0);
        self.lanes.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A lane's limit out of `max` bytes: all that the others leave, and at least an equal part.
fn part(max: usize, others: usize, lanes: usize) -> usize {
    max.saturating_sub(others).max(max / lanes.max(1))
}

/// Replaces a lane's part of a total. Returns the total of the others.
fn swap(total: &AtomicUsize, part: &mut usize, now: usize) -> usize {
    let before = std::mem::replace(part, now);
    if now >= before {
        total.fetch_add(now - before, Ordering::Relaxed);
    } else {
        total.fetch_sub(before - now, Ordering::Relaxed);
    }
    total.load(Ordering::Relaxed).saturating_sub(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lane may take all that the others leave, and at least its equal part.
    #[test]
    fn a_lane_has_its_part_of_the_counters_memory() {
        assert_eq!(part(100, 0, 1), 100);
        assert_eq!(part(100, 30, 4), 70);
        assert_eq!(part(100, 90, 4), 25);
        assert_eq!(part(100, 200, 3), 33);
        assert_eq!(part(100, 40, 0), 100, "the first lane is on its way");
    }

    /// The memory of a lane is free for the others once the lane is unloaded.
    #[test]
    fn a_lane_that_goes_leaves_what_it_had() {
        let memory = MemoryBudget::new(Bounds {
            id_bytes: 100,
            counter_bytes: 100,
            id_horizon: 0,
            session_horizon: 0,
        });
        let (mut first, mut second) = (memory.join(), memory.join());
        let all = |memory: &MemoryBudget| {
            let counted = [&memory.ids, &memory.counters, &memory.lanes];
            counted.map(|count| count.load(Ordering::Relaxed))
        };
        assert_eq!(swap(&memory.ids, &mut first.ids, 10), 0);
        assert_eq!(swap(&memory.counters, &mut first.counters, 20), 0);
        assert_eq!(swap(&memory.ids, &mut second.ids, 30), 10);
        assert_eq!(swap(&memory.ids, &mut second.ids, 25), 10);
        assert_eq!(all(&memory), [35, 20, 2]);
        assert_eq!(memory.id_bytes(), 35);
        memory.leave(first);
        assert_eq!(all(&memory), [25, 0, 1]);
        memory.leave(second);
        assert_eq!(all(&memory), [0, 0, 0]);
    }
}
