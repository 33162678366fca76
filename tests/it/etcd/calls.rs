//! Calls on endpoints that are not all healthy.

use std::collections::HashSet;
use std::net::TcpListener;
use std::time::Duration;

use sumd::etcd::{
    Client, Doubt, Host, Options, Outcome, Refusal, Support, at_revision, delete, get, prefix, put,
    support,
};
use sumd::proto::etcd::etcdserverpb::response_op::Response;
use sumd::proto::etcd::etcdserverpb::{RequestOp, TxnRequest};
use tokio::time::Instant;

use super::cluster::Cluster;
use super::{create, in_time, put_request};
use crate::support::ports::free_port;

/// A guard holds until the key is changed, and its transaction is applied as a whole or not at all.
#[tokio::test]
#[ignore = "make test runs it"]
async fn guards() {
    let cluster = Cluster::start(1, &[]).await;
    let client = cluster.client();

    let first = create(&client, "head", in_time()).await.expect("it is new");
    assert!(first.succeeded);
    let revision = first.header.expect("a header").revision;
    let again = create(&client, "head", in_time()).await.expect("an answer");
    assert!(!again.succeeded, "it is there");

    let step = |expected| TxnRequest {
        compare: vec![at_revision("head", expected)],
        success: vec![put("head", "two"), put("rows/a", "1"), delete("rows/b")],
        failure: vec![RequestOp::from(get("head"))],
    };
    let moved = client.txn(step(revision), in_time()).await;
    assert!(moved.expect("an answer").succeeded);
    let late = client.txn(step(revision), in_time()).await;
    let late = late.expect("an answer");
    assert!(
        !late.succeeded,
        "the same again finds that the head has moved"
    );
    let Some(Response::ResponseRange(head)) = &late.responses[0].response else {
        panic!("{late:?}");
    };
    assert_eq!(head.kvs[0].value, "two");

    let rows = client.range(prefix("rows/", 10), in_time()).await;
    let rows = rows.expect("rows").kvs;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].mod_revision, revision + 1, "all in one revision");
}

/// A refusal by etcd is definite, with its reason.
#[tokio::test]
#[ignore = "make test runs it"]
async fn refusals() {
    let cluster = Cluster::start(1, &[]).await;
    let client = cluster.client();
    let txn = async |success: Vec<RequestOp>| {
        let request = TxnRequest {
            success,
            ..TxnRequest::default()
        };
        let error = client.txn(request, in_time()).await.expect_err("too much");
        assert!(!error.is_passing(), "{error}");
        assert_eq!(error.endpoint, Some(cluster.members[0].host()));
        error.outcome
    };
    let many = (0..129).map(|i| put(format!("a/{i}"), "")).collect();
    assert_eq!(
        txn(many).await,
        Outcome::Definite(Refusal::TooManyOperations)
    );
    let twice = vec![put("a/1", ""), put("a/1", "")];
    assert_eq!(txn(twice).await, Outcome::Definite(Refusal::Invalid));
    // Up to 2 MiB, etcd refuses it; beyond that, gRPC does before etcd sees it.
    for bytes in [1_700_000, 5_000_000] {
        let large = vec![put("a/1", vec![0; bytes])];
        assert_eq!(txn(large).await, Outcome::Definite(Refusal::TooLarge));
    }
    let mut leased = put_request("a/1", "");
    leased.lease = 7;
    assert_eq!(
        txn(vec![put("a/2", ""), leased.into()]).await,
        Outcome::Definite(Refusal::LeaseNotFound)
    );
    let rows = client.range(prefix("a/", 10), in_time()).await;
    assert_eq!(rows.expect("rows").kvs, [], "nothing of it was done");

    let mut old = get("a/1");
    for i in 0..5 {
        let done = client
            .put(put_request("a/1", &i.to_string()), in_time())
            .await;
        old.revision = done
            .expect("it is written")
            .header
            .expect("a header")
            .revision;
    }
    client
        .compact(old.revision, in_time())
        .await
        .expect("compacted");
    client
        .compact(old.revision, in_time())
        .await
        .expect("again");
    old.revision -= 2;
    let gone = client.range(old.clone(), in_time()).await;
    let gone = gone.expect_err("compacted");
    assert_eq!(gone.outcome, Outcome::Definite(Refusal::Compacted));
    old.revision += 100;
    let future = client.range(old, in_time()).await;
    let future = future.expect_err("not yet");
    assert_eq!(future.outcome, Outcome::Definite(Refusal::FutureRevision));
}

/// Endpoints that are closed or silent do not matter: 200 of 200 writes succeed, each once.
#[tokio::test]
#[ignore = "make test runs it"]
async fn dead_endpoints() {
    let cluster = Cluster::start(1, &[]).await;
    let live = cluster.members[0].host();
    // The kernel accepts connections for it, and no process ever answers.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent = silent.local_addr().map(|address| (address, silent));
    let (silent, _listener) = silent.expect("an address");
    let closed: Host = format!("127.0.0.1:{}", free_port())
        .parse()
        .expect("a host");
    let silent: Host = silent.to_string().parse().expect("a host");

    for (dead, others) in [
        ("closed", vec![closed.clone()]),
        ("silent", vec![silent.clone()]),
    ] {
        // Wherever the client begins.
        for run in 0..10 {
            let mut options = cluster.options();
            options.endpoints = others.clone();
            options.endpoints.push(live.clone());
            let client = Client::new(options).expect("no TLS");
            let begun = Instant::now();
            for i in 0..20 {
                let key = format!("{dead}/{run}/{i}");
                let done = client.put(put_request(&key, ""), in_time()).await;
                done.expect("another one is alive");
            }
            assert!(
                begun.elapsed() < Duration::from_secs(5),
                "{dead}: {:?}",
                begun.elapsed()
            );
            assert_eq!(client.endpoint().as_ref(), Some(&live));
        }
        let rows = client_of(&live)
            .range(prefix(format!("{dead}/"), 1000), in_time())
            .await;
        let rows = rows.expect("rows").kvs;
        let keys: HashSet<_> = rows.iter().map(|row| &row.key).collect();
        assert_eq!(keys.len(), 200);
        assert!(
            rows.iter().all(|row| row.version == 1),
            "each was written once"
        );
    }

    // If all endpoints are dead, the failure is definite and has a reason.
    let mut options = cluster.options();
    options.endpoints = vec![closed.clone(), silent];
    let client = Client::new(options).expect("no TLS");
    let deadline = Instant::now() + Duration::from_secs(3);
    let error = client.put(put_request("never", ""), deadline).await;
    let error = error.expect_err("nobody is there");
    assert_eq!(error.outcome, Outcome::Definite(Refusal::NotConnected));
    assert!(error.to_string().contains(&closed.to_string()), "{error}");
    assert!(error.is_passing());
    assert!(Instant::now() >= deadline, "until then somebody might come");
}

/// A call that gets no answer in time ends at its deadline with an unknown outcome.
#[tokio::test]
#[ignore = "make test runs it"]
async fn deadlines() {
    let cluster = Cluster::start(1, &[]).await;
    let client = cluster.client();
    client
        .put(put_request("a", ""), in_time())
        .await
        .expect("it is well");

    cluster.members[0].stop();
    let begun = Instant::now();
    let deadline = begun + Duration::from_millis(300);
    let error = client.put(put_request("b", ""), deadline).await;
    let error = error.expect_err("it is stopped");
    assert_eq!(error.outcome, Outcome::Unknown(Doubt::Deadline));
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    let error = client
        .put(put_request("c", ""), begun + Duration::from_secs(1))
        .await;
    let error = error.expect_err("it is stopped");
    assert_eq!(
        error.outcome,
        Outcome::Definite(Refusal::NotConnected),
        "nothing was sent"
    );

    cluster.members[0].resume();
    let c = client.range(get("c"), in_time()).await.expect("it is back");
    assert_eq!(c.kvs, []);
}

/// Each member reports its own status, whichever endpoint is in use.
#[tokio::test]
#[ignore = "make test runs it"]
async fn members() {
    let mut cluster = Cluster::start(3, &[]).await;
    let client = cluster.client();
    let members = client.members(in_time()).await;
    let hosts: Vec<_> = members.iter().map(|(host, _)| host.clone()).collect();
    assert_eq!(hosts, cluster.address().hosts);
    let members: Vec<_> = members
        .into_iter()
        .map(|(_, member)| member.expect("it is well"))
        .collect();
    let ids: HashSet<_> = members.iter().map(|member| member.id).collect();
    assert_eq!(ids.len(), 3);
    for member in &members {
        assert_eq!(
            support(&member.version),
            Support::Good,
            "{}",
            member.version
        );
        assert_eq!(member.cluster, members[0].cluster);
        assert!(ids.contains(&member.leader.expect("a leader")));
        assert!(member.used_bytes > 0 && member.used_bytes <= member.database_bytes);
        assert_eq!(member.errors, [""; 0]);
    }
    assert_eq!(client.alarms(in_time()).await, Ok(Vec::new()));
    assert_eq!(client.check_versions(in_time()).await, Ok(()));

    cluster.members[1].kill().await;
    let members = client.members(in_time()).await;
    let well: Vec<_> = members.iter().map(|(_, member)| member.is_ok()).collect();
    assert_eq!(well, [true, false, true]);
    assert_eq!(client.check_versions(in_time()).await, Ok(()));
    let host = cluster.members[0].host();
    client.defragment(&host, in_time()).await.expect("done");
}

fn client_of(host: &Host) -> Client {
    let address = format!("etcd://{host}").parse().expect("an address");
    Client::new(Options::new(&address)).expect("no TLS")
}
