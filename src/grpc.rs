//! gRPC's framing, for services that do without the generated server code: messages out of a request's
//! body, messages and trailers into a response's.
//!
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>: a message is a byte that says whether it is
//! compressed, four of its length, big-endian, and its bytes.

mod error;
mod request;
mod response;

pub use error::FrameError;
pub use request::{Messages, Prefix, next_bytes};
pub use response::{Replies, ResponseBody, Room, put_message, stream, stream_body, unary};
