//! Faults: how an error is classified, and what follows from it.

use std::error::Error as _;

use tonic::{Code, ConnectError, Status};

use super::{Doubt, Error, Host, Outcome, Refusal};

/// An error, and its consequences.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) error: Error,
    /// Whether the endpoint is to blame, and another one may do better.
    pub(super) leave: bool,
    /// Whether the request certainly has not reached a member.
    pub(super) unsent: bool,
    /// Whether it was refused because its token is no longer valid.
    pub(super) token: bool,
}

/// etcd's messages that tell more than their codes: `api/v3rpc/rpctypes/error.go`. All of them are sent before anything
/// is proposed to the cluster, or before any part of a transaction is applied.
const SENTENCES: [(&str, Refusal); 15] = [
    ("etcdserver: no leader", Refusal::NoLeader),
    ("etcdserver: too many requests", Refusal::Overloaded),
    ("etcdserver: invalid auth token", Refusal::NotLoggedIn),
    (
        "etcdserver: revision of auth store is old",
        Refusal::NotLoggedIn,
    ),
    ("etcdserver: user name is empty", Refusal::NotLoggedIn),
    (
        "etcdserver: authentication failed, invalid user ID or password",
        Refusal::NotLoggedIn,
    ),
    ("etcdserver: permission denied", Refusal::Denied),
    (
        "etcdserver: too many operations in txn request",
        Refusal::TooManyOperations,
    ),
    ("etcdserver: request is too large", Refusal::TooLarge),
    (
        "etcdserver: mvcc: required revision has been compacted",
        Refusal::Compacted,
    ),
    (
        "etcdserver: mvcc: required revision is a future revision",
        Refusal::FutureRevision,
    ),
    (
        "etcdserver: requested lease not found",
        Refusal::LeaseNotFound,
    ),
    ("etcdserver: lease already exists", Refusal::LeaseExists),
    ("etcdserver: too large lease TTL", Refusal::Invalid),
    ("etcdserver: member not found", Refusal::Invalid),
];

/// Refusals of a token after which a new one may work: etcd's own client renews on the same three.
const STALE_TOKEN: [&str; 3] = [
    "etcdserver: invalid auth token",
    "etcdserver: revision of auth store is old",
    "etcdserver: user name is empty",
];

/// The only message after which the request certainly is not executed later: see [`Doubt::NoSpace`].
const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";

pub(super) const AUTH_NOT_ENABLED: &str = "etcdserver: authentication is not enabled";

impl Fault {
    /// Classifies the status that a member, or the connection to it, has returned.
    pub(super) fn new(status: &Status, endpoint: &Host) -> Self {
        let unsent = is_connect_error(status);
        let outcome = if unsent {
            Outcome::Definite(Refusal::NotConnected)
        } else {
            outcome(status)
        };
        Self {
            leave: match outcome {
                Outcome::Definite(refusal) => refusal.is_local() || is_learner(status),
                Outcome::Unknown(Doubt::NoSpace) => false,
                Outcome::Unknown(_) => true,
            },
            unsent,
            token: STALE_TOKEN.contains(&status.message()),
            error: Error {
                outcome,
                endpoint: Some(endpoint.clone()),
                // tonic makes up a code for an error of the connection, which says nothing.
                code: status.source().is_none().then(|| name(status.code())),
                message: sentence(status),
            },
        }
    }

    /// The fault of a request without an answer in time, which may have been sent.
    pub(super) fn late(endpoint: &Host) -> Self {
        Self {
            error: Error {
                outcome: Outcome::Unknown(Doubt::Deadline),
                endpoint: Some(endpoint.clone()),
                code: None,
                message: "no answer in time".to_owned(),
            },
            leave: true,
            unsent: false,
            token: false,
        }
    }

    /// The same fault for a call that only prepares another one, which was never sent.
    pub(super) fn before_sending(mut self) -> Self {
        if let Outcome::Unknown(_) = self.error.outcome {
            self.error.outcome = Outcome::Definite(Refusal::NotConnected);
        }
        self.unsent = true;
        self
    }
}

fn outcome(status: &Status) -> Outcome {
    let message = status.message();
    if let Some((_, refusal)) = SENTENCES.iter().find(|(said, _)| *said == message) {
        return Outcome::Definite(*refusal);
    }
    let etcd = message.starts_with("etcdserver: ");
    match status.code() {
        // The answer is the connection's, not a member's.
        _ if status.source().is_some() => Outcome::Unknown(Doubt::Unavailable),
        Code::InvalidArgument | Code::FailedPrecondition if etcd => {
            Outcome::Definite(Refusal::Invalid)
        }
        Code::Unimplemented => Outcome::Definite(Refusal::Unsupported),
        Code::ResourceExhausted if message == NO_SPACE => Outcome::Unknown(Doubt::NoSpace),
        // gRPC refuses it before etcd has seen it.
        Code::ResourceExhausted if message.starts_with("grpc: received message larger than") => {
            Outcome::Definite(Refusal::TooLarge)
        }
        Code::DeadlineExceeded => Outcome::Unknown(Doubt::Deadline),
        Code::Unavailable | Code::Cancelled => Outcome::Unknown(Doubt::Unavailable),
        Code::DataLoss => Outcome::Unknown(Doubt::Corrupt),
        _ => Outcome::Unknown(Doubt::Unexpected),
    }
}

fn is_connect_error(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

fn is_learner(status: &Status) -> bool {
    status.message() == "etcdserver: rpc not supported for learner"
}

/// The error, without layers around it that only report a failure.
fn sentence(status: &Status) -> String {
    status
        .source()
        .map_or_else(|| status.message().to_owned(), innermost)
}

/// The innermost error.
pub(super) fn innermost(mut error: &(dyn std::error::Error + 'static)) -> String {
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// The codes as gRPC's specification writes them.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use tonic::transport::Endpoint;

    use super::super::dial;
    use super::*;
    use crate::proto::etcd::etcdserverpb::TxnRequest;
    use crate::proto::etcd::etcdserverpb::kv_client::KvClient;

    fn fault(code: Code, message: &str) -> Fault {
        let endpoint = "one:2379".parse().expect("a host");
        Fault::new(&Status::new(code, message), &endpoint)
    }

    /// Only known refusals count as refused: a wrong guess would lose or double a batch.
    #[test]
    fn only_known_refusals_are_definite() {
        use Doubt::{Corrupt, Deadline, NoSpace, Unavailable, Unexpected};
        for (code, message, doubt) in [
            (
                Code::Unavailable,
                "etcdserver: request timed out",
                Unavailable,
            ),
            (Code::Unavailable, "etcdserver: leader changed", Unavailable),
            (Code::Unavailable, "etcdserver: server stopped", Unavailable),
            (Code::Unavailable, "", Unavailable),
            (Code::Cancelled, "etcdserver: request canceled", Unavailable),
            (
                Code::DeadlineExceeded,
                "context deadline exceeded",
                Deadline,
            ),
            (
                Code::ResourceExhausted,
                "etcdserver: mvcc: database space exceeded",
                NoSpace,
            ),
            (Code::DataLoss, "etcdserver: corrupt cluster", Corrupt),
            // From a proxy, perhaps.
            (Code::InvalidArgument, "no", Unexpected),
            (Code::PermissionDenied, "no", Unexpected),
            (Code::ResourceExhausted, "slow down", Unexpected),
            // Another limit than that of the database.
            (
                Code::ResourceExhausted,
                "etcdserver: something else is exhausted",
                Unexpected,
            ),
            (
                Code::Unknown,
                "etcdserver: mvcc: database space exceeded",
                Unexpected,
            ),
            // About the answer, so the request was executed.
            (
                Code::OutOfRange,
                "Error, decoded message length too large: found 9 bytes, the limit is: 8 bytes",
                Unexpected,
            ),
            (Code::Internal, "", Unexpected),
            (Code::Unknown, "etcdserver: something new", Unexpected),
        ] {
            let found = fault(code, message).error.outcome;
            assert_eq!(found, Outcome::Unknown(doubt), "{code:?} {message}");
        }
    }

    /// A transaction that no member can have seen is certainly not applied: it is not looked for, and sent again.
    #[tokio::test]
    async fn what_was_not_sent_is_not_applied() {
        let nobody = dial::tests::closed();
        let address = nobody.local_addr().expect("it is bound");
        let channel = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        let mut client = KvClient::new(channel.connect_lazy());
        let failed = client.txn(TxnRequest::default()).await;
        let endpoint = "one:2379".parse().expect("a host");
        let fault = Fault::new(&failed.expect_err("nobody listens"), &endpoint);
        assert!(fault.unsent && fault.leave);
        let outcome = fault.error.outcome;
        assert_eq!(outcome, Outcome::Definite(Refusal::NotConnected));
    }

    #[test]
    fn refusals_are_told_apart() {
        for (said, refusal) in SENTENCES {
            let fault = fault(Code::Unknown, said);
            assert_eq!(fault.error.outcome, Outcome::Definite(refusal), "{said}");
        }
        let duplicate = "etcdserver: duplicate key given in txn request";
        let fault = fault(Code::InvalidArgument, duplicate);
        assert_eq!(fault.error.outcome, Outcome::Definite(Refusal::Invalid));
        assert!(!fault.leave, "it is the request's fault");
        let unknown = self::fault(Code::Unimplemented, "unknown method Compact").error;
        assert_eq!(unknown.outcome, Outcome::Definite(Refusal::Unsupported));
        assert_eq!(
            fault.error.to_string(),
            format!("etcd at one:2379: INVALID_ARGUMENT: {duplicate}")
        );
    }

    /// A member without a leader, or a learner, is left for another one; a full database is the same on all.
    #[test]
    fn endpoints_are_left_for_what_is_theirs() {
        for (code, message, leave) in [
            (Code::Unavailable, "etcdserver: no leader", true),
            (Code::Unavailable, "etcdserver: request timed out", true),
            (
                Code::FailedPrecondition,
                "etcdserver: rpc not supported for learner",
                true,
            ),
            (
                Code::ResourceExhausted,
                "etcdserver: mvcc: database space exceeded",
                false,
            ),
            (
                Code::PermissionDenied,
                "etcdserver: permission denied",
                false,
            ),
        ] {
            assert_eq!(fault(code, message).leave, leave, "{message}");
        }
    }
}
