//! The encoding of stored data: varints, and checked decoding.

/// Stored bytes that differ from those that were written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stored data is corrupt: {0}")]
pub struct Corrupt(pub &'static str);

/// Appends an LEB128 varint.
pub(super) fn put_u64(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).expect("seven bits") | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).expect("seven bits"));
}

/// Appends a zigzag varint: small numbers of either sign are short.
pub(super) fn put_i64(out: &mut Vec<u8>, value: i64) {
    put_u64(out, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

/// Decodes stored bytes, front to back.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn slice(&mut self, length: usize) -> Result<&'a [u8], Corrupt> {
        let split = self.0.split_at_checked(length);
        let (bytes, rest) = split.ok_or(Corrupt("it is cut short"))?;
        self.0 = rest;
        Ok(bytes)
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Corrupt> {
        let (bytes, rest) = self
            .0
            .split_first_chunk()
            .ok_or(Corrupt("it is cut short"))?;
        self.0 = rest;
        Ok(*bytes)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Corrupt> {
        Ok(self.bytes::<1>()?[0])
    }

    pub(super) fn u64(&mut self) -> Result<u64, Corrupt> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Corrupt("a number is too large"))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Corrupt> {
        u32::try_from(self.u64()?).map_err(|_| Corrupt("a number is too large"))
    }

    /// Reads a length. One that does not fit `usize` is beyond the end of the bytes.
    pub(super) fn length(&mut self) -> Result<usize, Corrupt> {
        usize::try_from(self.u64()?).map_err(|_| Corrupt("it is cut short"))
    }

    pub(super) fn i64(&mut self) -> Result<i64, Corrupt> {
        let value = self.u64()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every number decodes to the value that was encoded, and a number of more than 64 bits is rejected.
    #[test]
    fn numbers_come_back() {
        for value in (0..64).flat_map(|bits| [1_u64 << bits, (1 << bits) - 1, u64::MAX >> bits]) {
            let mut bytes = Vec::new();
            put_u64(&mut bytes, value);
            assert_eq!(Reader(&bytes).u64(), Ok(value));
        }
        let longest = [0xff; 9];
        let read = |last: &[u8]| Reader(&[&longest, last].concat()).u64();
        assert_eq!(read(&[1]), Ok(u64::MAX));
        assert_eq!(read(&[0]), Ok(u64::MAX >> 1));
        for last in [&[2][..], &[3], &[0x7f], &[0x81, 0], &[0xff, 1]] {
            assert!(read(last).is_err(), "{last:?}");
        }
    }

    #[test]
    fn damage_is_told_with_what_it_is() {
        let told = Corrupt("a failure of an unknown kind").to_string();
        assert_eq!(told, "stored data is corrupt: a failure of an unknown kind");
    }
}
