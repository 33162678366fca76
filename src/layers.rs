//! Properties that hold for every call, whatever its method: a tower layer for each, in the order that [`stack`] gives.
//!
//! A layer refuses a call by an error, a [`Status`](tonic::Status), and [`errors`] alone makes responses of these. What
//! outlives a response's headers is in one [body](body).

mod admission;
mod body;
mod calls;
mod connection;
mod deadline;
mod drain;
mod errors;
mod frames;
mod headers;
mod http_guard;
mod idle;
mod panics;
pub mod policy;
mod request_body;
mod stack;
mod stall;

pub use body::ResponseBody;
pub use calls::Calls;
pub use connection::{CallContext, Connection};
pub use frames::{RequestFrames, Skipped};
pub use headers::unknown_method;
pub use request_body::RequestBody;
pub use stack::{Stack, stack};
pub use stall::Streams;

#[cfg(test)]
mod tests;
