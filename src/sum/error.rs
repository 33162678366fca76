//! What can be wrong with a request for a sum, and the one place that says it in gRPC's terms.

use tonic::Status;

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

impl From<SumError> for Status {
    fn from(error: SumError) -> Self {
        match error {
            SumError::OutOfRange { sum } => status::sum_out_of_range(sum),
            SumError::Frame(error) => error.into(),
        }
    }
}

/// A sum as answers have it.
pub(super) fn in_range(sum: i128) -> Result<i64, SumError> {
    i64::try_from(sum).map_err(|_| SumError::OutOfRange { sum })
}
