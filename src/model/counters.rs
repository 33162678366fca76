//! The counters that a lane has in memory: those of the open batch, and as many others as fit.

use std::sync::Arc;

use hashbrown::HashTable;

use super::commit::CounterChange;
use super::name::hash_name;
use super::name::shared_bytes;
use super::slot::SlotId;

/// Memory of a counter beside its name: its slot, its share of the table, the name's allocation.
const COUNTER_BYTES: usize = 112;

/// `row` of a counter that the open batch does not change.
const UNCHANGED: u32 = u32::MAX;

pub(super) struct Counters {
    table: HashTable<u32>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// The clock hand: the slot at which the search for a counter to evict goes on.
    hand: usize,
    bytes: usize,
    /// The changes of the open batch. `changed` has their slots.
    rows: Vec<CounterChange>,
    changed: Vec<u32>,
    /// Total length of the rows' names.
    changed_bytes: usize,
}

struct Slot {
    name: Arc<str>,
    hash: u64,
    /// `None` if there is no such counter.
    value: Option<i64>,
    row: u32,
    /// Whether it was used since the hand passed.
    recent: bool,
}

impl Counters {
    pub(super) fn new() -> Self {
        Self {
            table: HashTable::new(),
            slots: Vec::new(),
            free: Vec::new(),
            hand: 0,
            bytes: 0,
            rows: Vec::new(),
            changed: Vec::new(),
            changed_bytes: 0,
        }
    }

    pub(super) fn find(&self, hash: u64, name: &str) -> Option<SlotId> {
        let slots = &self.slots;
        let same = |&at: &u32| {
            let slot = &slots[at as usize];
            slot.hash == hash && *slot.name == *name
        };
        self.table.find(hash, same).map(|&at| SlotId::new(at))
    }

    /// Loads the stored value of a counter, unless it is in memory already.
    pub(super) fn load(&mut self, name: Arc<str>, value: Option<i64>) {
        let hash = hash_name(&name);
        if self.find(hash, &name).is_some() {
            return;
        }
        self.bytes += COUNTER_BYTES + name.len();
        let slot = Slot {
            name,
            hash,
            value,
            row: UNCHANGED,
            recent: true,
        };
        let at = if let Some(at) = self.free.pop() {
            self.slots[at as usize] = slot;
            at
        } else {
            self.slots.push(slot);
            u32::try_from(self.slots.len() - 1).expect("memory bounds it")
        };
        let slots = &self.slots;
        self.table
            .insert_unique(hash, at, |&at| slots[at as usize].hash);
    }

    pub(super) fn value(&self, at: SlotId) -> Option<i64> {
        self.slots[at.slot() as usize].value
    }

    /// Changes a counter in the open batch, by the operation at position `place`.
    pub(super) fn set(&mut self, at: SlotId, value: Option<i64>, place: u32) {
        let at = at.slot();
        let slot = &mut self.slots[at as usize];
        let before = std::mem::replace(&mut slot.value, value);
        slot.recent = true;
        if slot.row == UNCHANGED {
            slot.row = u32::try_from(self.rows.len()).expect("a batch is bounded");
            self.changed.push(at);
            self.changed_bytes += slot.name.len();
            let name = slot.name.clone();
            self.rows.push(CounterChange {
                name,
                value,
                place,
                is_new: before.is_none(),
            });
        } else {
            let row = &mut self.rows[slot.row as usize];
            (row.value, row.place) = (value, place);
        }
    }

    /// Number of rows that the open batch changes so far.
    pub(super) fn changes(&self) -> usize {
        self.rows.len()
    }

    /// Total length of their names in bytes.
    pub(super) fn changed_bytes(&self) -> usize {
        self.changed_bytes
    }

    /// Takes the changes of the open batch, in the order of names: a store visits each of its pages once, and watchers
    /// use binary search.
    pub(super) fn take_changes(&mut self) -> Arc<[CounterChange]> {
        for at in self.changed.drain(..) {
            self.slots[at as usize].row = UNCHANGED;
        }
        self.changed_bytes = 0;
        sort_by_name(&mut self.rows);
        self.rows.drain(..).collect()
    }

    /// Applies a change that another node has committed, if the counter is in memory.
    pub(super) fn replace(&mut self, name: &str, value: Option<i64>) {
        if let Some(at) = self.find(hash_name(name), name) {
            self.slots[at.slot() as usize].value = value;
        }
    }

    /// Removes a counter from memory, so that it is loaded again.
    pub(super) fn forget(&mut self, name: &str) {
        if let Some(at) = self.find(hash_name(name), name) {
            self.remove(at.slot());
        }
    }

    fn remove(&mut self, at: u32) {
        let slot = &mut self.slots[at as usize];
        if let Ok(entry) = self.table.find_entry(slot.hash, |&found| found == at) {
            entry.remove();
        }
        self.bytes -= COUNTER_BYTES + slot.name.len();
        // An empty name marks a free slot: no counter has one.
        slot.name = Arc::from("");
        self.free.push(at);
    }

    /// Evicts counters between batches, those not recently used first (the "clock" algorithm).
    pub(super) fn evict(&mut self, max_bytes: usize) {
        while self.bytes > max_bytes {
            let at = self.hand;
            self.hand = (self.hand + 1) % self.slots.len();
            let slot = &mut self.slots[at];
            if std::mem::take(&mut slot.recent) || slot.name.is_empty() {
                continue;
            }
            self.remove(u32::try_from(at).expect("it was one when it was made"));
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Sorts by name. Most names differ in the eight bytes after their common prefix. Sorting by these bytes leaves few
/// comparisons of names, which are scattered over memory.
fn sort_by_name(rows: &mut [CounterChange]) {
    let Some((first, others)) = rows.split_first() else {
        return;
    };
    let first = first.name.as_bytes();
    let shared = others.iter().fold(first.len(), |shared, other| {
        shared_bytes(&first[..shared], other.name.as_bytes())
    });
    let key = |row: &CounterChange| {
        let mut key = [0; 8];
        let rest = &row.name.as_bytes()[shared..];
        let bytes = rest.len().min(key.len());
        key[..bytes].copy_from_slice(&rest[..bytes]);
        u64::from_be_bytes(key)
    };
    rows.sort_by_cached_key(key);
    for same in rows.chunk_by_mut(|a, b| key(a) == key(b)) {
        same.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The names that a batch changes are counted once each.
    #[test]
    fn the_names_of_a_batch_are_counted_once() {
        let mut counters = Counters::new();
        for name in ["a/1", "a/22"] {
            counters.load(name.into(), None);
        }
        let at = |counters: &Counters, name| counters.find(hash_name(name), name).expect("loaded");
        for (place, name, bytes) in [(1, "a/1", 3), (2, "a/22", 7), (3, "a/1", 7)] {
            let at = at(&counters, name);
            counters.set(at, Some(1), place);
            assert_eq!(counters.changed_bytes(), bytes);
        }
        assert_eq!(counters.changes(), 2);
    }

    /// A counter is identified by its name: another one with the same hash is not taken for it.
    #[test]
    fn counters_of_one_hash_are_told_apart() {
        let mut counters = Counters::new();
        counters.load("a".into(), Some(1));
        assert!(counters.find(hash_name("a"), "a").is_some());
        assert_eq!(counters.find(hash_name("a"), "b"), None);
    }

    /// Counters not used since the last pass are evicted first, and leave nothing behind.
    #[test]
    fn the_unused_go_first_and_leave_nothing() {
        let mut counters = Counters::new();
        let names = ["a", "b", "c", "d"];
        for name in names {
            counters.load(name.into(), Some(1));
        }
        let find = |counters: &Counters, name: &str| counters.find(hash_name(name), name);
        let left = |counters: &Counters| {
            let is_left = |name: &&str| find(counters, name).is_some();
            names.into_iter().filter(is_left).collect::<String>()
        };
        let each = counters.bytes() / 4;
        counters.evict(3 * each);
        assert_eq!(left(&counters), "bcd");
        let used = find(&counters, "b").expect("it is left");
        counters.set(used, Some(2), 1);
        counters.evict(each);
        assert_eq!(left(&counters), "b");
        assert_eq!((counters.table.len(), counters.bytes()), (1, each));
        // Free slots are used again.
        counters.load("e".into(), Some(5));
        assert_eq!(counters.slots.len(), 4);
        let added = find(&counters, "e").expect("it is loaded");
        assert_eq!(counters.value(added), Some(5));
        counters.take_changes();
        counters.evict(0);
        assert_eq!((counters.table.len(), counters.bytes()), (0, 0));
    }

    proptest! {
        #[test]
        fn names_are_in_order(names in prop::collection::hash_set("(a/)?[ab\u{e9}]{0,4}(b/)?[ab]{0,12}", 0..40)) {
            let change = |name: &String| CounterChange {
                name: name.as_str().into(),
                value: None,
                place: 1,
                is_new: false,
            };
            let mut rows: Vec<_> = names.iter().map(change).collect();
            sort_by_name(&mut rows);
            let mut expected: Vec<_> = names.iter().map(String::as_str).collect();
            expected.sort_unstable();
            prop_assert!(rows.iter().map(|row| &*row.name).eq(expected));
        }
    }
}
