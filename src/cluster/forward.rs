//! Calls that one node forwards to another, over standing streams with many calls in a message.
//!
//! Neither side waits to fill a message: a message takes all calls that are there when the connection can send it. An
//! idle stream is as fast as a call, and a busy one costs only its bytes. Every queue is bounded, and each peer has its
//! own. A call that finds its queue full is refused at once, so that the caller can execute it itself; only bulk calls
//! wait for capacity.

mod call;
mod connection;
mod peers;
mod queue;
mod response_queue;
mod serve;

pub use call::{Answer, Call, Doubt, ForwardError, Kind, NotSent, PeerRefusal, read_refusal};
pub use peers::Peers;
pub use response_queue::Reply;
pub use serve::{Answers, Executor, IncomingCalls};

/// The version of the protocol between nodes.
pub const PROTOCOL: u32 = 1;

/// Size up to which calls or answers are collected into one message. It is about the size of a stream's window, and of
/// the bytes that a network holds in a millisecond.
const MESSAGE_BYTES: usize = 256 << 10;
/// Bytes that a call or an answer takes besides its payload.
const OVERHEAD_BYTES: usize = 24;
/// The largest payload. Requests of clients are smaller, so the fields that nodes add never make one too large.
const MAX_PAYLOAD_BYTES: usize = 2 << 20;
/// The largest message: collected up to its size, plus a last payload of the largest size.
pub const MAX_MESSAGE_BYTES: usize = MESSAGE_BYTES + MAX_PAYLOAD_BYTES + (64 << 10);

/// Maximum unanswered calls of a stream. A thread has fewer callers, unless the peer is late.
const MAX_CALLS: usize = 16 * 1024;
/// Maximum bytes of their payloads.
const MAX_CALLS_BYTES: usize = 16 << 20;
