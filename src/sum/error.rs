//! What can be wrong with a request for a sum, and the one place that says it in gRPC's terms.

use std::fmt;

use tonic::{Code, Status};

use super::wire::Malformed;
use crate::grpc::FrameError;
use crate::status;

/// Why there is no sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SumError {
    OutOfRange { sum: i128 },
    Frame(FrameError),
}

impl From<Malformed> for SumError {
    fn from(malformed: Malformed) -> Self {
        Self::Frame(FrameError::Malformed(malformed.to_string()))
    }
}

impl From<FrameError> for SumError {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
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
            Self::Frame(error) => error.fmt(f),
        }
    }
}

impl From<SumError> for Status {
    fn from(error: SumError) -> Self {
        match &error {
            SumError::OutOfRange { sum } => status::with_reason(
                Code::OutOfRange,
                error.to_string(),
                "SUM_OUT_OF_RANGE",
                &[
                    ("sum", sum.to_string()),
                    ("min", i64::MIN.to_string()),
                    ("max", i64::MAX.to_string()),
                ],
            ),
            SumError::Frame(error) => error.clone().into(),
        }
    }
}
