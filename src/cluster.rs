//! The nodes of a cluster: membership, ownership of lanes, and calls between nodes.
//!
//! All of this is for speed. Any node may carry out any operation, and the guard in the store keeps the result exact.

mod clock_state;
mod clocks;
mod forward;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod members;
mod node;
mod nodes;
mod ownership;
mod view;

pub use clock_state::ClockState;
use clocks::Clocks;
pub use forward::{
    Answer, Answers, Call, Doubt, Executor, ForwardError, IncomingCalls, Kind, MAX_MESSAGE_BYTES,
    NotSent, PROTOCOL, PeerRefusal, Peers, Reply, read_refusal,
};
pub use members::{DEFAULT_TTL, JoinError, Members, Options};
pub use node::{InvalidNode, Node};
pub use nodes::Nodes;
pub use view::View;
