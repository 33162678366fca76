//! What is handed on, and what may come of it.

use std::fmt;

use bytes::Bytes;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::proto::sumd::cluster::v1::{self as proto, Plain, Refusal, refusal::Why};
use crate::status;

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
    /// The request's id is of the node that hands it on, whose caller has none.
    pub own_id: bool,
}

/// The answer of the other node: the response, encoded, or why there is none.
pub type Answer = Result<Bytes, Why>;

/// A refusal to be sent.
#[derive(Clone, Debug)]
pub struct PeerRefusal {
    /// The reason.
    pub why: Why,
    /// The same for a node of an earlier version, which may show it to its caller.
    pub status: Status,
}

impl PeerRefusal {
    /// The call may have been carried out, or may yet be.
    pub(super) fn unknown(problem: &'static str) -> Self {
        // An earlier version carries out itself what is unavailable, under the same id.
        Self::plain(Plain::Unknown, Status::unavailable(problem))
    }

    /// The call was not carried out, and the sender may do so.
    #[must_use]
    pub fn declined(problem: String) -> Self {
        Self::plain(Plain::Declined, Status::unavailable(problem))
    }

    /// The call is of a kind that this version does not know.
    pub(super) fn unknown_kind(kind: i32) -> Self {
        let problem = format!("this version does not know calls of kind {kind}");
        Self::plain(Plain::UnknownKind, Status::unimplemented(problem))
    }

    fn plain(plain: Plain, status: Status) -> Self {
        let why = Why::Plain(plain.into());
        Self { why, status }
    }
}

/// Reads an answer.
pub(super) fn read(result: Option<proto::answer::Result>, refusal: Option<Refusal>) -> Answer {
    match result {
        Some(proto::answer::Result::Ok(response)) => Ok(response),
        Some(proto::answer::Result::Error(status)) => Err(read_refusal(status, refusal)),
        // Of a kind that came later.
        None => Err(read_refusal(Bytes::new(), refusal)),
    }
}

/// Reads a refusal, or in its place the encoded status of a node of an earlier version. Whatever they do not say leaves the call
/// in doubt.
#[must_use]
pub fn read_refusal(status: Bytes, refusal: Option<Refusal>) -> Why {
    let unknown = || Why::Plain(Plain::Unknown.into());
    match refusal {
        Some(refusal) => refusal.why.unwrap_or_else(unknown),
        None if status.is_empty() => unknown(),
        None => Why::Plain(of_earlier_version(&status::from_encoded(status)).into()),
    }
}

/// The meaning of an error of an earlier version, by its code alone. With these codes such a node refuses a request for what it
/// asks, and has applied nothing; this node comes to the same, in words of its own. Any other code leaves the call in doubt.
fn of_earlier_version(status: &Status) -> Plain {
    match status.code() {
        Code::Unimplemented => Plain::UnknownKind,
        Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::AlreadyExists
        | Code::ResourceExhausted => Plain::Declined,
        _ => Plain::Unknown,
    }
}

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
