//! The counters of a node: running totals.
//!
//! Writes go to the [lanes](crate::lane), here or on the node that owns the lane, and reads to the
//! [store](crate::store). This room validates requests and makes answers. It knows nothing of gRPC: its errors are typed,
//! and `api` maps them to statuses.
//!
//! Requests and answers are the messages of the public contract, as plain data. Nodes forward requests to each other in
//! that form, and messages of bulk streams are read straight from their bytes and forwarded as they came.

mod convert;
mod copies;
mod error;
mod execute;
mod forward;
mod operation;
mod page_token;
mod read;
mod record;
mod refusal;
mod service;
mod stale;
mod watch;
mod wire;

pub(crate) use convert::invalid_field;
pub use error::{Error, Kind};
pub use forward::Forwarder;
pub(crate) use operation::Operation;
pub use record::{RecordFailure, RecordReply, reassembly};
pub(crate) use refusal::why;
pub use service::Counters;
