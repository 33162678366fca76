//! The outcome that an error reports for its request.

/// The known effect of a failed request. Doubt is never dropped: nothing turns an `Unknown` into a `NotApplied`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was changed, and this request will change nothing.
    NotApplied,
    /// The change may have been made, or may still be made.
    Unknown,
}

impl Outcome {
    /// The value of `outcome` in the metadata of an error.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotApplied => "NOT_APPLIED",
            Self::Unknown => "UNKNOWN",
        }
    }
}
