//! Forwarded calls, and their outcomes.

use bytes::Bytes;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::proto::sumd::cluster::v1::{self as proto, Plain, Refusal, refusal::Why};
use crate::status;

/// The operation of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An increment.
    Increment,
    /// Several increments, all or none of them.
    BatchIncrement,
    /// Setting a counter.
    Set,
    /// Deleting a counter.
    Delete,
    /// The parts of a session's message for some lanes.
    RecordParts,
}

/// A call to be forwarded.
#[derive(Clone, Debug)]
pub struct Call {
    /// The operation.
    pub kind: Kind,
    /// The encoded request.
    pub payload: Bytes,
    /// The time until which the caller waits.
    pub deadline: Option<Instant>,
    /// The forwarding node has made the request's id, because its caller gave none.
    pub own_id: bool,
}

/// The answer of the other node: the encoded response, or a refusal.
pub type Answer = Result<Bytes, Why>;

/// A refusal to be sent to the calling node.
#[derive(Clone, Debug)]
pub struct PeerRefusal {
    /// The reason.
    pub why: Why,
    /// The refusal as a status, for a node of an earlier version, which may show it to its caller. This version reads
    /// the reason alone.
    pub status: Status,
}

impl PeerRefusal {
    /// The call may have been carried out, or may still be.
    pub(super) fn unknown(problem: &'static str) -> Self {
        // On UNAVAILABLE, an earlier version carries out the call itself, under the same id.
        Self::plain(Plain::Unknown, Status::unavailable(problem))
    }

    /// The call was not carried out, and the calling node may do so.
    #[must_use]
    pub fn declined(problem: String) -> Self {
        Self::plain(Plain::Declined, Status::unavailable(problem))
    }

    /// This version does not know the kind of the call.
    pub(super) fn unknown_kind(kind: i32) -> Self {
        let problem = format!("this version does not know calls of kind {kind}");
        Self::plain(Plain::UnknownKind, Status::unimplemented(problem))
    }

    fn plain(plain: Plain, status: Status) -> Self {
        let why = Why::Plain(plain.into());
        Self { why, status }
    }
}

/// Decodes an answer.
pub(super) fn read(result: Option<proto::answer::Result>, refusal: Option<Refusal>) -> Answer {
    match result {
        Some(proto::answer::Result::Ok(response)) => Ok(response),
        Some(proto::answer::Result::Error(status)) => Err(read_refusal(status, refusal)),
        // The result is of a kind that came with a later version.
        None => Err(read_refusal(Bytes::new(), refusal)),
    }
}

/// Decodes a refusal, or in its place the encoded status of a node of an earlier version. If neither tells the outcome,
/// the call is in doubt.
#[must_use]
pub fn read_refusal(status: Bytes, refusal: Option<Refusal>) -> Why {
    let unknown = || Why::Plain(Plain::Unknown.into());
    match refusal {
        Some(refusal) => refusal.why.unwrap_or_else(unknown),
        None if status.is_empty() => unknown(),
        None => Why::Plain(of_earlier_version(&status::from_encoded(status)).into()),
    }
}

/// The meaning of an error of an earlier version, by its code alone. With these codes, such a node has refused the
/// contents of the request and applied nothing; this node then executes the request, and refuses it in its own words.
/// Any other code leaves the call in doubt.
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

/// The reason why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// The other node has not carried out the call and never will: it may be carried out here.
    #[error(transparent)]
    NotSent(NotSent),
    /// The call may have been carried out, or may still be.
    #[error(transparent)]
    Unknown(Doubt),
}

/// The reason why a call was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// The node cannot be reached at present, or is shutting down.
    #[error("the other node cannot be reached")]
    NotConnected,
    /// The queue to the node is full.
    #[error("too many calls to the other node are pending")]
    Full,
    /// The call is larger than nodes accept.
    #[error("the call is too large to be forwarded")]
    TooLarge,
    /// The deadline passed before the call could be sent.
    #[error("the deadline passed before the call was forwarded")]
    Late,
}

/// The reason why the outcome is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// The connection broke.
    #[error("the connection to the other node broke")]
    Broken,
    /// The node did not answer in time.
    #[error("the other node did not answer in time")]
    NoAnswer,
}

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
    /// The kind with this number, if this version knows it.
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
