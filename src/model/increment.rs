//! What an increment does to a value.

use super::answer::Refusal;

/// What to do with an increment that would pass a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnLimit {
    /// Change nothing.
    #[default]
    Reject,
    /// Apply as much as leaves the value within the limits.
    Saturate,
}

/// The values that a counter may have after an increment. `min` is not above `max`.
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
pub struct Added {
    /// The value after it.
    pub value: i64,
    /// How much was added.
    pub applied: i64,
}

impl Limits {
    /// Adds `delta` to `value`.
    ///
    /// Saturating, it adds the part of `delta` nearest to the whole that leaves the value within the limits;
    /// where no part does, because the value is beyond a limit and `delta` does not lead back over it, none.
    ///
    /// # Errors
    /// Where the value would pass a limit, which is int64's where none is given.
    pub fn add(&self, value: i64, delta: i64) -> Result<Added, Refusal> {
        let after = i128::from(value) + i128::from(delta);
        let min = self.min.map_or(i128::from(i64::MIN), i128::from);
        let max = self.max.map_or(i128::from(i64::MAX), i128::from);
        let within = after.clamp(min, max);
        if within == after {
            return Ok(Added {
                value: to_value(after),
                applied: delta,
            });
        }
        if self.on_limit == OnLimit::Saturate {
            // Between the value before and the one that was asked for, or not at all.
            let between = value.min(saturated(after))..=value.max(saturated(after));
            let value_after = to_value(within);
            let value_after = if between.contains(&value_after) {
                value_after
            } else {
                value
            };
            return Ok(Added {
                value: value_after,
                // The part of a delta is not larger than the delta.
                applied: to_value(i128::from(value_after) - i128::from(value)),
            });
        }
        Err(match (self.min, self.max) {
            (Some(min), _) if after < i128::from(min) => Refusal::Min { value, delta, min },
            (_, Some(max)) if after > i128::from(max) => Refusal::Max { value, delta, max },
            _ => Refusal::OutOfRange { value, delta },
        })
    }
}

fn to_value(value: i128) -> i64 {
    i64::try_from(value).expect("it was brought within int64")
}

fn saturated(value: i128) -> i64 {
    to_value(value.clamp(i64::MIN.into(), i64::MAX.into()))
}
