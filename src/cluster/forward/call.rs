//! What is handed on, and what may come of it.

use std::fmt;

use bytes::Bytes;
use tokio::time::Instant;
use tonic::Status;

use crate::proto::sumd::cluster::v1 as proto;

/// What a call asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One increment.
    Increment,
    /// Several, all or nothing.
    BatchIncrement,
    /// To set a counter.
    Set,
    /// To delete a counter.
    Delete,
    /// What a message of a session has for some lanes.
    RecordParts,
}

/// One call, on its way.
#[derive(Clone, Debug)]
pub struct Call {
    /// What it asks for.
    pub kind: Kind,
    /// The request, encoded.
    pub payload: Bytes,
    /// Until when its caller waits.
    pub deadline: Option<Instant>,
}

/// What the other node has answered: the response, encoded, or the status that the caller shall get.
pub type Answer = Result<Bytes, Status>;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardError {
    /// It was not carried out, and will not be by the other node: it may be carried out here.
    NotSent(NotSent),
    /// It may have been carried out, or may yet be.
    Unknown(Doubt),
}

/// Why a call was not handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotSent {
    /// The node cannot be reached just now, or is about to stop.
    NotConnected,
    /// Too much waits for the node already.
    Full,
    /// The call is larger than nodes take.
    TooLarge,
    /// Its deadline came before its turn.
    Late,
    /// The node is of an older version, which does not know this kind of call.
    NotKnown,
}

/// Why nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// The connection broke.
    Broken,
    /// The node has not answered in time.
    NoAnswer,
}

impl fmt::Display for ForwardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotSent(NotSent::NotConnected) => "the other node cannot be reached",
            Self::NotSent(NotSent::Full) => "too much waits for the other node",
            Self::NotSent(NotSent::TooLarge) => "the call is too large to be handed on",
            Self::NotSent(NotSent::Late) => "the deadline came before it was handed on",
            Self::NotSent(NotSent::NotKnown) => "the other node does not know this kind of call",
            Self::Unknown(Doubt::Broken) => "the connection to the other node broke",
            Self::Unknown(Doubt::NoAnswer) => "the other node has not answered in time",
        })
    }
}

impl std::error::Error for ForwardError {}

impl From<Kind> for proto::Kind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Increment => Self::Increment,
            Kind::BatchIncrement => Self::BatchIncrement,
            Kind::Set => Self::Set,
            Kind::Delete => Self::Delete,
            Kind::RecordParts => Self::RecordParts,
        }
    }
}

impl Kind {
    /// The kind of a number, if this version knows it.
    pub(super) fn from_number(number: i32) -> Option<Self> {
        match proto::Kind::try_from(number).ok()? {
            proto::Kind::Unspecified | proto::Kind::RecordPart => None,
            proto::Kind::Increment => Some(Self::Increment),
            proto::Kind::BatchIncrement => Some(Self::BatchIncrement),
            proto::Kind::Set => Some(Self::Set),
            proto::Kind::Delete => Some(Self::Delete),
            proto::Kind::RecordParts => Some(Self::RecordParts),
        }
    }
}
