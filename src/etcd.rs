//! A client of etcd: the few calls that sumd needs, each with a deadline, on any endpoint that is fit.
//!
//! One endpoint is asked at a time. If it fails, the next one takes its place, and repeatable calls are sent again
//! until their deadline. A transaction is never sent again if the first copy may have arrived. Its error tells whether
//! it was certainly not applied or may have been, and its owner decides. Watches and leases recover on their own.

mod address;
mod call;
mod dial;
mod error;
mod fault;
mod lease;
mod login;
mod maintenance;
mod options;
mod request;
mod rotation;
mod token;
mod version;
mod watch;

pub use address::{Address, Host, ParseAddressError};
pub use dial::TlsError;
pub use error::{Doubt, Error, Outcome, Refusal};
pub use lease::{Lease, LeaseId};
pub use maintenance::{Alarm, AlarmKind, Member};
pub use options::{Identity, Login, Options, Timeouts, Tls};
pub use request::{
    at_revision, delete, delete_prefix, get, not_after, prefix, prefix_end, put, range,
};
pub use version::{Support, VersionError, support};
pub use watch::{Batch, Watch, WatchError};

use tokio::time::Instant;
use tonic::transport::Channel;

use crate::proto::etcd::etcdserverpb::kv_client::KvClient;
use crate::proto::etcd::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, TxnRequest, TxnResponse,
};
use call::{Caller, Kind, MAX_ANSWER_BYTES};
use fault::Fault;

/// A client of one cluster. Clones share its connection.
#[derive(Clone)]
pub struct Client {
    caller: Caller,
}

impl Client {
    /// Creates a client, which connects when it is first used.
    ///
    /// # Errors
    /// Returns an error if the files for TLS cannot be used.
    ///
    /// # Panics
    /// Panics if there is no endpoint.
    pub fn new(options: Options) -> Result<Self, TlsError> {
        assert!(!options.endpoints.is_empty(), "an etcd has an address");
        for host in &options.endpoints {
            dial::endpoint(host, options.tls.as_ref())?;
        }
        Ok(Self {
            caller: Caller::new(options),
        })
    }

    /// The endpoint in use, if there is one at present.
    #[must_use]
    pub fn endpoint(&self) -> Option<Host> {
        self.caller.rotation().endpoint()
    }

    /// Reads keys.
    ///
    /// # Errors
    /// Returns an error if no endpoint has answered before the deadline, or etcd refuses.
    pub async fn range(
        &self,
        request: RangeRequest,
        deadline: Instant,
    ) -> Result<RangeResponse, Error> {
        let send = |channel, request| async move { kv(channel).range(request).await };
        self.caller
            .call(Kind::Repeatable, deadline, request, send)
            .await
    }

    /// Writes a key at most once.
    ///
    /// # Errors
    /// Returns an error if the key certainly was not written, or the outcome is unknown.
    pub async fn put(&self, request: PutRequest, deadline: Instant) -> Result<PutResponse, Error> {
        let send = |channel, request| async move { kv(channel).put(request).await };
        self.caller.call(Kind::Once, deadline, request, send).await
    }

    /// Deletes keys at most once.
    ///
    /// # Errors
    /// Returns an error if the keys certainly were not deleted, or the outcome is unknown.
    pub async fn delete_range(
        &self,
        request: DeleteRangeRequest,
        deadline: Instant,
    ) -> Result<DeleteRangeResponse, Error> {
        let send = |channel, request| async move { kv(channel).delete_range(request).await };
        self.caller.call(Kind::Once, deadline, request, send).await
    }

    /// Executes a transaction at most once.
    ///
    /// # Errors
    /// Returns an error if the transaction certainly was not executed, or the outcome is unknown. In the latter case it
    /// may be executed at any later time, until something that it compares has changed.
    pub async fn txn(&self, request: TxnRequest, deadline: Instant) -> Result<TxnResponse, Error> {
        let send = |channel, request| async move { kv(channel).txn(request).await };
        self.caller.call(Kind::Once, deadline, request, send).await
    }

    /// Compacts the history before a revision. If it is compacted already, that is a success.
    ///
    /// # Errors
    /// Returns an error if no endpoint has answered before the deadline, or etcd refuses.
    pub async fn compact(&self, revision: i64, deadline: Instant) -> Result<(), Error> {
        let request = CompactionRequest {
            revision,
            physical: false,
        };
        let send = |channel, request| async move { kv(channel).compact(request).await };
        let done = self
            .caller
            .call(Kind::Repeatable, deadline, request, send)
            .await;
        compacted(done)
    }
}

/// The result of a compaction: history that is compacted already is no error.
fn compacted(answer: Result<CompactionResponse, Error>) -> Result<(), Error> {
    match answer {
        Err(error) if error.outcome != Outcome::Definite(Refusal::Compacted) => Err(error),
        _ => Ok(()),
    }
}

fn kv(channel: Channel) -> KvClient<Channel> {
    KvClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It is no error that history is forgotten already, and any other error is told.
    #[test]
    fn what_is_forgotten_is_not_forgotten_again() {
        let refused = |refusal| Error::new(Outcome::Definite(refusal), String::new());
        assert_eq!(compacted(Ok(CompactionResponse::default())), Ok(()));
        assert_eq!(compacted(Err(refused(Refusal::Compacted))), Ok(()));
        let denied = refused(Refusal::Denied);
        assert_eq!(compacted(Err(denied.clone())), Err(denied));
    }
}
