//! The effect of an increment on a value.

use super::invalid::Invalid;

/// The treatment of an increment that would pass a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnLimit {
    /// Change nothing.
    #[default]
    Reject,
    /// Apply the largest part that stays within the limits.
    Saturate,
}

/// Limits on a counter's value after an increment, unless it is beyond them already. `min` is at most `max`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// The least value.
    pub min: Option<i64>,
    /// The largest value.
    pub max: Option<i64>,
    /// The treatment of an increment beyond them.
    pub on_limit: OnLimit,
}

/// An increment that was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The value after it.
    pub value: i64,
    /// The amount added.
    pub applied: i64,
}

/// The reason that an increment was not applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitError {
    /// The value would be below `min`.
    Min {
        /// The current value.
        value: i64,
        /// The requested increment.
        delta: i64,
        /// The limit.
        min: i64,
    },
    /// The value would be above `max`.
    Max {
        /// The current value.
        value: i64,
        /// The requested increment.
        delta: i64,
        /// The limit.
        max: i64,
    },
    /// The value would not fit int64.
    OutOfRange {
        /// The current value.
        value: i64,
        /// The requested increment.
        delta: i64,
    },
    /// The increment is malformed.
    Invalid(Invalid),
}

impl Limits {
    /// Adds `delta` to `value`.
    ///
    /// If the value is already beyond a limit, the limit stops only increments that lead further beyond it, not those
    /// that lead back. [`OnLimit::Saturate`] adds the largest part of `delta` that no limit stops, which may be zero.
    ///
    /// # Errors
    /// Returns the limit that `delta` would pass; that of int64 if there is no other.
    pub fn add(&self, value: i64, delta: i64) -> Result<Applied, LimitError> {
        let after = i128::from(value) + i128::from(delta);
        let min = self.min.map_or(i64::MIN, |min| min.min(value));
        let max = self.max.map_or(i64::MAX, |max| max.max(value));
        let within = to_value(after.clamp(min.into(), max.into()));
        if i128::from(within) == after || self.on_limit == OnLimit::Saturate {
            return Ok(Applied {
                value: within,
                // It fits: it is `delta`, or a part of it.
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
