//! The counters of a node: running totals.
//!
//! Writes go to the [lanes](crate::lane), here or on the node that owns the lane, and reads to the
//! [store](crate::store). This room knows nothing of gRPC: its errors are typed, and `api` maps them to statuses.
//!
//! Changes come as the messages of the public contract, as plain data, and are validated here: nodes forward them to
//! each other in that form, and a message of a bulk stream is read straight from its bytes, and forwarded as it came.

mod convert;
mod copies;
mod error;
mod execute;
mod forward;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod operation;
mod read;
mod record;
mod refusal;
mod service;
mod stale;
mod watch;
mod wire;

pub(crate) use convert::{MAX_BATCH, Violations, invalid_field};
pub use error::{Error, Kind, LaneFailure};
pub use forward::Forwarder;
pub(crate) use operation::Operation;
pub use read::{Freshness, Listed};
pub use record::{RecordFailure, RecordReply, reassembly};
pub(crate) use refusal::why;
pub use service::Counters;
pub use watch::{Changes, Watched};
