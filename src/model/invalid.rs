//! Malformed increments: an invalid counter name, invalid limits, or an unknown `on_limit`.

use super::name::NameError;

/// The fault of a malformed increment, which fails whatever the counter's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// The counter's name is invalid.
    Name(NameError),
    /// The counter's name is not UTF-8.
    NotUtf8,
    /// `min` is above `max`.
    Limits {
        /// The lower limit.
        min: i64,
        /// The upper limit.
        max: i64,
    },
    /// `on_limit` has an unknown number.
    OnLimit(i32),
}
