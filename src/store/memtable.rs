//! The memtable: counters that have changed since their rows were last brought up to date.
//!
//! The rows of a batch's counters are scattered by name, so a batch writes only its changes, in one place. Their
//! results are kept here, where readers look first. Once there are enough, a *checkpoint* brings the rows up to date in
//! name order, so that a page takes all its changes at once; names and stored formats call that `folded`. This is the
//! first level of a log-structured merge-tree (O'Neil et al., 1996), above a B-tree.
//!
//! Runs are immutable: a reader's view of them is a handful of pointers.

use std::cmp::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::CounterChange;

/// The cost of a log entry beside its bytes: its row, and the time to read it at the next start.
const LOGGED_BYTES: usize = 256;

/// A counter as its last change left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Latest<'a> {
    pub(crate) name: &'a str,
    /// `None` if it was deleted.
    pub(crate) value: Option<i64>,
    pub(crate) revision: i64,
    /// The table of deleted counters may have a row of it.
    pub(crate) is_new: bool,
}

/// Counters in name order, each once.
#[derive(Debug, Default)]
pub(crate) struct SortedRun {
    names: String,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    value: i64,
    revision: i64,
    /// The end of the name in `names`; it begins at the end of the previous one.
    end: u32,
    deleted: bool,
    is_new: bool,
}

impl Entry {
    fn new(latest: Latest<'_>, end: u32) -> Self {
        Self {
            value: latest.value.unwrap_or(0),
            revision: latest.revision,
            end,
            deleted: latest.value.is_none(),
            is_new: latest.is_new,
        }
    }

    fn latest<'a>(&self, name: &'a str) -> Latest<'a> {
        Latest {
            name,
            value: (!self.deleted).then_some(self.value),
            revision: self.revision,
            is_new: self.is_new,
        }
    }
}

fn offset(at: usize) -> u32 {
    u32::try_from(at).expect("what is recent is bounded")
}

impl SortedRun {
    /// The changes of a batch, whose first position follows the revision `base`.
    pub(crate) fn new(changes: &[CounterChange], base: i64) -> Self {
        let names = changes.iter().map(|change| change.name.len()).sum();
        let mut run = Self::with_capacity(changes.len(), names);
        for change in changes {
            run.push(Latest {
                name: &change.name,
                value: change.value,
                revision: base + i64::from(change.place),
                is_new: change.is_new,
            });
        }
        run
    }

    fn with_capacity(entries: usize, names: usize) -> Self {
        Self {
            names: String::with_capacity(names),
            entries: Vec::with_capacity(entries),
        }
    }

    /// Appends a counter, whose name sorts after the last one's.
    pub(crate) fn push(&mut self, latest: Latest<'_>) {
        self.names.push_str(latest.name);
        let end = offset(self.names.len());
        self.entries.push(Entry::new(latest, end));
    }

    fn name(&self, at: usize) -> &str {
        let start = at
            .checked_sub(1)
            .map_or(0, |before| self.entries[before].end);
        &self.names[start as usize..self.entries[at].end as usize]
    }

    fn get(&self, at: usize) -> Option<Latest<'_>> {
        let entry = self.entries.get(at)?;
        Some(entry.latest(self.name(at)))
    }

    /// The index of the first name that is not before `name`. The search is fastest if that is shortly after `near`.
    fn seek(&self, near: usize, name: &str) -> usize {
        let behind = near > 0 && self.name(near - 1) >= name;
        let mut low = if behind { 0 } else { near };
        let mut step = 1;
        while low + step <= self.entries.len() && self.name(low + step - 1) < name {
            low += step;
            step *= 2;
        }
        let mut high = (low + step - 1).min(self.entries.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.name(middle) < name {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    fn merge(newer: &Self, older: &Self) -> Self {
        let entries = newer.entries.len() + older.entries.len();
        let mut merged = Self::with_capacity(entries, newer.names.len() + older.names.len());
        let cursors = vec![Cursor::new(newer, 0), Cursor::new(older, 0)];
        MergeIter { cursors }.for_each(|latest| merged.push(latest));
        // If both runs have the same counters, half of the capacity is unused.
        merged.entries.shrink_to_fit();
        merged.names.shrink_to_fit();
        merged
    }

    fn bytes(&self) -> usize {
        size_of::<Entry>() * self.entries.capacity() + self.names.capacity()
    }
}

/// Changes that are collected for one run: they fit into the processor's caches.
const GATHERED: usize = 32 * 1024;

/// The changes of a future run. They come in any order, and a counter any number of times, as in the log that a start
/// reads.
#[derive(Default)]
pub(crate) struct RunBuilder {
    names: String,
    /// Each with the start of its name in `names`.
    entries: Vec<(u32, Entry)>,
}

impl RunBuilder {
    /// Adds a change, which is newer than all before it.
    pub(crate) fn push(&mut self, latest: Latest<'_>) {
        let start = offset(self.names.len());
        self.names.push_str(latest.name);
        let end = offset(self.names.len());
        self.entries.push((start, Entry::new(latest, end)));
    }

    /// Whether it is time to make a run.
    pub(crate) fn is_full(&self) -> bool {
        self.entries.len() >= GATHERED
    }

    /// Makes a run of the changes, and leaves nothing.
    pub(crate) fn take(&mut self) -> SortedRun {
        let Self { names, entries } = self;
        let name = |(start, entry): &(u32, Entry)| &names[*start as usize..entry.end as usize];
        // The sort is stable: the older of two changes of a counter stays first.
        entries.sort_by(|a, b| name(a).cmp(name(b)));
        let mut run = SortedRun::with_capacity(entries.len(), names.len());
        for changes in entries.chunk_by(|a, b| name(a) == name(b)) {
            if let Some(last) = changes.last() {
                let is_new = changes.iter().any(|(_, entry)| entry.is_new);
                let latest = last.1.latest(name(last));
                run.push(Latest { is_new, ..latest });
            }
        }
        entries.clear();
        names.clear();
        run
    }
}

/// The counters of several runs, newest run first, in name order.
pub(crate) struct MergeIter<'a> {
    cursors: Vec<Cursor<'a>>,
}

struct Cursor<'a> {
    run: &'a SortedRun,
    at: usize,
    /// Whether it is at the first name among the cursors up to it.
    is_first: bool,
}

impl<'a> Cursor<'a> {
    fn new(run: &'a SortedRun, at: usize) -> Self {
        let is_first = false;
        Self { run, at, is_first }
    }
}

impl<'a> MergeIter<'a> {
    /// The counters whose names are not before `from`.
    pub(crate) fn new(runs: &'a [Arc<SortedRun>], from: &str) -> Self {
        let cursors = runs.iter().map(|run| Cursor::new(run, run.seek(0, from)));
        Self {
            cursors: cursors.collect(),
        }
    }
}

impl<'a> Iterator for MergeIter<'a> {
    type Item = Latest<'a>;

    fn next(&mut self) -> Option<Latest<'a>> {
        let mut first: Option<Latest<'a>> = None;
        // Cursors before this one are not at the first name.
        let mut begin = 0;
        for (index, cursor) in self.cursors.iter_mut().enumerate() {
            cursor.is_first = false;
            let Some(latest) = cursor.run.get(cursor.at) else {
                continue;
            };
            // Each name is compared once, which is most of the work.
            let order = first.map_or(Ordering::Greater, |first| first.name.cmp(latest.name));
            match (order, &mut first) {
                (Ordering::Less, _) => continue,
                // The newer of the two was met first.
                (Ordering::Equal, Some(first)) => first.is_new |= latest.is_new,
                (..) => (first, begin) = (Some(latest), index),
            }
            cursor.is_first = true;
        }
        for cursor in &mut self.cursors[begin..] {
            cursor.at += usize::from(cursor.is_first);
        }
        first
    }
}

/// Looks counters up by name, fastest in name order.
pub(crate) struct Lookup<'a> {
    cursors: Vec<(&'a SortedRun, usize)>,
}

impl<'a> Lookup<'a> {
    pub(crate) fn new(runs: &'a [Arc<SortedRun>]) -> Self {
        Self {
            cursors: runs.iter().map(|run| (&**run, 0)).collect(),
        }
    }

    pub(crate) fn find(&mut self, name: &str) -> Option<Latest<'a>> {
        self.cursors.iter_mut().find_map(|(run, at)| {
            *at = run.seek(*at, name);
            run.get(*at).filter(|latest| latest.name == name)
        })
    }
}

/// The runs that readers look at before the rows.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// Newest first.
    pub(crate) runs: Vec<Arc<SortedRun>>,
    /// The revision of the last batch.
    pub(crate) revision: i64,
}

/// The current view. A reader takes its snapshot of the rows while it holds the lock, since a run leaves the view only
/// after it is in the rows.
#[derive(Clone, Default)]
pub(crate) struct Current(Arc<Mutex<View>>);

impl Current {
    pub(crate) fn lock(&self) -> MutexGuard<'_, View> {
        // The view is replaced as a whole, so no panic leaves half of one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All runs: the growing ones, and the frozen ones that a checkpoint writes.
#[derive(Clone)]
pub(crate) struct Memtable {
    /// Oldest first; each is at most about half as large as the one before it.
    growing: Vec<Arc<SortedRun>>,
    logged_bytes: usize,
    /// Newest first.
    frozen: Vec<Arc<SortedRun>>,
    /// The bytes of growing runs, and of the log, that make a checkpoint due. During it as many again may be added.
    max_bytes: usize,
    max_logged_bytes: usize,
}

/// The ratio of a counter's size here to that of its change in the log. If the same counters change again and again,
/// the log grows instead, and with it the time of the next start: 38 MB of log took more than a second and a half.
const BYTES_PER_LOGGED: usize = 3;

impl Memtable {
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self {
            growing: Vec::new(),
            logged_bytes: 0,
            frozen: Vec::new(),
            max_bytes,
            max_logged_bytes: max_bytes / BYTES_PER_LOGGED,
        }
    }

    /// Counts the bytes that a batch has logged.
    pub(crate) fn log(&mut self, bytes: usize) {
        self.logged_bytes += LOGGED_BYTES + bytes;
    }

    /// Adds the changes of a batch.
    pub(crate) fn push(&mut self, mut run: SortedRun) {
        if run.entries.is_empty() {
            return;
        }
        while let Some(older) = self
            .growing
            .pop_if(|older| older.entries.len() < 2 * run.entries.len())
        {
            run = SortedRun::merge(&run, &older);
        }
        self.growing.push(Arc::new(run));
    }

    /// Whether a checkpoint is due, and none is running.
    pub(crate) fn is_full(&self) -> bool {
        let bytes: usize = self.growing.iter().map(|run| run.bytes()).sum();
        let full = bytes > self.max_bytes || self.logged_bytes > self.max_logged_bytes;
        full && self.frozen.is_empty()
    }

    /// Begins a checkpoint of the growing runs.
    pub(crate) fn freeze(&mut self) {
        self.frozen = std::mem::take(&mut self.growing);
        self.frozen.reverse();
        self.logged_bytes = 0;
    }

    /// The runs that a checkpoint writes.
    pub(crate) fn frozen(&self) -> &[Arc<SortedRun>] {
        &self.frozen
    }

    /// Ends a checkpoint: the frozen runs are in the rows.
    pub(crate) fn drop_frozen(&mut self) {
        self.frozen.clear();
    }

    pub(crate) fn view(&self, revision: i64) -> View {
        let growing = self.growing.iter().rev();
        View {
            runs: growing.chain(&self.frozen).cloned().collect(),
            revision,
        }
    }
}

#[cfg(test)]
mod tests;
