//! Leases survive the loss of endpoints, and are reported when they are lost.

use std::time::Duration;

use sumd::etcd::{Client, Lease, get, prefix};
use sumd::store::etcd::Kv;
use tokio::time::{Instant, sleep_until};

use super::cluster::Cluster;
use super::proxy::{Proxy, Way};
use super::{in_time, put_request};
use crate::support::soon;

async fn put_under(client: &Client, lease: &Lease, key: &str) {
    let mut request = put_request(key, "here");
    request.lease = lease.id();
    client
        .put(request, in_time())
        .await
        .expect("the lease is there");
}

async fn is_there(client: &Client, key: &str) -> bool {
    let found = client.range(get(key.to_owned()), in_time()).await;
    !found.expect("an answer").kvs.is_empty()
}

/// The endpoint that keeps a lease alive is killed, and later the leader: another endpoint takes over, and no key is
/// lost.
#[tokio::test]
#[ignore = "make test runs it"]
async fn survives_its_endpoint() {
    let mut cluster = Cluster::start(3, &[]).await;
    let client = cluster.client();
    let ttl = Duration::from_secs(6);
    let lease = client.grant(ttl, in_time()).await.expect("a lease");
    let held = lease.held_until().expect("it is not lost");
    assert!(held > Instant::now(), "it runs out");
    put_under(&client, &lease, "node").await;
    for leader in [false, true] {
        let victim = if leader {
            cluster.leader().await
        } else {
            cluster.used_by(&client)
        };
        victim.kill().await;
        let killed = Instant::now();
        // Past the time at which it would have expired without a keepalive after the kill.
        while lease.held_until().expect("it is not lost") < killed + 2 * ttl {
            sleep_until(Instant::now() + Duration::from_millis(50)).await;
        }
        victim.start();
        victim.healthy().await;
        assert!(is_there(&client, "node").await);
    }
    lease.revoke(in_time()).await.expect("given up");
    assert!(!is_there(&client, "node").await);
}

/// A lease that expired while its owner was cut off is reported as lost once etcd can be asked, and another one can be
/// granted.
#[tokio::test]
#[ignore = "make test runs it"]
async fn lost_when_it_has_run_out() {
    let cluster = Cluster::start(1, &[]).await;
    let outside = cluster.client();
    for way in [Way::Closed, Way::Silent] {
        let proxy = Proxy::start(cluster.members[0].host()).await;
        let mut options = cluster.options();
        options.endpoints = vec![proxy.host.clone()];
        let client = Client::new(options).expect("no TLS");
        let ttl = Duration::from_secs(2);
        let lease = client.grant(ttl, in_time()).await.expect("a lease");
        put_under(&client, &lease, "node").await;

        proxy.set(way);
        let gone = async { while is_there(&outside, "node").await {} };
        soon(gone).await;
        let held = lease.held_until().expect("nobody has told it");
        assert!(held <= Instant::now(), "what it is told holds is held");
        proxy.set(Way::Open);
        soon(lease.lost()).await;
        assert_eq!(lease.held_until(), None);

        let lease = client.grant(ttl, in_time()).await.expect("another");
        put_under(&client, &lease, "node").await;
        drop(lease);
        let gone = async { while is_there(&outside, "node").await {} };
        soon(gone).await;
    }
}

/// A lease that another client has revoked is lost, too.
#[tokio::test]
#[ignore = "make test runs it"]
async fn lost_when_it_is_revoked() {
    let cluster = Cluster::start(1, &[]).await;
    let client = cluster.client();
    let lease = client.grant(Duration::from_secs(2), in_time()).await;
    let lease = lease.expect("a lease");
    let id = serde_json::json!({ "ID": lease.id().to_string() });
    cluster.members[0].ask("/v3/lease/revoke", id, None).await;
    soon(lease.lost()).await;
    lease.revoke(in_time()).await.expect("it is gone already");
}

/// A reader of all data keeps their history by a key, which is deleted with the reader's lease, or as soon as it has finished.
#[tokio::test]
#[ignore = "make test runs it"]
async fn history_is_kept_for_a_reader() {
    let cluster = Cluster::start(1, &[]).await;
    let client = cluster.client();
    let leases = async || {
        let found = client.range(prefix("/sumd/holds/", 0), in_time()).await;
        let keys = found.expect("an answer").kvs.into_iter();
        keys.map(|row| row.lease).collect::<Vec<_>>()
    };
    let hold = Kv::hold(&client, "/sumd").await.expect("an answer");
    let hold = hold.expect("etcd forgets its history");
    let taken = leases().await;
    assert!(matches!(taken[..], [lease] if lease != 0), "{taken:?}");
    hold.release().await;
    assert!(leases().await.is_empty(), "it is let go");
}
