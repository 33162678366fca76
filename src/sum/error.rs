//! What can be wrong with a request for a sum, and the one place that says it in gRPC's terms.

use std::fmt;

use tonic::{Code, Status};

use super::wire::Malformed;
use crate::status;

/// Why there is no sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SumError {
    OutOfRange { sum: i128 },
    Malformed(Malformed),
    MessageTooLarge { bytes: u32, max_bytes: usize },
    Compressed,
    BadPrefix(u8),
    TruncatedBody,
    MessageCount { at_least: u8 },
}

impl From<Malformed> for SumError {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

impl fmt::Display for SumError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfRange { sum } => write!(
                f,
                "the sum is {sum}, outside int64 ({} to {})",
                i64::MIN,
                i64::MAX
            ),
            Self::Malformed(malformed) => write!(f, "the message is malformed: {malformed}"),
            Self::MessageTooLarge { bytes, max_bytes } => write!(
                f,
                "the message has {bytes} bytes, over the limit of {max_bytes}: \
                 split it, and add its parts with AddAll"
            ),
            Self::Compressed => write!(
                f,
                "the message is marked as compressed, and the request names no grpc-encoding"
            ),
            Self::BadPrefix(flag) => write!(
                f,
                "a message begins with {flag}, where 0 (plain) or 1 (compressed) has to stand"
            ),
            Self::TruncatedBody => write!(f, "the request ends inside a message"),
            Self::MessageCount { at_least: 0 } => {
                write!(f, "the request has no message; Add takes exactly one")
            }
            Self::MessageCount { at_least } => write!(
                f,
                "the request has {at_least} messages or more; Add takes exactly one"
            ),
        }
    }
}

impl From<SumError> for Status {
    fn from(error: SumError) -> Self {
        let mut metadata = Vec::new();
        let (code, reason) = match &error {
            SumError::OutOfRange { sum } => {
                metadata.push(("sum", sum.to_string()));
                metadata.push(("min", i64::MIN.to_string()));
                metadata.push(("max", i64::MAX.to_string()));
                (Code::OutOfRange, "SUM_OUT_OF_RANGE")
            }
            SumError::MessageTooLarge { bytes, max_bytes } => {
                metadata.push(("bytes", bytes.to_string()));
                metadata.push(("max_bytes", max_bytes.to_string()));
                (Code::ResourceExhausted, "MESSAGE_TOO_LARGE")
            }
            // A compressed message without a `grpc-encoding` is INTERNAL too:
            // https://github.com/grpc/grpc/blob/master/doc/compression.md
            SumError::Malformed(_)
            | SumError::Compressed
            | SumError::BadPrefix(_)
            | SumError::TruncatedBody => (Code::Internal, "MALFORMED_MESSAGE"),
            SumError::MessageCount { .. } => (Code::Unimplemented, "MESSAGE_COUNT"),
        };
        status::with_reason(code, error.to_string(), reason, &metadata)
    }
}
