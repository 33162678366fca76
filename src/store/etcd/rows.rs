//! Keys and values: how they are named, checked and numbered.

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message;

use super::sizes::Sizes;
use crate::model::{Corrupt, CounterChange, Digests};
use crate::proto::etcd::mvccpb::KeyValue;
use crate::proto::sumd::store::v1::{Batch, Meta};
use crate::store::LaneNumber;

/// The format that this version writes.
pub(super) const FORMAT: u32 = 1;
/// Into how many lanes new data are divided.
pub(super) const LANES: u32 = 256;
/// Bits of a revision that tell places of one revision of etcd apart.
const PLACE_BITS: u32 = 20;
/// How many places one transaction may take.
pub(super) const MAX_PLACES: u32 = (1 << PLACE_BITS) - 1;

/// What belongs to the data as a whole, and how this node deals with them.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    prefix: String,
    pub(super) digests: Digests,
    pub(super) lanes: u32,
    /// What is added to every revision.
    revisions_before: i64,
    pub(super) sizes: Sizes,
}

/// The key of the row that says what the data are.
pub(super) fn meta_key(prefix: &str) -> Bytes {
    format!("{prefix}/meta").into()
}

/// The key that the first row is checked with, which tells that of the others.
pub(super) fn meta_digests() -> Digests {
    Digests::new(*b"sumd's meta rows")
}

impl Layout {
    /// # Errors
    /// Where the data are of a format that is not known here.
    pub(super) fn new(prefix: &str, meta: &Meta) -> Result<Self, String> {
        if meta.format != FORMAT {
            return Err(format!(
                "the data are of format {}, and this version of sumd knows format {FORMAT}",
                meta.format
            ));
        }
        let key = <[u8; 16]>::try_from(&*meta.key);
        let key = key.map_err(|_| "the data have no key for their check sums".to_owned())?;
        Ok(Self {
            prefix: prefix.to_owned(),
            digests: Digests::new(key),
            lanes: meta.lanes,
            revisions_before: meta.revisions_before,
            sizes: Sizes::default(),
        })
    }

    /// What all keys of lanes begin with, heads and packs.
    pub(super) fn log(&self) -> Bytes {
        format!("{}/log/", self.prefix).into()
    }

    pub(super) fn heads(&self) -> Bytes {
        format!("{}/log/head/", self.prefix).into()
    }

    pub(super) fn head(&self, lane: LaneNumber) -> Bytes {
        format!("{}/log/head/{lane:04x}", self.prefix).into()
    }

    /// The lane that a head's key is of.
    pub(super) fn lane_of_head(&self, key: &[u8]) -> Option<LaneNumber> {
        let lane = key.strip_prefix(&*self.heads())?;
        let lane = LaneNumber::from_str_radix(std::str::from_utf8(lane).ok()?, 16);
        lane.ok().filter(|lane| *lane < self.lanes)
    }

    pub(super) fn packs(&self, lane: LaneNumber) -> Bytes {
        format!("{}/log/pack/{lane:04x}/", self.prefix).into()
    }

    pub(super) fn pack(&self, lane: LaneNumber, first: u64) -> Bytes {
        format!("{}/log/pack/{lane:04x}/{first:016x}", self.prefix).into()
    }

    pub(super) fn is_head(&self, key: &[u8]) -> bool {
        key.starts_with(&self.heads())
    }

    pub(super) fn counters(&self) -> Bytes {
        format!("{}/counters/", self.prefix).into()
    }

    pub(super) fn counter(&self, name: &str) -> Bytes {
        format!("{}/counters/{name}", self.prefix).into()
    }

    /// The name of the counter that a key is of.
    pub(super) fn name<'a>(&self, key: &'a [u8]) -> Option<&'a str> {
        std::str::from_utf8(key.strip_prefix(&*self.counters())?).ok()
    }

    pub(super) fn sessions(&self, lane: LaneNumber) -> Bytes {
        format!("{}/sessions/{lane:04x}/", self.prefix).into()
    }

    pub(super) fn session(&self, lane: LaneNumber, id: &str) -> Bytes {
        format!("{}/sessions/{lane:04x}/{id}", self.prefix).into()
    }

    /// A value, with its check sum.
    pub(super) fn seal(&self, key: &[u8], row: &impl Message) -> Bytes {
        seal(self.digests, key, row)
    }

    /// What a value says.
    pub(super) fn open<M: Message + Default>(&self, row: &KeyValue) -> Result<M, Corrupt> {
        open(self.digests, row)
    }

    /// The revision before the first place of a batch that was committed at a revision of etcd.
    pub(super) fn base(&self, etcd_revision: i64, offset: u32) -> i64 {
        self.revisions_before + (etcd_revision << PLACE_BITS) + i64::from(offset)
    }

    /// The same, of a batch in a row that was last changed at a revision of etcd.
    pub(super) fn base_of(&self, batch: &Batch, row_revision: i64) -> i64 {
        let committed = match batch.etcd_revision {
            0 => row_revision,
            committed => committed,
        };
        self.base(committed, batch.offset)
    }

    /// The last revision that anything committed at a revision of etcd can have.
    pub(super) fn end(&self, etcd_revision: i64) -> i64 {
        self.base(etcd_revision, MAX_PLACES)
    }
}

pub(super) fn seal(digests: Digests, key: &[u8], row: &impl Message) -> Bytes {
    let mut value = BytesMut::with_capacity(4 + row.encoded_len());
    value.put_u32_le(0);
    row.encode(&mut value).expect("there is room for it");
    let check = digests.check(&[key, &value[4..]]);
    value[..4].copy_from_slice(&check.to_le_bytes());
    value.freeze()
}

pub(super) fn open<M: Message + Default>(digests: Digests, row: &KeyValue) -> Result<M, Corrupt> {
    let (check, _) = row
        .value
        .split_first_chunk()
        .ok_or(Corrupt("a row is too short"))?;
    let message = row.value.slice(4..);
    if u32::from_le_bytes(*check) != digests.check(&[&row.key, &message]) {
        return Err(Corrupt("a row's check sum is wrong"));
    }
    M::decode(message).map_err(|_| Corrupt("a row is not what it should be"))
}

/// The counters that a batch has changed.
pub(super) fn changes(batch: &Batch) -> Result<Vec<CounterChange>, Corrupt> {
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
