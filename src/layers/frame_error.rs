//! Errors of a request's frames.

use std::fmt;
use std::time::Duration;

use tonic::Status;

use super::encoding::Encoding;
use crate::status::Reason;

/// Retry delay if the memory for requests is full: some round trips, in which other messages end.
const MEMORY_RETRY_DELAY: Duration = Duration::from_millis(100);

/// An error of a request's frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// A message is larger than the limit.
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        max_bytes: usize,
    },
    /// A message is larger than the limit once it is decompressed.
    DecompressedTooLarge {
        /// The limit.
        max_bytes: usize,
    },
    /// A message is marked as compressed, and its bytes are not of the request's encoding. That is INTERNAL, as is the next
    /// error.
    Undecodable(Encoding),
    /// A message is marked as compressed, and the request has no `grpc-encoding`. That is INTERNAL:
    /// <https://github.com/grpc/grpc/blob/master/doc/compression.md>.
    Compressed,
    /// The first byte of a message is neither 0 (plain) nor 1 (compressed).
    BadPrefix(u8),
    /// The request ends inside a message.
    Truncated,
    /// All unfinished messages together have as many bytes as they may.
    MemoryFull {
        /// The limit.
        max_bytes: usize,
    },
    /// A call that takes exactly one message has none, or several.
    Count {
        /// A lower bound of its number of messages.
        at_least: u8,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { bytes, max_bytes } => write!(
                f,
                "the message has {bytes} bytes, over the limit of {max_bytes}: send it in parts"
            ),
            Self::DecompressedTooLarge { max_bytes } => write!(
                f,
                "the decompressed message is over the limit of {max_bytes} bytes: send it in parts"
            ),
            Self::Undecodable(encoding) => write!(
                f,
                "the message is marked as compressed, but cannot be decompressed with {}, the grpc-encoding of the request",
                encoding.name()
            ),
            Self::Compressed => write!(
                f,
                "the message is marked as compressed, but the request has no grpc-encoding"
            ),
            Self::BadPrefix(flag) => write!(
                f,
                "a message begins with {flag}; expected 0 (plain) or 1 (compressed)"
            ),
            Self::MemoryFull { max_bytes } => write!(
                f,
                "all unfinished messages have {max_bytes} bytes, which is the limit (--request-memory); this message was not \
                 applied: retry"
            ),
            Self::Truncated => write!(f, "the request ends inside a message"),
            Self::Count { at_least: 0 } => {
                write!(
                    f,
                    "the request has no message; the method takes exactly one"
                )
            }
            Self::Count { at_least } => write!(
                f,
                "the request has {at_least} messages or more; the method takes exactly one"
            ),
        }
    }
}

impl From<FrameError> for Status {
    fn from(error: FrameError) -> Self {
        let message = error.to_string();
        match error {
            FrameError::TooLarge { bytes, max_bytes } => Reason::MessageTooLarge
                .error(message)
                .with("bytes", bytes)
                .with("max_bytes", max_bytes),
            FrameError::DecompressedTooLarge { max_bytes } => Reason::MessageTooLarge
                .error(message)
                .with("max_bytes", max_bytes),
            FrameError::Undecodable(_)
            | FrameError::Compressed
            | FrameError::BadPrefix(_)
            | FrameError::Truncated => Reason::MalformedMessage.error(message),
            FrameError::MemoryFull { max_bytes } => Reason::RequestMemoryFull
                .error(message)
                .with("max_bytes", max_bytes)
                .retry_in(MEMORY_RETRY_DELAY),
            FrameError::Count { .. } => Reason::MessageCount.error(message),
        }
        .into()
    }
}
