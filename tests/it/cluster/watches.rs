//! Watches that move from node to node.

use std::collections::BTreeMap;

use sumd::proto::sum::v1::WatchCountersRequest;
use tonic::Code;

use super::process::Node;
use crate::counters::watch::{View, delete, prefix};
use crate::etcd::cluster::Cluster;
use crate::support::{reason, soon};

/// The watched counters, watched both by name and by prefix.
const WATCHED: [&str; 4] = ["acme/1", "acme/2", "acme/3", "acme/4"];

fn names() -> WatchCountersRequest {
    WatchCountersRequest {
        counters: WATCHED.map(str::to_owned).into(),
        ..WatchCountersRequest::default()
    }
}

/// The expected state.
#[derive(Default)]
struct Truth {
    counters: BTreeMap<String, i64>,
    revision: i64,
}

impl Truth {
    async fn add(&mut self, node: &Node, counter: &str) {
        let answer = soon(node.increment(counter, "")).await;
        let answer = answer.expect("nothing is wrong with it");
        self.counters.insert(counter.to_owned(), answer.value);
        self.revision = answer.revision;
    }

    async fn delete(&mut self, node: &Node, counter: &str) {
        self.revision = delete(&mut node.counters(), counter).await;
        self.counters.remove(counter);
    }

    /// Reads until all changes have arrived, and compares the state.
    async fn is_told(&self, view: &mut View) {
        view.until(self.revision).await;
        let mut told = view.values();
        // A counter that is watched by name may be reported as absent.
        told.retain(|(_, value)| *value != 0);
        let truth = self.counters.iter();
        let truth: Vec<_> = truth.map(|(name, value)| (&**name, *value)).collect();
        assert_eq!(told, truth);
    }
}

/// A watch that resumes at any other node, even one without earlier watchers, gets the changes of the meantime: new,
/// deleted and re-created counters.
#[tokio::test]
#[ignore = "make test runs it"]
async fn a_watch_goes_on_at_another_node() {
    let etcd = Cluster::guarded(1).await;
    let address = etcd.address();
    let a = Node::start(&address, "a").await;
    let b = Node::start(&address, "b").await;
    for request in [prefix("acme/", 0), names()] {
        let mut truth = Truth::default();
        for name in WATCHED {
            truth.delete(&a, name).await;
        }
        truth.add(&a, WATCHED[0]).await;
        truth.add(&a, WATCHED[1]).await;
        let mut view = View::open(&mut a.counters(), request.clone()).await;
        view.until_synced().await;
        for round in 0..6 {
            let (here, there) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
            truth.add(here, WATCHED[0]).await;
            truth.is_told(&mut view).await;

            truth.delete(there, WATCHED[1]).await;
            truth.add(here, WATCHED[2]).await;
            truth.delete(here, WATCHED[0]).await;
            truth.add(there, WATCHED[0]).await;
            view.resume(&mut there.counters(), request.clone()).await;
            truth.is_told(&mut view).await;
            truth.add(here, WATCHED[1]).await;
            truth.delete(there, WATCHED[2]).await;
            truth.add(there, WATCHED[3]).await;
            truth.is_told(&mut view).await;
        }
        if request.counters.is_empty() {
            assert_eq!(view.restarts, 1, "no deletion was forgotten");
        }
    }
}

/// A watch whose node stops in the midst of changes resumes at another node, and then at the first one again, which has
/// forgotten everything that it sent.
#[tokio::test]
#[ignore = "make test runs it"]
async fn a_watch_outlives_its_node() {
    let etcd = Cluster::guarded(1).await;
    let address = etcd.address();
    let b = Node::start(&address, "b").await;
    for (request, signal) in [
        (prefix("acme/", 0), "KILL"),
        (names(), "KILL"),
        (prefix("acme/", 0), "TERM"),
        (names(), "TERM"),
    ] {
        let mut a = Node::start(&address, "a").await;
        let mut truth = Truth::default();
        for name in WATCHED {
            truth.delete(&b, name).await;
            truth.add(&b, name).await;
        }
        let mut view = View::open(&mut a.counters(), request.clone()).await;
        view.until_synced().await;
        let changes = async {
            for i in 0..120 {
                truth.add(&b, WATCHED[i % 3]).await;
                if i % 12 == 11 {
                    truth.delete(&b, WATCHED[i % 3]).await;
                }
                if i == 60 {
                    a.process.signal(signal);
                }
            }
        };
        let watch = async {
            loop {
                if let Err(end) = view.try_next().await {
                    break end;
                }
            }
        };
        let ((), end) = tokio::join!(changes, watch);
        if signal == "TERM" {
            assert_eq!(end.code(), Code::Unavailable, "{end:?}");
            assert_eq!(reason(&end).0, "SHUTTING_DOWN");
        }
        view.resume(&mut b.counters(), request.clone()).await;
        truth.is_told(&mut view).await;
        drop(a.channel);
        a.process.exit().await;

        truth.delete(&b, WATCHED[0]).await;
        let mut a = Node::start(&address, "a").await;
        truth.add(&b, WATCHED[1]).await;
        view.resume(&mut a.counters(), request).await;
        truth.is_told(&mut view).await;
        truth.delete(&b, WATCHED[1]).await;
        truth.is_told(&mut view).await;
        a.process.signal("TERM");
        drop((view, a.channel));
        assert!(a.process.exit().await.success());
    }
}
