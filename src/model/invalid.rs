//! An increment that names no counter, or says something else that is none.

use super::name::NameError;

/// What is wrong with an increment in itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// Its counter has no name.
    Name(NameError),
    /// Its counter's name is not UTF-8.
    NotUtf8,
    /// `min` is above `max`.
    Limits {
        /// The one.
        min: i64,
        /// The other.
        max: i64,
    },
    /// `on_limit` has an unknown number.
    OnLimit(i32),
}
