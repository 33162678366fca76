//! Errors of calls, each with its outcome: certainly nothing was done, or possibly the whole request.

use std::fmt;

use super::Host;

/// The error of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Its outcome.
    pub outcome: Outcome,
    /// The endpoint that reported it; `None` if none could be reached.
    pub endpoint: Option<Host>,
    /// The gRPC status code, if there was an answer.
    pub code: Option<&'static str>,
    /// The message.
    pub message: String,
}

/// Whether a failed call may have changed something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was refused: it has not been applied, and will not be.
    Definite(Refusal),
    /// It may have been applied, or may be yet. A read that does not show it proves nothing, except after
    /// [`Doubt::NoSpace`].
    Unknown(Doubt),
}

/// The reason why a call was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No endpoint that is fit could be reached in time.
    NotConnected,
    /// The member knows no leader.
    NoLeader,
    /// The member is overloaded.
    Overloaded,
    /// The user or the password is wrong or missing.
    NotLoggedIn,
    /// The user may not do this.
    Denied,
    /// A transaction has more operations than `--max-txn-ops` allows.
    TooManyOperations,
    /// The request is larger than `--max-request-bytes` allows.
    TooLarge,
    /// The requested revision has been compacted.
    Compacted,
    /// The requested revision is in the future.
    FutureRevision,
    /// There is no such lease, or no longer.
    LeaseNotFound,
    /// There is already a lease with that id.
    LeaseExists,
    /// etcd rejects the request as invalid.
    Invalid,
    /// The endpoint does not have the method: it is too old, or not etcd.
    Unsupported,
}

/// The reason why an outcome is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// There was no answer in time.
    Deadline,
    /// The connection was lost, or the member could not complete the request.
    Unavailable,
    /// The database is as large as it may be. A request that crosses the limit is committed with this error all the
    /// same, before the answer. A request that is not committed by then never will be.
    NoSpace,
    /// The members have detected that their data differ.
    Corrupt,
    /// An error that etcd is not known to return.
    Unexpected,
}

impl Error {
    /// An error that no endpoint has reported.
    #[must_use]
    pub fn new(outcome: Outcome, message: String) -> Self {
        Self {
            outcome,
            endpoint: None,
            code: None,
            message,
        }
    }

    pub(super) fn not_connected(message: String) -> Self {
        Self::new(Outcome::Definite(Refusal::NotConnected), message)
    }

    /// Whether the call has certainly changed nothing, and will not.
    #[must_use]
    pub fn is_definite(&self) -> bool {
        matches!(self.outcome, Outcome::Definite(_))
    }

    /// Whether the same request may succeed a little later, without any intervention.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self.outcome {
            Outcome::Definite(refusal) => match refusal {
                Refusal::NotConnected | Refusal::NoLeader | Refusal::Overloaded => true,
                Refusal::NotLoggedIn
                | Refusal::Denied
                | Refusal::TooManyOperations
                | Refusal::TooLarge
                | Refusal::Compacted
                | Refusal::FutureRevision
                | Refusal::LeaseNotFound
                | Refusal::LeaseExists
                | Refusal::Invalid
                | Refusal::Unsupported => false,
            },
            Outcome::Unknown(doubt) => match doubt {
                Doubt::Deadline | Doubt::Unavailable => true,
                Doubt::NoSpace | Doubt::Corrupt | Doubt::Unexpected => false,
            },
        }
    }
}

impl Refusal {
    /// Whether another member may answer differently.
    pub(super) fn is_local(self) -> bool {
        matches!(
            self,
            Self::NotConnected | Self::NoLeader | Self::Overloaded | Self::Unsupported
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.endpoint {
            Some(endpoint) => write!(f, "etcd at {endpoint}: ")?,
            None => write!(f, "etcd: ")?,
        }
        if let Some(code) = self.code {
            write!(f, "{code}: ")?;
        }
        f.write_str(&self.message)?;
        match self.outcome {
            Outcome::Definite(_) => Ok(()),
            Outcome::Unknown(Doubt::NoSpace) => f.write_str(
                " (the request may have been carried out. To make room, compact and defragment etcd, or raise \
                 --quota-backend-bytes, and disarm the alarm)",
            ),
            Outcome::Unknown(_) => {
                f.write_str(" (the request may have been carried out, or may still be)")
            }
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_is_definite() {
        let error = |outcome| Error::new(outcome, "as a test has it".to_owned());
        let refused = error(Outcome::Definite(Refusal::NoLeader));
        assert!(refused.is_definite() && refused.is_passing());
        let late = error(Outcome::Unknown(Doubt::Deadline));
        assert!(!late.is_definite() && late.is_passing());
        let full = error(Outcome::Unknown(Doubt::NoSpace));
        assert!(!full.is_definite() && !full.is_passing());
    }
}
