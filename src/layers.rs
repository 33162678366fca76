//! Properties of every call, whatever its method: one tower layer for each, in the order of [`stack`].
//!
//! A layer refuses a call with a [`Status`](tonic::Status), and only [`errors`] makes responses of these. Bounds that
//! outlive a response's headers are enforced in one [body](response_body).

mod admission;
mod calls;
mod compression;
mod connection;
mod deadline;
mod drain;
mod encoding;
mod errors;
mod frame_error;
mod frames;
mod headers;
mod http_guard;
mod idle;
mod panics;
pub mod policy;
mod prefix;
mod replaced;
mod request_body;
mod request_memory;
mod response_body;
mod stack;
mod stall;

pub use calls::Calls;
pub use connection::{CallContext, Connection};
pub use frames::RequestFrames;
#[cfg(any(test, fuzzing))]
pub(crate) use frames::fuzzing;
pub use headers::unknown_method;
pub use replaced::Replaced;
pub use request_body::RequestBody;
pub use request_memory::RequestMemory;
pub use response_body::ResponseBody;
pub use stack::{Stack, stack};
pub use stall::Streams;

#[cfg(test)]
mod tests;
