//! Calls that one node hands on to another, over standing streams, many in a message.
//!
//! Neither side waits to gather: a message takes what is there when the connection can take it, so that an idle stream is
//! as fast as a call, and a busy one as cheap as its bytes. Every queue is bounded, each peer has its own, and the bound
//! tells at once: whoever is not taken can do it by itself, but for bulk, which waits for its turn.

mod call;
mod connection;
mod peers;
mod queue;
mod response_queue;
mod serve;

pub use call::{Answer, Call, Doubt, ForwardError, Kind, NotSent, PeerRefusal, read_refusal};
pub use peers::Peers;
pub use response_queue::Reply;
pub use serve::{Executor, PeerService};

/// The version of what nodes say to each other.
pub const PROTOCOL: u32 = 1;

/// What is gathered into one message, of calls or of answers: no more is begun beyond that. It is of the size of a stream's
/// window, and of what a network holds in a millisecond.
const MESSAGE_BYTES: usize = 256 << 10;
/// What a call or an answer takes beside its payload.
const OVERHEAD_BYTES: usize = 24;
/// The largest payload. The requests of clients are smaller, and must not be refused for what nodes add.
const MAX_PAYLOAD_BYTES: usize = 2 << 20;
/// A message that was gathered up to [`MESSAGE_BYTES`], with a payload of the largest size at its end.
const MAX_MESSAGE_BYTES: usize = MESSAGE_BYTES + MAX_PAYLOAD_BYTES + (64 << 10);

/// Calls of a stream that are not answered yet. The callers of a thread are fewer, unless the peer is late.
const MAX_CALLS: usize = 16 * 1024;
/// Their payloads.
const MAX_CALLS_BYTES: usize = 16 << 20;
