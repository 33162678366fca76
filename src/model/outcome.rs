//! What an error says of its request.

/// What is known of the change that a request without an answer has asked for. Doubt cannot be dropped: nothing makes an `Unknown` a
/// `NotApplied`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was changed, and nothing will be by this request.
    NotApplied,
    /// The change may have been made, or may yet be.
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
