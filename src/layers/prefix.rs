//! The prefix of a message: one byte that says whether the message is compressed, and four bytes of its length, big-endian:
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.

pub(super) const PREFIX_BYTES: usize = 5;

pub(super) type Prefix = [u8; PREFIX_BYTES];

pub(super) const PLAIN: u8 = 0;
pub(super) const COMPRESSED: u8 = 1;

/// The length of the message after a prefix.
pub(super) fn length_of([_, length @ ..]: Prefix) -> usize {
    u32::from_be_bytes(length) as usize
}

/// A plain message with its prefix.
#[cfg(test)]
pub(super) fn plain(message: &[u8]) -> Vec<u8> {
    let mut framed = [&[0; PREFIX_BYTES], message].concat();
    write(PLAIN, &mut framed);
    framed
}

/// Writes the prefix of a message that fills the rest of a buffer. The buffer has a place for the prefix at its front.
///
/// # Panics
/// Panics if the message has 4 GiB or more.
pub(super) fn write(flag: u8, buffer: &mut [u8]) {
    let length = buffer.len() - PREFIX_BYTES;
    let length = u32::try_from(length).expect("messages are much shorter");
    buffer[0] = flag;
    buffer[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
}
