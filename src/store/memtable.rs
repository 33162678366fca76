//! The counters that have changed since their rows were last brought up to date.
//!
//! A batch does not write the rows of its counters, which are wherever their names put them, but their changes, all in one
//! place. What these leave is kept here, and once there is enough of it the rows are *folded*: brought up to date in
//! the order of their names, so that a page takes all its changes at once. Until then whoever reads looks here first. It is
//! the first level of a log-structured merge-tree (O'Neil et al., 1996), with a B-tree below it.
//!
//! Runs never change once they are made: a reader's view of them is a handful of pointers.

use std::cmp::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::CounterChange;

/// What a log's entry takes beside its bytes: its row, and the time to read it again at the next start.
const LOGGED_BYTES: usize = 256;

/// A counter as its last change has left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Latest<'a> {
    pub(crate) name: &'a str,
    /// `None` where it was deleted.
    pub(crate) value: Option<i64>,
    pub(crate) revision: i64,
    /// Its row may be among those of deleted counters.
    pub(crate) is_new: bool,
}

/// Counters in the order of their names, each once.
#[derive(Debug, Default)]
pub(crate) struct SortedRun {
    names: String,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    value: i64,
    revision: i64,
    /// Where the name ends in `names`; it begins where the one before ends.
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
    /// What a batch has changed, its first place being after the revision `base`.
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

    /// Appends a counter, whose name comes after the last one's.
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

    /// Where the first name is that is not before `name`. It is found soonest where it is a little after `near`.
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
        // Where the same counters change again and again, it is half as large.
        merged.entries.shrink_to_fit();
        merged.names.shrink_to_fit();
        merged
    }

    fn bytes(&self) -> usize {
        size_of::<Entry>() * self.entries.capacity() + self.names.capacity()
    }
}

/// So many changes are gathered for a run: what they take fits into the processor's caches.
const GATHERED: usize = 32 * 1024;

/// Changes that a run is made of. They come in any order, and a counter may be among them many times: so they are in the log, which
/// a start reads.
#[derive(Default)]
pub(crate) struct RunBuilder {
    names: String,
    /// Each with where its name begins.
    entries: Vec<(u32, Entry)>,
}

impl RunBuilder {
    /// Takes in a counter, which is newer than all before.
    pub(crate) fn push(&mut self, latest: Latest<'_>) {
        let start = offset(self.names.len());
        self.names.push_str(latest.name);
        let end = offset(self.names.len());
        self.entries.push((start, Entry::new(latest, end)));
    }

    /// A run is better made of it now.
    pub(crate) fn is_full(&self) -> bool {
        self.entries.len() >= GATHERED
    }

    /// Makes a run of it, and leaves nothing.
    pub(crate) fn take(&mut self) -> SortedRun {
        let Self { names, entries } = self;
        let name = |(start, entry): &(u32, Entry)| &names[*start as usize..entry.end as usize];
        // The older of two changes of a counter stays before the newer.
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

/// The counters of several runs, the newest of them first, in the order of their names.
pub(crate) struct MergeIter<'a> {
    cursors: Vec<Cursor<'a>>,
}

struct Cursor<'a> {
    run: &'a SortedRun,
    at: usize,
    /// It is at the first name of those that the cursors up to it are at.
    is_first: bool,
}

impl<'a> Cursor<'a> {
    fn new(run: &'a SortedRun, at: usize) -> Self {
        let is_first = false;
        Self { run, at, is_first }
    }
}

impl<'a> MergeIter<'a> {
    /// Those whose names are not before `from`.
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
        // Those before it are not at the first name.
        let mut begin = 0;
        for (index, cursor) in self.cursors.iter_mut().enumerate() {
            cursor.is_first = false;
            let Some(latest) = cursor.run.get(cursor.at) else {
                continue;
            };
            // Names are compared once, which is most of the work.
            let order = first.map_or(Ordering::Greater, |first| first.name.cmp(latest.name));
            match (order, &mut first) {
                (Ordering::Less, _) => continue,
                // The newer of the two comes first.
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

/// Looks counters up by name, soonest in the order of names.
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

/// What readers look at first.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// The newest first.
    pub(crate) runs: Vec<Arc<SortedRun>>,
    /// That of the last batch.
    pub(crate) revision: i64,
}

/// The view as it is now. Whoever begins to read the rows does so while it holds this: what is folded leaves the view only
/// after it is in the rows.
#[derive(Clone, Default)]
pub(crate) struct Current(Arc<Mutex<View>>);

impl Current {
    pub(crate) fn lock(&self) -> MutexGuard<'_, View> {
        // It is replaced as a whole, so that no panic leaves half of one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All runs: those that grow, and those that are being folded.
#[derive(Clone)]
pub(crate) struct Memtable {
    /// The oldest first; each is about half of the one before it, or less.
    growing: Vec<Arc<SortedRun>>,
    logged_bytes: usize,
    /// The newest first.
    frozen: Vec<Arc<SortedRun>>,
    /// How much may grow, and be logged, before it is to be folded. While that is folded, as much again may be.
    max_bytes: usize,
    max_logged_bytes: usize,
}

/// A counter takes so many times as much here as its change in the log. Where the same counters change again and again it is
/// the log that grows, and with it the time of the next start: 38 MB of it took more than a second and a half.
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

    /// A batch has logged so much.
    pub(crate) fn log(&mut self, bytes: usize) {
        self.logged_bytes += LOGGED_BYTES + bytes;
    }

    /// Takes in what a batch has changed.
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

    /// There is so much that it is to be folded, and nothing is being folded.
    pub(crate) fn is_full(&self) -> bool {
        let bytes: usize = self.growing.iter().map(|run| run.bytes()).sum();
        let full = bytes > self.max_bytes || self.logged_bytes > self.max_logged_bytes;
        full && self.frozen.is_empty()
    }

    /// Begins to fold what there is.
    pub(crate) fn freeze(&mut self) {
        self.frozen = std::mem::take(&mut self.growing);
        self.frozen.reverse();
        self.logged_bytes = 0;
    }

    /// What is being folded.
    pub(crate) fn frozen(&self) -> &[Arc<SortedRun>] {
        &self.frozen
    }

    /// All of it is in the rows.
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
