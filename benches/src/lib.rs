//! Code shared by the bench and the kernel bench: seeded values, and medians.

use bytes::{BufMut, Bytes, BytesMut};
use fastrand::Rng;

/// Bytes before each message of a gRPC stream: a compression flag and a length.
pub const PREFIX_BYTES: usize = 5;

/// `count` values, uniform over `0..2^bits`, or over all of `i64` for 64 bits.
pub fn values(rng: &mut Rng, count: usize, bits: u32) -> Vec<i64> {
    (0..count)
        .map(|_| match bits {
            64 => rng.i64(..),
            _ => rng.i64(0..1 << bits),
        })
        .collect()
}

/// The protobuf message that carries `values` in its field 1, packed.
#[must_use]
pub fn message(values: &[i64]) -> Bytes {
    let mut bytes = BytesMut::new();
    prost::encoding::int64::encode_packed(1, values, &mut bytes);
    bytes.freeze()
}

/// Appends `message` to `frames`, with gRPC's prefix.
///
/// # Panics
/// Panics if the message is longer than a gRPC prefix can express (4 GiB).
pub fn put_frame(frames: &mut BytesMut, message: &[u8]) {
    frames.reserve(PREFIX_BYTES + message.len());
    frames.put_u8(0);
    frames.put_u32(u32::try_from(message.len()).expect("a message below 4 GiB"));
    frames.put_slice(message);
}

/// The middle one of `figures`, or the mean of the middle two.
///
/// # Panics
/// Panics if there are no figures.
#[must_use]
pub fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = figures.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    }
}
