//! The contents of a disk after a loss of power.
//!
//! Of a file, the contents at the last sync are kept. Each sector that was written since is as any of these writes left
//! it, or as it was before, independently of the others; so is the size. If a file has grown and the write was lost,
//! there are zeros or arbitrary bytes. Truncation happens at once or not at all: SQLite relies on that, and file
//! systems guarantee it. Of a folder, each entry that was made or removed since its last sync may be there or not.
//!
//! A flush that fails leaves each of its pages as it was on disk, or written; and Linux takes the page for clean. Later
//! flushes write it only if it is written to again, and then as a whole.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::ops::Range;
use std::path::Path;

use fastrand::Rng;

use super::recording::{Change, Record, Recording};

/// A disk writes a sector as a whole.
const SECTOR: usize = 512;

/// Linux writes a page to a disk as a whole.
const PAGE: usize = 4096;

/// The files of a disk, as the first records of a recording have made them.
pub struct Disk<'a> {
    recording: &'a Recording,
    done: usize,
    nodes: Vec<Node>,
    /// The newest node of each inode.
    inodes: HashMap<u64, usize>,
}

enum Node {
    File(File),
    Folder(Folder),
}

#[derive(Default)]
struct File {
    /// The contents at the last flush, successful or not.
    synced: Vec<u8>,
    since: Vec<Edit>,
    /// Pages that may differ on disk since their flush failed, with their earlier contents.
    lost: BTreeMap<usize, Vec<u8>>,
}

enum Edit {
    Write { at: usize, data: Range<usize> },
    Size(usize),
}

/// Nodes by name.
type Entries = BTreeMap<String, usize>;

#[derive(Default)]
struct Folder {
    synced: Entries,
    since: Vec<Entry>,
}

enum Entry {
    Put(String, usize),
    Remove(String),
    Rename(String, String),
}

/// The root folder, which always exists.
const ROOT: usize = 0;

impl<'a> Disk<'a> {
    pub fn new(recording: &'a Recording) -> Self {
        Self {
            recording,
            done: 0,
            nodes: vec![Node::Folder(Folder::default())],
            inodes: HashMap::from([(recording.root, ROOT)]),
        }
    }

    /// Applies records until `cut` of them are applied.
    pub fn forward(&mut self, cut: usize) {
        let recording = self.recording;
        for record in &recording.records[self.done..cut] {
            self.apply(record);
        }
        self.done = cut;
    }

    fn apply(&mut self, record: &Record) {
        match &record.change {
            Change::Create => self.put(record, Node::File(File::default())),
            Change::Folder => self.put(record, Node::Folder(Folder::default())),
            Change::Write { at, data } => self.file(record).since.push(Edit::Write {
                at: *at,
                data: data.clone(),
            }),
            Change::Size(length) => self.file(record).since.push(Edit::Size(*length)),
            Change::Sync => match &mut self.nodes[self.inodes[&record.inode]] {
                Node::File(file) => file.sync(self.recording),
                Node::Folder(folder) => {
                    folder.synced = folder.newest();
                    folder.since.clear();
                }
            },
            Change::Fail => {
                let recording = self.recording;
                self.file(record).fail(recording);
            }
            Change::Unlink => {
                let (folder, name) = self.place(&record.path);
                folder.since.push(Entry::Remove(name));
            }
            Change::Rename { to } => {
                let (folder, name) = split(to);
                assert_eq!(folder, split(&record.path).0, "within a folder");
                let new = name.to_owned();
                let (folder, old) = self.place(&record.path);
                folder.since.push(Entry::Rename(old, new));
            }
        }
    }

    fn put(&mut self, record: &Record, node: Node) {
        let new = self.nodes.len();
        self.nodes.push(node);
        self.inodes.insert(record.inode, new);
        let (folder, name) = self.place(&record.path);
        folder.since.push(Entry::Put(name, new));
    }

    fn file(&mut self, record: &Record) -> &mut File {
        match &mut self.nodes[self.inodes[&record.inode]] {
            Node::File(file) => file,
            Node::Folder(_) => panic!("{} is a folder", record.path),
        }
    }

    /// The present folder of a path, and the name in it.
    fn place(&mut self, path: &str) -> (&mut Folder, String) {
        let (folders, name) = split(path);
        let mut at = ROOT;
        for folder in folders.split('/').filter(|folder| !folder.is_empty()) {
            at = self.folder(at).newest()[folder];
        }
        match &mut self.nodes[at] {
            Node::Folder(folder) => (folder, name.to_owned()),
            Node::File(_) => panic!("{path} is below a file"),
        }
    }

    fn folder(&self, node: usize) -> &Folder {
        match &self.nodes[node] {
            Node::Folder(folder) => folder,
            Node::File(_) => panic!("a file is no folder"),
        }
    }

    /// Asserts that a folder has everything that was done, as without a loss of power.
    pub fn assert_is(&self, root: &Path) {
        self.assert_folder_is(ROOT, root);
    }

    fn assert_folder_is(&self, node: usize, path: &Path) {
        let entries = self.folder(node).newest();
        let names = fs::read_dir(path).expect("a folder").map(|entry| {
            let name = entry.expect("an entry").file_name();
            name.into_string().expect("text")
        });
        let mut names: Vec<_> = names.filter(|name| !name.ends_with("-shm")).collect();
        names.sort();
        assert!(names.iter().eq(entries.keys()), "{names:?}: {entries:?}");
        for (name, node) in entries {
            let path = path.join(name);
            match &self.nodes[node] {
                Node::Folder(_) => self.assert_folder_is(node, &path),
                Node::File(file) => {
                    let mut bytes = file.synced.clone();
                    for edit in &file.since {
                        edit.apply(&mut bytes, self.recording);
                    }
                    let same = fs::read(&path).expect("a file") == bytes;
                    assert!(same, "{} changes unseen", path.display());
                }
            }
        }
    }

    /// Writes what a loss of power leaves into a folder.
    pub fn lose_power(&self, root: &Path, rng: &mut Rng) {
        self.lose_in(ROOT, root, rng);
    }

    fn lose_in(&self, node: usize, path: &Path, rng: &mut Rng) {
        fs::create_dir_all(path).expect("a folder");
        for (name, node) in self.folder(node).torn(rng) {
            let path = path.join(&name);
            match &self.nodes[node] {
                Node::Folder(_) => self.lose_in(node, &path, rng),
                Node::File(file) => {
                    fs::write(&path, file.torn(self.recording, rng)).expect("room");
                    // The recording leaves the index out, so it may have any contents.
                    if name.ends_with("-wal") && rng.bool() {
                        let index = path.with_file_name(name.replace("-wal", "-shm"));
                        fs::write(index, rubbish(rng, 1 << 15)).expect("room");
                    }
                }
            }
        }
    }
}

/// The folder of a path, and the name in it.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn rubbish(rng: &mut Rng, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    rng.fill(&mut bytes);
    bytes
}

impl Folder {
    fn newest(&self) -> Entries {
        let mut entries = self.synced.clone();
        for entry in &self.since {
            entry.apply(&mut entries);
        }
        entries
    }

    fn torn(&self, rng: &mut Rng) -> Entries {
        let fate = Fate::draw(rng, self.since.len());
        let mut entries = self.synced.clone();
        for (i, entry) in self.since.iter().enumerate() {
            if fate.moment(i) > i {
                entry.apply(&mut entries);
            }
        }
        entries
    }
}

impl Entry {
    fn apply(&self, entries: &mut Entries) {
        match self {
            Self::Put(name, node) => {
                entries.insert(name.clone(), *node);
            }
            Self::Remove(name) => {
                entries.remove(name);
            }
            Self::Rename(from, to) => {
                if let Some(node) = entries.remove(from) {
                    entries.insert(to.clone(), node);
                }
            }
        }
    }
}

impl Edit {
    fn apply(&self, bytes: &mut Vec<u8>, recording: &Recording) {
        match self {
            Self::Write { at, data } => {
                let end = at + data.len();
                bytes.resize(bytes.len().max(end), 0);
                bytes[*at..end].copy_from_slice(recording.bytes(data));
            }
            Self::Size(length) => bytes.resize(*length, 0),
        }
    }

    /// The pages that it writes to.
    fn pages(&self) -> Range<usize> {
        match self {
            Self::Write { at, data } => at / PAGE..(at + data.len()).div_ceil(PAGE),
            Self::Size(_) => 0..0,
        }
    }

    /// The size of the file after the edit, given the size before.
    fn size(&self, before: usize) -> usize {
        match self {
            Self::Write { at, data } => before.max(at + data.len()),
            Self::Size(length) => *length,
        }
    }
}

/// A part of a file, split into sectors.
fn sectors(mut part: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
    std::iter::from_fn(move || {
        let sector = part.start / SECTOR;
        let piece = part.start..part.end.min((sector + 1) * SECTOR);
        part.start = piece.end;
        (!piece.is_empty()).then_some((sector, piece))
    })
}

impl File {
    fn sync(&mut self, recording: &Recording) {
        for edit in std::mem::take(&mut self.since) {
            edit.apply(&mut self.synced, recording);
            match &edit {
                Edit::Size(length) => self.lost.retain(|page, _| page * PAGE < *length),
                Edit::Write { .. } => self.lost.retain(|page, _| !edit.pages().contains(page)),
            }
        }
    }

    /// A failing flush: it writes some of its pages or none, and nothing is left to write afterwards.
    fn fail(&mut self, recording: &Recording) {
        let mut lost = std::mem::take(&mut self.lost);
        for page in self.since.iter().flat_map(Edit::pages) {
            let mut bytes = vec![0; PAGE];
            let there = self.synced.get(page * PAGE..).unwrap_or_default();
            let there = &there[..there.len().min(PAGE)];
            bytes[..there.len()].copy_from_slice(there);
            lost.entry(page).or_insert(bytes);
        }
        self.sync(recording);
        let length = self.synced.len();
        lost.retain(|page, _| page * PAGE < length);
        self.lost = lost;
    }

    /// The contents on disk, without the edits since the last flush.
    fn stored(&self, rng: &mut Rng) -> Vec<u8> {
        let mut bytes = self.synced.clone();
        let fate = Fate::draw(rng, 1);
        for (page, before) in &self.lost {
            if fate.moment(*page) == 0 {
                let range = page * PAGE..bytes.len().min((page + 1) * PAGE);
                bytes[range.clone()].copy_from_slice(&before[..range.len()]);
            }
        }
        bytes
    }

    fn torn(&self, recording: &Recording, rng: &mut Rng) -> Vec<u8> {
        let fate = Fate::draw(rng, self.since.len());
        let sizes = self.since.iter().scan(self.synced.len(), |size, edit| {
            *size = edit.size(*size);
            Some(*size)
        });
        let sizes: Vec<_> = [self.synced.len()].into_iter().chain(sizes).collect();
        let most = sizes.iter().copied().max().unwrap_or(0);
        let mut bytes = self.stored(rng);
        bytes.resize(most, 0);
        let mut kept = vec![false; most.div_ceil(SECTOR)];
        // The size is treated like a sector of its own.
        let resized = fate.moment(usize::MAX);
        let mut uncut = usize::MAX;
        for (i, edit) in self.since.iter().enumerate() {
            match edit {
                Edit::Size(length) if resized > i => {
                    bytes[*length..].fill(0);
                    kept[*length / SECTOR..].fill(true);
                }
                // If a truncation is lost, so is what would have made the file grow again after it.
                Edit::Size(length) => uncut = uncut.min(*length),
                Edit::Write { at, data } => {
                    for (sector, piece) in sectors(*at..at + data.len()) {
                        if fate.moment(sector) > i && piece.start < uncut {
                            let new = &recording.bytes(data)[piece.start - at..piece.end - at];
                            bytes[piece].copy_from_slice(new);
                            kept[sector] = true;
                        }
                    }
                }
            }
        }
        if rng.bool() {
            let grown = self.synced.len().div_ceil(SECTOR)..kept.len();
            for sector in grown.filter(|sector| !kept[*sector]) {
                let end = most.min((sector + 1) * SECTOR);
                rng.fill(&mut bytes[sector * SECTOR..end]);
            }
        }
        bytes.resize(sizes[resized], 0);
        bytes
    }
}

/// Decides which of some changes are kept.
struct Fate {
    kind: Kind,
    changes: usize,
    seed: u64,
}

enum Kind {
    /// The same for each sector: all changes up to a moment.
    Until(usize),
    /// Each sector has all changes, with this probability, or none.
    Kept(f64),
    /// Each sector has the changes up to a moment of its own.
    Any,
}

impl Fate {
    fn draw(rng: &mut Rng, changes: usize) -> Self {
        let kind = match rng.u8(..8) {
            0 => Kind::Until(0),
            1 | 2 => Kind::Until(changes),
            3 => Kind::Until(rng.usize(..=changes)),
            4 => Kind::Kept(0.5),
            5 => Kind::Kept(0.02),
            6 => Kind::Kept(0.98),
            _ => Kind::Any,
        };
        Self {
            kind,
            changes,
            seed: rng.u64(..),
        }
    }

    /// How many of the changes a sector has.
    fn moment(&self, sector: usize) -> usize {
        let mut rng =
            Rng::with_seed(self.seed ^ (sector as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        match self.kind {
            Kind::Until(moment) => moment,
            Kind::Kept(part) if rng.f64() < part => self.changes,
            Kind::Kept(_) => 0,
            Kind::Any => rng.usize(..=self.changes),
        }
    }
}
