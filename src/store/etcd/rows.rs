//! Keys and values: their names, check sums and revisions.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message;

use super::tuning::Tuning;
use crate::model::{Corrupt, CounterChange, KeyedHasher, Millis, Session, Stamp};
use crate::proto::etcd::mvccpb::KeyValue;
use crate::proto::sumd::store::v1::{Batch, Meta};
use crate::store::{LaneNumber, StoreError};

/// The format of new data. Older data are raised to it once all nodes know it.
pub const FORMAT: u32 = FORMAT_EXTRAS;
/// The first format, and the first ones with moved data, with additions to sessions, and with extra fields behind rows.
const FORMAT_FIRST: u32 = 1;
pub(crate) const FORMAT_MOVED: u32 = 2;
const FORMAT_ADDED: u32 = 3;
const FORMAT_EXTRAS: u32 = 4;
/// The bits of a revision that distinguish positions in one revision of etcd.
const PLACE_BITS: u32 = 20;
/// Positions that one transaction may take.
pub(crate) const MAX_PLACES: u32 = (1 << PLACE_BITS) - 1;

/// The properties of the data as a whole, and this node's tuning.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    prefix: String,
    pub(crate) hasher: KeyedHasher,
    pub(crate) lanes: u32,
    /// The number that is added to every revision.
    revisions_before: i64,
    /// The meta row. All clones share it, since its format may be raised while they are in use.
    row: Arc<Mutex<MetaRow>>,
    /// The time of the last imported id, if there is one.
    pub(crate) before_until: Option<Millis>,
    pub(crate) tuning: Tuning,
}

/// The meta row, which describes the data.
#[derive(Clone, Debug)]
struct MetaRow {
    meta: Meta,
    /// The etcd revision of its last change. Every write compares it.
    revision: i64,
}

/// The key of the meta row.
pub(crate) fn meta_key(prefix: &str) -> Bytes {
    format!("{prefix}/meta").into()
}

/// The prefix of all keys that hold history.
pub(crate) fn holds(prefix: &str) -> String {
    format!("{prefix}/holds/")
}

/// The hasher of the meta row, which has the key of all other check sums.
pub(crate) fn meta_digests() -> KeyedHasher {
    KeyedHasher::new(*b"sumd's meta rows")
}

fn check_format(meta: &Meta) -> Result<(), String> {
    if (FORMAT_FIRST..=FORMAT).contains(&meta.format) {
        return Ok(());
    }
    Err(format!(
        "the data have format {}, and this version of sumd knows formats {FORMAT_FIRST} to {FORMAT}",
        meta.format
    ))
}

impl Layout {
    /// The layout of data that may be incomplete or sealed.
    ///
    /// # Errors
    /// Returns an error if the format is unknown here, or the data have no key.
    pub(crate) fn new(prefix: &str, meta: &Meta, meta_revision: i64) -> Result<Self, String> {
        check_format(meta)?;
        let key = <[u8; 16]>::try_from(&*meta.key);
        let key = key.map_err(|_| "the data have no key for their check sums".to_owned())?;
        Ok(Self {
            prefix: prefix.to_owned(),
            hasher: KeyedHasher::new(key),
            lanes: meta.lanes,
            revisions_before: meta.revisions_before,
            row: Arc::new(Mutex::new(MetaRow {
                meta: meta.clone(),
                revision: meta_revision,
            })),
            before_until: (meta.before_until > 0).then_some(meta.before_until),
            tuning: Tuning::for_lanes(meta.lanes),
        })
    }

    /// The stored bytes of a session. Older versions that may read the data know no extra fields.
    pub(crate) fn encode(&self, session: &Session) -> Bytes {
        let encoded = if self.row().meta.format < FORMAT_EXTRAS {
            session.encode_without_extras()
        } else {
            session.encode()
        };
        encoded.into()
    }

    /// The etcd revision of the meta row's last change, as far as is known here.
    pub(crate) fn meta_revision(&self) -> i64 {
        self.row().revision
    }

    /// Whether older versions, which know only whole sessions, may read the data.
    pub(crate) fn whole_sessions(&self) -> bool {
        self.row().meta.format < FORMAT_ADDED
    }

    /// Takes in the current meta row, if only its format was changed. Later writes are of that format, and land only on
    /// top of that row.
    ///
    /// # Errors
    /// Returns an error if the data are sealed, or of a format that is unknown here.
    pub(crate) fn adopt(&self, meta: &Meta, revision: i64) -> Result<(), String> {
        let mut row = self.row();
        let raised = Meta {
            format: meta.format,
            ..row.meta.clone()
        };
        if *meta != raised {
            return Err("the data were moved elsewhere, or are being moved".to_owned());
        }
        check_format(meta)?;
        *row = MetaRow {
            meta: raised,
            revision,
        };
        Ok(())
    }

    fn row(&self) -> MutexGuard<'_, MetaRow> {
        // The row is replaced as a whole, so no panic leaves half of one.
        self.row.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn meta(&self) -> Bytes {
        meta_key(&self.prefix)
    }

    /// The prefix of all keys that hold history.
    pub(crate) fn holds(&self) -> Bytes {
        holds(&self.prefix).into()
    }

    /// The key that a node whose batch came too late leaves for the faster one.
    pub(crate) fn waiting(&self, lane: LaneNumber) -> Bytes {
        format!("{}/waiting/{lane:04x}", self.prefix).into()
    }

    /// The prefix of all keys of nodes.
    pub(crate) fn nodes(&self) -> Bytes {
        format!("{}/nodes/", self.prefix).into()
    }

    pub(crate) fn all_before(&self) -> Bytes {
        format!("{}/before/", self.prefix).into()
    }

    pub(crate) fn before(&self, index: u32) -> Bytes {
        format!("{}/before/{index:08x}", self.prefix).into()
    }

    /// The prefix of all keys of lanes, heads and packs.
    pub(crate) fn log(&self) -> Bytes {
        format!("{}/log/", self.prefix).into()
    }

    pub(crate) fn heads(&self) -> Bytes {
        format!("{}/log/head/", self.prefix).into()
    }

    pub(crate) fn head(&self, lane: LaneNumber) -> Bytes {
        format!("{}/log/head/{lane:04x}", self.prefix).into()
    }

    /// The lane in a head's key.
    pub(crate) fn lane_of_head(&self, key: &[u8]) -> Option<LaneNumber> {
        let lane = key.strip_prefix(&*self.heads())?;
        let lane = LaneNumber::from_str_radix(std::str::from_utf8(lane).ok()?, 16);
        lane.ok().filter(|lane| *lane < self.lanes)
    }

    pub(crate) fn all_packs(&self) -> Bytes {
        format!("{}/log/pack/", self.prefix).into()
    }

    pub(crate) fn all_sessions(&self) -> Bytes {
        format!("{}/sessions/", self.prefix).into()
    }

    /// The lane that follows the prefix `all` in a key, and the rest of the key.
    pub(crate) fn lane_of<'a>(&self, key: &'a [u8], all: &[u8]) -> Option<(LaneNumber, &'a str)> {
        let rest = std::str::from_utf8(key.strip_prefix(all)?).ok()?;
        let (lane, rest) = rest.split_once('/')?;
        let lane = LaneNumber::from_str_radix(lane, 16).ok()?;
        Some((lane, rest)).filter(|_| lane < self.lanes)
    }

    pub(crate) fn packs(&self, lane: LaneNumber) -> Bytes {
        format!("{}/log/pack/{lane:04x}/", self.prefix).into()
    }

    pub(crate) fn pack(&self, lane: LaneNumber, first: u64) -> Bytes {
        format!("{}/log/pack/{lane:04x}/{first:016x}", self.prefix).into()
    }

    pub(crate) fn is_head(&self, key: &[u8]) -> bool {
        key.starts_with(&self.heads())
    }

    pub(crate) fn counters(&self) -> Bytes {
        format!("{}/counters/", self.prefix).into()
    }

    pub(crate) fn counter(&self, name: &str) -> Bytes {
        format!("{}/counters/{name}", self.prefix).into()
    }

    /// The name of the counter in a key.
    pub(crate) fn name<'a>(&self, key: &'a [u8]) -> Option<&'a str> {
        std::str::from_utf8(key.strip_prefix(&*self.counters())?).ok()
    }

    pub(crate) fn sessions(&self, lane: LaneNumber) -> Bytes {
        format!("{}/sessions/{lane:04x}/", self.prefix).into()
    }

    pub(crate) fn session(&self, lane: LaneNumber, id: &str) -> Bytes {
        format!("{}/sessions/{lane:04x}/{id}", self.prefix).into()
    }

    /// Encodes a value with its check sum.
    pub(crate) fn seal(&self, key: &[u8], row: &impl Message) -> Bytes {
        seal(self.hasher, key, row)
    }

    /// Decodes a value and compares its check sum.
    pub(crate) fn open<M: Message + Default>(&self, row: &KeyValue) -> Result<M, Corrupt> {
        open(self.hasher, row)
    }

    /// Whether a damaged row is damaged in its key, so that nobody can tell what it was.
    pub(crate) fn has_another_key(&self, row: &KeyValue) -> bool {
        let Some((check, message)) = row.value.split_first_chunk() else {
            return false;
        };
        let check = u32::from_le_bytes(*check);
        self.hasher.is_of_another_key(&row.key, message, check)
    }

    /// Decodes a row without which no operation of a lane can be decided.
    pub(crate) fn need<M: Message + Default>(&self, row: &KeyValue) -> Result<M, StoreError> {
        self.open(row).map_err(|damage| needed(&row.key, damage))
    }

    /// The revision before the first position of a batch that was committed at a revision of etcd.
    pub(crate) fn base(&self, etcd_revision: i64, offset: u32) -> i64 {
        self.revisions_before + (etcd_revision << PLACE_BITS) + i64::from(offset)
    }

    /// The same for a batch in a row that was last changed at a revision of etcd.
    pub(crate) fn base_of(&self, batch: &Batch, row_revision: i64) -> i64 {
        let committed = match batch.etcd_revision {
            0 => row_revision,
            committed => committed,
        };
        self.base(committed, batch.offset)
    }

    /// The last revision that a commit at a revision of etcd can have.
    pub(crate) fn end(&self, etcd_revision: i64) -> i64 {
        self.base(etcd_revision, MAX_PLACES)
    }
}

pub(crate) fn seal(hasher: KeyedHasher, key: &[u8], row: &impl Message) -> Bytes {
    let mut value = BytesMut::with_capacity(4 + row.encoded_len());
    value.put_u32_le(0);
    row.encode(&mut value).expect("there is room for it");
    let check = hasher.check(&[key, &value[4..]]);
    value[..4].copy_from_slice(&check.to_le_bytes());
    value.freeze()
}

pub(crate) fn open<M: Message + Default>(
    hasher: KeyedHasher,
    row: &KeyValue,
) -> Result<M, Corrupt> {
    let (check, _) = row
        .value
        .split_first_chunk()
        .ok_or(Corrupt("a row is too short"))?;
    let message = row.value.slice(4..);
    if u32::from_le_bytes(*check) != hasher.check(&[&row.key, &message]) {
        return Err(Corrupt("a row's check sum is wrong"));
    }
    M::decode(message).map_err(|_| Corrupt("a row cannot be decoded"))
}

/// The error of a damaged row without which no operation of a lane can be decided.
pub(crate) fn needed(key: &[u8], Corrupt(problem): Corrupt) -> StoreError {
    let key = String::from_utf8_lossy(key);
    let problem = format!(
        "{key}: {problem}. It is unknown which request ids, sessions or changes were in it, so its lane is not served: \
         increments might count twice, or be lost. `sumd check` lists all damage, and `sumd restore` makes data from a \
         backup under another --etcd-prefix"
    );
    StoreError::Failed(problem.into())
}

/// The lane's age when a batch was made, and the latest time of its ids.
pub(crate) fn stamp(time: Millis, extras: &[u8]) -> Result<Stamp, Corrupt> {
    if extras.is_empty() {
        return Ok(Stamp::of_time(time));
    }
    Stamp::decode(extras)
}

/// The counters that a batch has changed.
pub(crate) fn changes(batch: &Batch) -> Result<Vec<CounterChange>, Corrupt> {
    let mut changes = Vec::new();
    CounterChange::read_all(&batch.counters, |name, value, place, is_new| {
        changes.push(CounterChange {
            name: name.into(),
            value,
            place,
            is_new,
        });
    })?;
    Ok(changes)
}

#[cfg(test)]
pub(crate) mod tests;
