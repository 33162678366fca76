//! The errors of bytes that are no message.

/// Maximum depth of nested unknown groups, the same as in prost.
pub(super) const MAX_GROUP_DEPTH: usize = 100;

/// The reason why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A varint takes more than ten bytes or more than 64 bits.
    #[error("a varint is longer than 10 bytes or 64 bits")]
    VarintTooLong,
    /// The key of a field has no field number, one that is too large, or an unknown wire type.
    #[error("{0} is not a field key")]
    Key(u64),
    /// `values` comes with a wire type that integers cannot have.
    #[error("field `values` has wire type {0}; it takes 0 (varint) or 2 (packed)")]
    ValuesWireType(u8),
    /// A group ends that has not begun.
    #[error("a group ends that was not begun")]
    UnexpectedEndGroup,
    /// Groups are nested too deeply.
    #[error("groups nest deeper than {max}", max = MAX_GROUP_DEPTH)]
    GroupsTooDeep,
    /// The message ends inside a field.
    #[error("the message ends inside a field")]
    Truncated,
}
