//! Keyed digests of ids, messages, groups and stored rows.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher13;
use siphasher::sip128::{Hasher128 as _, SipHasher13 as SipHasher13_128};

use super::request::{Id, Increments, Operation, end};
use super::time::Millis;

/// Computes digests. The key belongs to the data that store the digests. It is secret, so that nobody can make an id
/// that passes for another's: <https://www.aumasson.jp/siphash/siphash.pdf>.
#[derive(Clone, Copy, Debug)]
pub struct KeyedHasher {
    key: [u8; 16],
}

impl KeyedHasher {
    /// A hasher with this key.
    #[must_use]
    pub fn new(key: [u8; 16]) -> Self {
        Self { key }
    }

    /// The key. It moves with the data, so that ids are recognised there and groups hash as before.
    #[must_use]
    pub fn key(&self) -> [u8; 16] {
        self.key
    }

    /// The digests of an id and its operation.
    #[must_use]
    pub fn id(&self, id: &str, time: Option<Millis>, operation: &Operation) -> Id {
        let mut hasher = SipHasher13_128::new_with_key(&self.key);
        hasher.write(operation.group().as_bytes());
        // A separator: no name has this byte.
        hasher.write_u8(0);
        hasher.write(id.as_bytes());
        Id {
            digest: hasher.finish128().as_bytes(),
            contents: self.contents(operation),
            time,
        }
    }

    /// The lane of a group's counters, out of `lanes`. Clients cannot tell which groups share a lane.
    #[must_use]
    pub fn lane(&self, group: &str, lanes: u32) -> u32 {
        if lanes == 1 {
            return 0;
        }
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write(group.as_bytes());
        let lane = hasher.finish() % u64::from(lanes);
        u32::try_from(lane).unwrap_or_default()
    }

    fn contents(&self, operation: &Operation) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        match operation {
            Operation::Increment(increments) => {
                hasher.write_u8(1);
                increments.write_to(&mut hasher);
            }
            Operation::Batch(increments) => {
                hasher.write_u8(2);
                increments.write_to(&mut hasher);
            }
            Operation::Set(name, value) => {
                hasher.write_u8(3);
                hasher.write(name.as_bytes());
                hasher.write_i64(*value);
            }
            Operation::Delete(name) => {
                hasher.write_u8(4);
                hasher.write(name.as_bytes());
            }
            Operation::Record(record) => return record.contents,
        }
        hasher.finish()
    }

    /// Digest of the contents of a session's message.
    #[must_use]
    pub fn message(&self, increments: &Increments) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write_u8(5);
        increments.write_to(&mut hasher);
        hasher.finish()
    }

    /// Checksum of stored data.
    #[must_use]
    pub fn check(&self, parts: &[&[u8]]) -> u32 {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        for part in parts {
            hasher.write_u32(end(part.len()));
            hasher.write(part);
        }
        let [a, b, c, d, ..] = hasher.finish().to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    /// Whether a mismatched checksum matches after one bit of the key is flipped. If so, the key is damaged, not the
    /// contents.
    #[must_use]
    pub fn is_of_another_key(&self, key: &[u8], contents: &[u8], check: u32) -> bool {
        let mut key = key.to_vec();
        (0..8 * key.len()).any(|bit| {
            key[bit / 8] ^= 1 << (bit % 8);
            let fits = self.check(&[&key, contents]) == check;
            key[bit / 8] ^= 1 << (bit % 8);
            fits
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A flipped bit in the key is distinguished from other damage.
    #[test]
    fn a_damaged_key_is_told_from_damaged_contents() {
        let digests = KeyedHasher::new([7; 16]);
        let (key, contents) = (b"meter-7", b"what is applied");
        let check = digests.check(&[key, contents]);
        for bit in 0..8 * key.len() {
            let mut damaged = *key;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(digests.is_of_another_key(&damaged, contents, check));
        }
        assert!(!digests.is_of_another_key(key, b"what is Applied", check));
        assert!(!digests.is_of_another_key(key, contents, check ^ 1));
        assert!(!digests.is_of_another_key(b"meter-84", contents, check));
    }
}
