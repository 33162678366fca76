//! The sum of a run of varints with AVX2, without decoding any of them.
//!
//! A varint is a little-endian base-128 number: the seven payload bits of its byte `p` weigh 2^(7p)
//! (and bit 63, the only one of byte 9, weighs −2^63). So the sum of a run is Σ w(p)·S(p), where S(p)
//! is the payload sum of all bytes that stand at position `p` of their varint, and it does not matter
//! which varint a byte belongs to. Let T(k) be the payload sum of the bytes whose `k` predecessors all
//! continue, which are those at position `k` or later: S(p) = T(p) − T(p+1), hence
//!
//! ```text
//! sum = T(0) + Σ T(k) · (w(k) − w(k−1))    for k = 1 to 9
//! ```
//!
//! A byte's `k` predecessors are found by loading the same run `k` bytes earlier, and whether they all
//! continue is the top bit of the AND of those loads: no branch depends on a value. Small values need
//! few of the T(k), so each strip is summed at the depth that the one before it needed, and once more,
//! deeper, in the rare case that this was too shallow.

#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m256i, _mm256_add_epi8, _mm256_add_epi64, _mm256_and_si256, _mm256_blendv_epi8,
    _mm256_loadu_si256, _mm256_movemask_epi8, _mm256_or_si256, _mm256_sad_epu8, _mm256_set1_epi8,
    _mm256_setzero_si256, _mm256_storeu_si256,
};

use super::malformed::Malformed;
use super::total::Total;

type Kernel = fn(&[u8]) -> Result<Total, Malformed>;

/// The kernel, if this machine can run it.
#[inline]
pub(super) fn kernel() -> Option<Kernel> {
    // SAFETY: `sum` requires AVX2 and POPCNT of its caller and nothing else, and both are there.
    (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("popcnt"))
        .then_some(|run| unsafe { sum(run) })
}

/// Bytes in front of a strip that may belong to its first varint: nine, and one to see that there is no tenth. More
/// would cost nothing, so it is a round number.
const LOOKBACK: usize = 16;

/// Two vectors: the byte sums of two seven-bit payloads fit a byte, so they are widened once.
const BLOCK: usize = 64;

/// Long enough that the work per strip does not show, short enough that summing a strip twice does not show either.
const STRIP: usize = 32 * BLOCK;

/// Maximum position of a varint's last byte.
const DEEPEST: usize = 9;

/// T(0) to T(9) of the strips so far, and the number of their bytes that continue.
#[derive(Default)]
struct Sums {
    payload: [u64; DEEPEST + 1],
    continuing: u64,
}

/// How far a strip looks back: enough for values of up to one, three, five, or ten bytes.
#[derive(Clone, Copy)]
enum Depth {
    One,
    Three,
    Five,
    Ten,
}

#[target_feature(enable = "avx2,popcnt")]
fn sum(run: &[u8]) -> Result<Total, Malformed> {
    let mut sums = Sums::default();
    let mut depth = Depth::One;

    // The first block has nothing in front of it, and the last is not full: both are copied into a buffer of zeros. A
    // zero is a whole varint that adds nothing.
    let (first, rest) = run.split_at(run.len().min(BLOCK));
    depth = add_strip(&padded(&[], first), depth, &mut sums)?;

    let whole = first.len() + rest.len() / BLOCK * BLOCK;
    let mut start = first.len();
    while start < whole {
        let end = whole.min(start + STRIP);
        depth = add_strip(&run[start - LOOKBACK..end], depth, &mut sums)?;
        start = end;
    }
    if start < run.len() {
        add_strip(
            &padded(&run[start - LOOKBACK..start], &run[start..]),
            depth,
            &mut sums,
        )?;
    }

    Ok(Total {
        sum: weigh(&sums.payload),
        count: run.len() as u64 - sums.continuing,
    })
}

/// A block with the bytes before it, each filled up with zeros.
fn padded(before: &[u8], block: &[u8]) -> [u8; LOOKBACK + BLOCK] {
    let mut window = [0; LOOKBACK + BLOCK];
    window[LOOKBACK - before.len()..LOOKBACK].copy_from_slice(before);
    window[LOOKBACK..LOOKBACK + block.len()].copy_from_slice(block);
    window
}

/// Σ w(p)·S(p), computed from T.
fn weigh(payload: &[u64; DEEPEST + 1]) -> i128 {
    let weight = |position: usize| match position {
        DEEPEST => -(1 << 63),
        position => 1i128 << (7 * position),
    };
    (1..=DEEPEST).fold(i128::from(payload[0]), |sum, k| {
        sum + i128::from(payload[k]) * (weight(k) - weight(k - 1))
    })
}

/// Adds the strip that follows the first [`LOOKBACK`] bytes of `window`. Returns the depth to try on the next strip.
#[target_feature(enable = "avx2,popcnt")]
fn add_strip(window: &[u8], mut depth: Depth, sums: &mut Sums) -> Result<Depth, Malformed> {
    loop {
        let (strip, deeper) = match depth {
            Depth::One => (strip::<0>(window), Depth::Three),
            Depth::Three => (strip::<2>(window), Depth::Five),
            Depth::Five => (strip::<4>(window), Depth::Ten),
            Depth::Ten => match strip::<DEEPEST>(window) {
                None => return Err(Malformed::VarintTooLong),
                found => (found, Depth::Ten),
            },
        };
        let Some(strip) = strip else {
            depth = deeper;
            continue;
        };
        for (sum, more) in sums.payload.iter_mut().zip(strip.payload) {
            *sum += more;
        }
        sums.continuing += strip.continuing;
        return Ok(match strip.payload.iter().rposition(|&sum| sum > 0) {
            None | Some(0) => Depth::One,
            Some(1 | 2) => Depth::Three,
            Some(3 | 4) => Depth::Five,
            Some(_) => Depth::Ten,
        });
    }
}

/// T(0) to T(D) of a strip; `None` if one of its varints is longer than D + 1 bytes or, at D = 9, than 64 bits.
#[target_feature(enable = "avx2,popcnt")]
fn strip<const D: usize>(window: &[u8]) -> Option<Sums> {
    const { assert!(D <= DEEPEST && LOOKBACK > DEEPEST) };
    // The loads below are sound because of this.
    assert_eq!(window.len() % BLOCK, LOOKBACK);

    let zero = _mm256_setzero_si256();
    let low_seven = _mm256_set1_epi8(0x7f);
    let mut sums = [zero; DEEPEST + 1];
    let mut too_long = zero;
    let mut continuing = 0;

    for start in (LOOKBACK..window.len()).step_by(BLOCK) {
        // SAFETY: `back` is at most DEEPEST + 1 <= LOOKBACK <= `start`, and `start` is a whole number of
        // blocks before the window's end, so both loads read bytes of the window only.
        let load = |back: usize| unsafe {
            let from = window.as_ptr().add(start - back);
            (
                _mm256_loadu_si256(from.cast()),
                _mm256_loadu_si256(from.add(BLOCK / 2).cast()),
            )
        };
        let (a, b) = load(0);
        let payload = (
            _mm256_and_si256(a, low_seven),
            _mm256_and_si256(b, low_seven),
        );
        continuing += u64::from(_mm256_movemask_epi8(a).cast_unsigned().count_ones())
            + u64::from(_mm256_movemask_epi8(b).cast_unsigned().count_ones());
        sums[0] = add_bytes(sums[0], payload.0, payload.1);

        // The top bit of a byte says whether all of its `k` predecessors continue.
        let mut all = (_mm256_set1_epi8(-1), _mm256_set1_epi8(-1));
        let mut and_byte = |back: usize| {
            let (a, b) = load(back);
            all = (_mm256_and_si256(all.0, a), _mm256_and_si256(all.1, b));
            all
        };
        let mut deep = payload;
        // Unrolled, because the compiler keeps the sums of a loop in memory.
        macro_rules! positions {
            ($($k:literal)*) => {$(
                if D >= $k {
                    let all = and_byte($k);
                    deep = (
                        _mm256_blendv_epi8(zero, payload.0, all.0),
                        _mm256_blendv_epi8(zero, payload.1, all.1),
                    );
                    sums[$k] = add_bytes(sums[$k], deep.0, deep.1);
                }
            )*};
        }
        positions!(1 2 3 4 5 6 7 8 9);
        if D == DEEPEST {
            // Detects a tenth byte above 1, except for its top bit, which shows in the next byte. Adding 0x7f carries
            // any of the forbidden bits into the top bit.
            let excess = _mm256_and_si256(_mm256_or_si256(deep.0, deep.1), _mm256_set1_epi8(0x7e));
            too_long = _mm256_or_si256(too_long, _mm256_add_epi8(excess, low_seven));
        }
        let all = and_byte(D + 1);
        too_long = _mm256_or_si256(too_long, _mm256_or_si256(all.0, all.1));
    }

    if _mm256_movemask_epi8(too_long) != 0 {
        return None;
    }
    let mut payload = [0; DEEPEST + 1];
    for (sum, lanes) in payload.iter_mut().zip(sums) {
        *sum = add_lanes(lanes);
    }
    Some(Sums {
        payload,
        continuing,
    })
}

/// Adds the bytes of `a` and `b`, seven bits each, to the four lanes of `sum`.
#[target_feature(enable = "avx2")]
#[inline]
fn add_bytes(sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
    _mm256_add_epi64(
        sum,
        _mm256_sad_epu8(_mm256_add_epi8(a, b), _mm256_setzero_si256()),
    )
}

#[target_feature(enable = "avx2")]
#[inline]
fn add_lanes(lanes: __m256i) -> u64 {
    let mut values = [0u64; 4];
    // SAFETY: `values` is as large as the vector.
    unsafe { _mm256_storeu_si256(values.as_mut_ptr().cast(), lanes) };
    values.iter().sum()
}
