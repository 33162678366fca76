//! What an increment does to a value.

use super::invalid::Invalid;

/// What to do with an increment that would pass a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnLimit {
    /// Change nothing.
    #[default]
    Reject,
    /// Apply as much as leaves the value within the limits.
    Saturate,
}

/// The values that a counter may have after an increment, unless it is beyond them already. `min` is not above `max`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// The least.
    pub min: Option<i64>,
    /// The largest.
    pub max: Option<i64>,
    /// What to do beyond them.
    pub on_limit: OnLimit,
}

/// An increment that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The value after it.
    pub value: i64,
    /// How much was added.
    pub applied: i64,
}

/// Why an increment was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitError {
    /// The value would be below `min`.
    Min {
        /// As it is.
        value: i64,
        /// What was to be added.
        delta: i64,
        /// The limit.
        min: i64,
    },
    /// The value would be above `max`.
    Max {
        /// As it is.
        value: i64,
        /// What was to be added.
        delta: i64,
        /// The limit.
        max: i64,
    },
    /// The value would not fit int64.
    OutOfRange {
        /// As it is.
        value: i64,
        /// What was to be added.
        delta: i64,
    },
    /// It makes no sense.
    Invalid(Invalid),
}

impl Limits {
    /// Adds `delta` to `value`.
    ///
    /// A limit that the value is beyond already stops what would lead further beyond it, and nothing that leads back. Saturating,
    /// it adds the largest part of `delta` that no limit stops, which may be none of it.
    ///
    /// # Errors
    /// Returns the limit that stops it, which is int64's if none is given.
    pub fn add(&self, value: i64, delta: i64) -> Result<Applied, LimitError> {
        let after = i128::from(value) + i128::from(delta);
        let min = self.min.map_or(i64::MIN, |min| min.min(value));
        let max = self.max.map_or(i64::MAX, |max| max.max(value));
        let within = to_value(after.clamp(min.into(), max.into()));
        if i128::from(within) == after || self.on_limit == OnLimit::Saturate {
            return Ok(Applied {
                value: within,
                // It is the delta, or a part of it.
                applied: to_value(i128::from(within) - i128::from(value)),
            });
        }
        Err(match (delta.is_negative(), self.min, self.max) {
            (true, Some(min), _) => LimitError::Min { value, delta, min },
            (false, _, Some(max)) => LimitError::Max { value, delta, max },
            _ => LimitError::OutOfRange { value, delta },
        })
    }
}

fn to_value(value: i128) -> i64 {
    i64::try_from(value).expect("it was brought within int64")
}
