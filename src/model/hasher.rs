//! What ids, messages and groups are known by.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher13;
use siphasher::sip128::{Hasher128 as _, SipHasher13 as SipHasher13_128};

use super::request::{Id, Increments, Operation, end};
use super::time::Millis;

/// Makes digests. Its key belongs to the data that they are stored in, and is secret, so that nobody can
/// make an id that passes for another's: <https://www.aumasson.jp/siphash/siphash.pdf>.
#[derive(Clone, Copy, Debug)]
pub struct KeyedHasher {
    key: [u8; 16],
}

impl KeyedHasher {
    /// Digests under a key.
    #[must_use]
    pub fn new(key: [u8; 16]) -> Self {
        Self { key }
    }

    /// The key: it goes where the data go, so that ids stay known there, and groups fall as they do.
    #[must_use]
    pub fn key(&self) -> [u8; 16] {
        self.key
    }

    /// An operation's id.
    #[must_use]
    pub fn id(&self, id: &str, time: Option<Millis>, operation: &Operation) -> Id {
        let mut hasher = SipHasher13_128::new_with_key(&self.key);
        hasher.write(operation.group().as_bytes());
        // No name has this byte.
        hasher.write_u8(0);
        hasher.write(id.as_bytes());
        Id {
            digest: hasher.finish128().as_bytes(),
            contents: self.contents(operation),
            time,
        }
    }

    /// Which of so many lanes a group's counters are in. Which groups share one cannot be known outside.
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

    /// What a message of a session is known by.
    #[must_use]
    pub fn message(&self, increments: &Increments) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write_u8(5);
        increments.write_to(&mut hasher);
        hasher.finish()
    }

    /// A check sum of something stored.
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

    /// Whether a check sum that does not fit a key and its contents does once one bit of the key is another. The key is damaged
    /// then, and not the contents.
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

    /// A bit of the key that is another is told from damage elsewhere.
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
