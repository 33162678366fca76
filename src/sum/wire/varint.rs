//! The decoding of base-128 varints, one at a time, which may be cut anywhere.

use super::malformed::Malformed;

/// The part of a varint that has arrived so far.
#[derive(Default)]
pub(super) struct Varint {
    value: u64,
    length: u32,
}

impl Varint {
    /// Whether a varint has begun and not ended.
    pub(super) fn is_partial(&self) -> bool {
        self.length > 0
    }

    /// Takes the rest of a varint off the front of `bytes`; `None` if it continues beyond them.
    #[inline]
    pub(super) fn take(&mut self, bytes: &mut &[u8]) -> Result<Option<u64>, Malformed> {
        while let Some((&byte, rest)) = bytes.split_first() {
            *bytes = rest;
            // Nine bytes hold 63 bits: the tenth has room for one, and for no continuation.
            if self.length == 9 && byte > 1 {
                return Err(Malformed::VarintTooLong);
            }
            self.value |= u64::from(byte & 0x7f) << (7 * self.length);
            if byte < 0x80 {
                let value = self.value;
                *self = Self::default();
                return Ok(Some(value));
            }
            self.length += 1;
        }
        Ok(None)
    }
}
