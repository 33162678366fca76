//! The deduplication log of a lane: the request ids that it remembers, each with its answer.
//!
//! Ids are kept as they are stored: one byte string per batch, a *pack*. One index over all packs has eight bytes per
//! id. An id takes some 50 bytes in total, and a batch is forgotten as a whole.

#[cfg(test)]
pub(super) mod tests;

use std::collections::VecDeque;
use std::iter;
use std::sync::Arc;

use hashbrown::HashTable;

use super::answer::{Answer, Effect, Position};
use super::codec::{Corrupt, Reader, put_u64};
use super::commit::Pack;
use super::request::Id;
use super::time::Millis;

/// Memory of an id beside its entry: its slot in the index, which may be half empty.
const INDEX_BYTES: usize = 20;
/// Memory of a pack beside its entries.
const PACK_BYTES: usize = 64;
/// Number of parts of the index. Each part grows separately, so that the longest pause is a millisecond.
const PARTS: usize = 256;
/// Number of ids that are grouped by index part before they are inserted: a thousand per part.
const GATHERED: usize = 1024 * PARTS;

pub(super) struct DedupLog {
    /// Each with the lane's age at its batch.
    packs: VecDeque<(Pack, Millis)>,
    /// Number of the first pack. It wraps around.
    first: u32,
    /// The pack of the open batch. Its number follows that of the last pack.
    open: Vec<u8>,
    /// The latest time of an id in the open pack.
    newest: Option<Millis>,
    index: Vec<HashTable<Slot>>,
    count: usize,
    bytes: usize,
}

/// The ids that another store remembered before its data were moved here. All lanes of a node share them, since their
/// groups may be in any lane now. Each lane drops them together, when the newest may be forgotten.
pub struct ImportedIds {
    ids: DedupLog,
    newest: Millis,
}

impl ImportedIds {
    /// Indexes the packs of the other store.
    ///
    /// # Errors
    /// Returns [`Corrupt`] if a pack cannot be decoded.
    pub fn new(packs: Vec<Pack>) -> Result<Self, Corrupt> {
        let newest = packs.iter().filter_map(|pack| pack.stamp.newest).max();
        let packs = packs.into_iter().map(|pack| (pack, Millis::MIN));
        Ok(Self {
            ids: DedupLog::new(packs.collect())?,
            newest: newest.unwrap_or(Millis::MIN),
        })
    }

    pub(super) fn find(&self, id: &Id) -> Option<Known> {
        self.ids.find(id)
    }

    /// The latest time of an id.
    pub(super) fn newest(&self) -> Millis {
        self.newest
    }
}

/// The result of [`DedupLog::forget`].
#[derive(Default)]
pub(super) struct Forgotten {
    pub(super) any: bool,
    /// The latest time of a forgotten id.
    pub(super) newest: Option<Millis>,
}

/// The location of an id's entry.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Slot {
    pack: u32,
    offset: u32,
}

/// A remembered id.
pub(super) struct Known {
    pub(super) contents: u64,
    pub(super) answer: Answer,
}

/// One entry of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackEntry {
    /// Digest of the id.
    pub digest: [u8; 16],
    /// Digest of the operation.
    pub contents: u64,
    /// The operation's position in its batch, from 1.
    pub place: u32,
    /// The operation's answer.
    pub done: Effect,
}

impl PackEntry {
    /// Decodes the entries of a pack.
    ///
    /// # Errors
    /// Returns [`Corrupt`] if the bytes are not a pack.
    pub fn read_all(ids: &[u8]) -> Result<Vec<Self>, Corrupt> {
        let mut reader = Reader(ids);
        let mut entries = Vec::new();
        while !reader.is_empty() {
            entries.push(Self::read(&mut reader)?);
        }
        Ok(entries)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Corrupt> {
        Ok(Self {
            digest: reader.bytes()?,
            contents: u64::from_le_bytes(reader.bytes()?),
            place: reader.u32()?,
            done: Effect::read(reader)?,
        })
    }
}

impl DedupLog {
    /// A log of these packs, each with the lane's age at its batch.
    ///
    /// One part of the index fits into the processor's caches, but not the whole index. Ids that are inserted part by
    /// part take a fraction of the time that they take in their own order.
    pub(super) fn new(packs: Vec<(Pack, Millis)>) -> Result<Self, Corrupt> {
        let mut counts = [0; PARTS];
        for (pack, _) in &packs {
            for entry in entries(&pack.ids) {
                counts[part(&entry?.0)] += 1;
            }
        }
        let bytes = packs.iter().map(|(pack, _)| PACK_BYTES + pack.ids.len());
        let mut ids = Self {
            bytes: bytes.sum(),
            packs: packs.into(),
            first: 0,
            open: Vec::new(),
            newest: None,
            index: counts.map(HashTable::with_capacity).into(),
            count: 0,
        };
        let mut gathered = vec![Vec::new(); PARTS];
        let mut count = 0;
        for number in 0..ids.open_number() {
            let pack = ids.packs[number as usize].0.ids.clone();
            for entry in entries(&pack) {
                let (digest, offset) = entry?;
                let slot = Slot {
                    pack: number,
                    offset,
                };
                gathered[part(&digest)].push((hash(&digest), slot));
                count += 1;
            }
            if count >= GATHERED {
                ids.insert_all(&mut gathered);
                count = 0;
            }
        }
        ids.insert_all(&mut gathered);
        Ok(ids)
    }

    /// Appends a pack of another node's batch, at the lane's age `age`.
    pub(super) fn load(&mut self, pack: Pack, age: Millis) -> Result<(), Corrupt> {
        let number = self.open_number();
        let entries: Result<Vec<_>, _> = entries(&pack.ids).collect();
        let entries = entries?;
        self.bytes += PACK_BYTES + pack.ids.len();
        self.packs.push_back((pack, age));
        for (digest, offset) in entries {
            let slot = Slot {
                pack: number,
                offset,
            };
            self.insert(&digest, slot);
        }
        Ok(())
    }

    pub(super) fn find(&self, id: &Id) -> Option<Known> {
        let part = &self.index[part(&id.digest)];
        let same = |&slot: &Slot| self.digest(slot) == id.digest;
        let slot = *part.find(hash(&id.digest), same)?;
        let (bytes, base) = self.pack(slot.pack);
        let entry = PackEntry::read(&mut Reader(&bytes[slot.offset as usize..]))
            .expect("it was read or written before");
        let place = match base {
            Some(base) => Position::Revision(base + i64::from(entry.place)),
            None => Position::InBatch(entry.place),
        };
        Some(Known {
            contents: entry.contents,
            answer: Answer {
                done: entry.done,
                place,
                replayed: true,
            },
        })
    }

    /// Records the answer to an id of the open batch.
    pub(super) fn remember(&mut self, id: &Id, place: u32, done: &Effect) {
        let slot = Slot {
            pack: self.open_number(),
            offset: offset(self.open.len()),
        };
        put_entry(&mut self.open, id, place, done);
        self.newest = self.newest.max(id.time);
        self.insert(&id.digest, slot);
    }

    /// Takes the open pack: its bytes, and the latest time of an id in it.
    pub(super) fn take_open(&mut self) -> (Arc<[u8]>, Option<Millis>) {
        let ids = Arc::from(self.open.as_slice());
        self.open.clear();
        (ids, self.newest.take())
    }

    /// Removes the ids of a batch that was not committed, and whose open pack was taken.
    pub(super) fn undo(&mut self, ids: &[u8]) {
        let number = self.open_number();
        self.remove(number, ids);
    }

    /// Size of the open pack in bytes.
    pub(super) fn open_bytes(&self) -> usize {
        self.open.len()
    }

    /// Appends the pack of the committed batch.
    pub(super) fn close(&mut self, pack: Pack, age: Millis) {
        if !pack.ids.is_empty() {
            self.bytes += PACK_BYTES + pack.ids.len();
            self.packs.push_back((pack, age));
        }
    }

    /// Forgets packs of batches up to the lane's age `up_to`, about `max_ids` ids in one call.
    pub(super) fn forget(&mut self, up_to: Millis, max_ids: usize) -> Forgotten {
        let mut forgotten = Forgotten::default();
        let enough = self.count.saturating_sub(max_ids);
        while self.count > enough
            && let Some((_, age)) = self.packs.front()
            && *age <= up_to
        {
            let Some((pack, _)) = self.packs.pop_front() else {
                break;
            };
            self.remove(self.first, &pack.ids);
            self.first = self.first.wrapping_add(1);
            self.bytes -= PACK_BYTES + pack.ids.len();
            forgotten.any = true;
            forgotten.newest = forgotten.newest.max(pack.stamp.newest);
        }
        forgotten
    }

    /// The oldest batch whose ids are remembered.
    pub(super) fn oldest_seq(&self) -> Option<u64> {
        self.packs.front().map(|(pack, _)| pack.seq)
    }

    /// The lane's age at the batch of the oldest pack.
    pub(super) fn oldest_age(&self) -> Option<Millis> {
        self.packs.front().map(|(_, age)| *age)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.open.len() + self.count * INDEX_BYTES
    }

    /// Removes the entries of a pack from the index.
    fn remove(&mut self, number: u32, ids: &[u8]) {
        for entry in entries(ids) {
            let (digest, offset) = entry.expect("it was read or written before");
            let slot = Slot {
                pack: number,
                offset,
            };
            let part = &mut self.index[part(&digest)];
            if let Ok(found) = part.find_entry(hash(&digest), |&other| other == slot) {
                found.remove();
                self.count -= 1;
            }
        }
    }

    fn open_number(&self) -> u32 {
        let packs = u32::try_from(self.packs.len()).expect("memory bounds it");
        self.first.wrapping_add(packs)
    }

    /// A pack's bytes, and its base revision if it is committed.
    fn pack(&self, number: u32) -> (&[u8], Option<i64>) {
        match self.packs.get(number.wrapping_sub(self.first) as usize) {
            Some((pack, _)) => (&pack.ids, Some(pack.base)),
            None => (&self.open, None),
        }
    }

    fn digest(&self, slot: Slot) -> [u8; 16] {
        let at = slot.offset as usize;
        let (bytes, _) = self.pack(slot.pack);
        bytes[at..at + 16].try_into().expect("16 bytes")
    }

    fn insert(&mut self, digest: &[u8; 16], slot: Slot) {
        self.insert_into(part(digest), [(hash(digest), slot)]);
    }

    /// Inserts the ids gathered for each part, and empties the lists.
    fn insert_all(&mut self, gathered: &mut [Vec<(u64, Slot)>]) {
        for (part, slots) in gathered.iter_mut().enumerate() {
            self.insert_into(part, slots.drain(..));
        }
    }

    fn insert_into(&mut self, part: usize, slots: impl IntoIterator<Item = (u64, Slot)>) {
        let mut table = std::mem::take(&mut self.index[part]);
        for (hash, slot) in slots {
            table.insert_unique(hash, slot, |&slot| self::hash(&self.digest(slot)));
            self.count += 1;
        }
        self.index[part] = table;
    }
}

/// Appends an entry as [`PackEntry`] reads it.
pub(super) fn put_entry(ids: &mut Vec<u8>, id: &Id, place: u32, done: &Effect) {
    ids.extend_from_slice(&id.digest);
    ids.extend_from_slice(&id.contents.to_le_bytes());
    put_u64(ids, place.into());
    done.put(ids);
}

/// The digests of a pack's ids, and the offsets of their entries.
fn entries(ids: &[u8]) -> impl Iterator<Item = Result<([u8; 16], u32), Corrupt>> {
    let mut reader = Reader(ids);
    iter::from_fn(move || {
        let offset = offset(ids.len() - reader.0.len());
        let more = !reader.is_empty();
        more.then(|| PackEntry::read(&mut reader).map(|entry| (entry.digest, offset)))
    })
}

fn offset(at: usize) -> u32 {
    u32::try_from(at).expect("a batch is bounded")
}

// A digest's bytes are as good as random: the last one selects the index part, the first eight the slot in it.
fn part(digest: &[u8; 16]) -> usize {
    usize::from(digest[15]) % PARTS
}

fn hash(digest: &[u8; 16]) -> u64 {
    let (first, _) = digest.split_first_chunk().expect("16 bytes");
    u64::from_le_bytes(*first)
}
