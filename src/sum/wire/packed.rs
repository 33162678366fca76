//! The sum of a run of whole varints: the choice of a kernel for this machine, and the portable kernel.

#[cfg(target_arch = "x86_64")]
use super::avx2;
use super::malformed::Malformed;
use super::total::Total;
use super::varint::Varint;

/// Below this number of bytes the set-up of the vector code costs more than it saves.
#[cfg(target_arch = "x86_64")]
const VECTOR_MIN_BYTES: usize = 64;

/// Sums the varints of `run`, which stand back to back and fill it.
#[inline]
pub(super) fn sum(run: &[u8]) -> Result<Total, Malformed> {
    debug_assert!(run.last().is_none_or(|&byte| byte < 0x80));
    #[cfg(target_arch = "x86_64")]
    if run.len() >= VECTOR_MIN_BYTES
        && let Some(kernel) = avx2::kernel()
    {
        return kernel(run);
    }
    portable(run)
}

/// Sums one byte after the other.
#[inline]
pub(super) fn portable(mut run: &[u8]) -> Result<Total, Malformed> {
    let mut total = Total::default();
    let mut varint = Varint::default();
    while let Some(value) = varint.take(&mut run)? {
        total.add_value(value);
    }
    Ok(total)
}
