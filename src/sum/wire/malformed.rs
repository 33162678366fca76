//! The errors of bytes that are no message.

use std::fmt;

/// Maximum depth of nested unknown groups, the same as in prost.
pub(super) const MAX_GROUP_DEPTH: usize = 100;

/// The reason why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// A varint takes more than ten bytes or more than 64 bits.
    VarintTooLong,
    /// The key of a field has no field number, one that is too large, or an unknown wire type.
    Key(u64),
    /// `values` comes with a wire type that integers cannot have.
    ValuesWireType(u8),
    /// A group ends that has not begun.
    UnexpectedEndGroup,
    /// Groups are nested too deeply.
    GroupsTooDeep,
    /// The message ends inside a field.
    Truncated,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VarintTooLong => write!(f, "a varint is longer than 10 bytes or 64 bits"),
            Self::Key(key) => write!(f, "{key} is not a field key"),
            Self::ValuesWireType(wire_type) => write!(
                f,
                "field `values` has wire type {wire_type}; it takes 0 (varint) or 2 (packed)"
            ),
            Self::UnexpectedEndGroup => write!(f, "a group ends that was not begun"),
            Self::GroupsTooDeep => write!(f, "groups nest deeper than {MAX_GROUP_DEPTH}"),
            Self::Truncated => write!(f, "the message ends inside a field"),
        }
    }
}

impl std::error::Error for Malformed {}
