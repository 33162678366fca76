//! Names of counters: paths such as `acme/2026-11/api-calls`.

use std::fmt;
use std::hash::BuildHasher as _;
use std::sync::LazyLock;

use hashbrown::DefaultHashBuilder;

/// Maximum length of a name in bytes: enough for a path of several ids, and small enough for every store's keys.
pub const MAX_NAME_BYTES: usize = 256;

/// The fault of a text that is not a valid name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// The text is empty.
    Empty,
    /// The text has too many bytes.
    TooLong {
        /// Its length in bytes.
        bytes: u32,
        /// The limit in bytes.
        max: u32,
    },
    /// The text has a control character.
    Control {
        /// Byte offset of the character.
        at: u32,
    },
    /// The text begins or ends with a slash, or has two adjacent ones.
    EmptySegment {
        /// Byte offset of the empty segment.
        at: u32,
    },
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("it is empty"),
            Self::TooLong { bytes, max } => {
                write!(f, "it has {bytes} bytes, over the limit of {max}")
            }
            Self::Control { at } => write!(f, "it has a control character at byte {at}"),
            Self::EmptySegment { at } => {
                write!(f, "it has an empty path segment at byte {at}")
            }
        }
    }
}

/// Checks that `name` can name a counter.
///
/// # Errors
/// Returns [`NameError`] if it cannot.
pub fn check_name(name: &str) -> Result<(), NameError> {
    if is_plain_name(name.as_bytes()) {
        return Ok(());
    }
    check_text(name, MAX_NAME_BYTES)?;
    let mut before = b'/';
    for (at, &byte) in name.as_bytes().iter().enumerate() {
        if byte == b'/' && before == b'/' {
            return Err(NameError::EmptySegment { at: position(at) });
        }
        before = byte;
    }
    if before == b'/' {
        let at = position(name.len());
        return Err(NameError::EmptySegment { at });
    }
    Ok(())
}

/// Whether `name` is a valid name in printable ASCII, as nearly all names are. One pass, which does not locate a fault.
fn is_plain_name(name: &[u8]) -> bool {
    let (mut plain, mut before) = (name.len() <= MAX_NAME_BYTES, b'/');
    for &byte in name {
        let is_empty_segment = byte == b'/' && before == b'/';
        plain &= is_plain(byte) && !is_empty_segment;
        before = byte;
    }
    plain && before != b'/'
}

fn is_plain(byte: u8) -> bool {
    (b' '..0x7f).contains(&byte)
}

/// Checks that `text` has 1 to `max` bytes and no control character.
///
/// # Errors
/// Returns [`NameError`] if it does not.
pub fn check_text(text: &str, max: usize) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    check_prefix(text, max)
}

/// Checks that `text` has at most `max` bytes and no control character.
///
/// # Errors
/// Returns [`NameError`] if it does not.
pub fn check_prefix(text: &str, max: usize) -> Result<(), NameError> {
    if text.len() > max {
        return Err(NameError::TooLong {
            bytes: position(text.len()),
            max: position(max),
        });
    }
    // Printable ASCII, as nearly all names are, needs no decoding.
    if text.bytes().all(is_plain) {
        return Ok(());
    }
    match text.char_indices().find(|(_, c)| c.is_control()) {
        Some((at, _)) => Err(NameError::Control { at: position(at) }),
        None => Ok(()),
    }
}

fn position(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// The group of a counter: the first segment of its name. An operation on several counters is atomic within one group.
#[must_use]
pub fn group(name: &str) -> &str {
    name.split_once('/').map_or(name, |(group, _)| group)
}

/// Length of the common prefix of two names, in bytes.
pub(super) fn shared_bytes(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(a, b)| a == b).count()
}

/// The hash under which this process looks up a counter in memory.
#[must_use]
pub fn hash_name(name: &str) -> u64 {
    // Seeded at random, so that clients cannot choose names that collide.
    static HASHES: LazyLock<DefaultHashBuilder> = LazyLock::new(DefaultHashBuilder::default);
    HASHES.hash_one(name)
}
