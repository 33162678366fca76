//! How the lanes of a node share its memory.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::model::{Bounds, State};

/// What all lanes take together, and may take.
pub(super) struct MemoryBudget {
    bounds: Bounds,
    ids: AtomicUsize,
    counters: AtomicUsize,
    /// How many lanes there are in memory.
    lanes: AtomicUsize,
}

/// What one lane takes of it.
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

    /// What one lane may take by itself.
    pub(super) fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Bytes that ids and sessions take in all lanes together.
    pub(super) fn id_bytes(&self) -> usize {
        self.ids.load(Ordering::Relaxed)
    }

    /// A lane is in memory.
    pub(super) fn join(&self) -> Usage {
        self.lanes.fetch_add(1, Ordering::Relaxed);
        Usage::default()
    }

    /// Tells the others what a lane takes, and the lane what they leave it. Counters can be read again: of the room for
    /// those each has its part, whatever the others take.
    pub(super) fn share(&self, usage: &mut Usage, state: &mut State) {
        let ids = swap(&self.ids, &mut usage.ids, state.id_bytes());
        let counters = swap(&self.counters, &mut usage.counters, state.counter_bytes());
        let lanes = self.lanes.load(Ordering::Relaxed);
        state.share(ids, part(self.bounds.counter_bytes, counters, lanes));
    }

    /// A lane is in memory no more.
    pub(super) fn leave(&self, mut usage: Usage) {
        swap(&self.ids, &mut usage.ids, 0);
        swap(&self.counters, &mut usage.counters, 0);
        self.lanes.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a lane may take of `max` bytes: all that the others leave, and its part of them at the least.
fn part(max: usize, others: usize, lanes: usize) -> usize {
    max.saturating_sub(others).max(max / lanes.max(1))
}

/// Replaces a lane's part of a total, and gives that of the others.
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

    /// A lane may take what the others leave, and its part whatever they take.
    #[test]
    fn a_lane_has_its_part_of_the_counters_memory() {
        assert_eq!(part(100, 0, 1), 100);
        assert_eq!(part(100, 30, 4), 70);
        assert_eq!(part(100, 90, 4), 25);
        assert_eq!(part(100, 200, 3), 33);
        assert_eq!(part(100, 40, 0), 100, "the first lane is on its way");
    }

    /// The memory that a lane has taken is for the others once the lane is not in memory any more.
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
