//! Exponential backoff with jitter.

use std::time::Duration;

/// Bounds of the pause after a failure.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The pause before the first retry.
    pub min: Duration,
    /// The longest pause.
    pub max: Duration,
}

impl Backoff {
    /// The pause after a number of failures. It doubles with each of them, up to the bound, and up to half of it is random,
    /// so that many clients do not come back at the same time.
    #[must_use]
    pub fn after(self, failures: u32) -> Duration {
        let longest = self.min * 2_u32.saturating_pow(failures.min(16));
        longest.min(self.max).mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pauses double up to the bound, and none is shorter than half of the first.
    #[test]
    fn pauses_grow_up_to_a_bound() {
        let (min, max) = (Duration::from_millis(25), Duration::from_secs(1));
        let backoff = Backoff { min, max };
        for failures in [0, 1, 5, 6, 31, 32, u32::MAX] {
            let longest = min * 2_u32.saturating_pow(failures.min(16));
            let pause = backoff.after(failures);
            assert!(pause <= longest.min(max) && pause >= min / 2);
            assert!(pause >= longest.min(max) / 2);
        }
    }
}
