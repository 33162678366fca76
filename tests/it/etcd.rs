//! The etcd client against real etcd, whose members are killed, stopped and cut off. `make test` builds it.

mod calls;
pub mod cluster;
mod leases;
mod login;
pub mod member;
mod outcomes;
pub mod proxy;
pub mod quota;
mod tls;
mod watches;

use std::time::Duration;

use bytes::Bytes;
use sumd::etcd::{Client, Error, at_revision, put};
use sumd::proto::etcd::etcdserverpb::{PutRequest, TxnRequest, TxnResponse};
use tokio::time::Instant;

/// A deadline for calls that must succeed, even on a busy machine.
pub fn in_time() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

pub fn put_request(key: &str, value: &str) -> PutRequest {
    PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ..PutRequest::default()
    }
}

/// Writes a key unless it exists.
async fn create(client: &Client, key: &str, deadline: Instant) -> Result<TxnResponse, Error> {
    let key = Bytes::copy_from_slice(key.as_bytes());
    let request = TxnRequest {
        compare: vec![at_revision(key.clone(), 0)],
        success: vec![put(key, "created")],
        failure: Vec::new(),
    };
    client.txn(request, deadline).await
}

/// Writes a key, repeating the call until it succeeds. The guard makes a repetition harmless.
async fn insist(client: &Client, key: &str) {
    let end = in_time();
    while let Err(error) = create(client, key, Instant::now() + Duration::from_secs(2)).await {
        assert!(error.is_passing() && Instant::now() < end, "{error}");
    }
}
