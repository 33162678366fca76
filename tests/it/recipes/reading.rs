//! Reading: sums over prefixes, several counters at one moment, and watches that go on.

use std::time::SystemTime;

use sumd::proto::sum::v1::{
    BatchGetCountersRequest, Consistency, DeleteCounterRequest, IncrementCounterRequest,
    SumCountersRequest,
};

use super::{Server, request};
use crate::counters::watch::{View, prefix};
use crate::support::{reason, soon};

fn plain(counter: &str, delta: i64) -> IncrementCounterRequest {
    IncrementCounterRequest {
        counter: counter.into(),
        delta,
        ..IncrementCounterRequest::default()
    }
}

#[tokio::test]
async fn a_report_is_a_sum_over_a_prefix() {
    let mut server = Server::start(&[]).await;
    let mut last = 0;
    for (counter, delta) in [
        ("acme/2026-11/api-calls", 120),
        ("acme/2026-11/logins", 3),
        ("acme/2026-12/logins", 4),
    ] {
        let answer = server.increment(&plain(counter, delta)).await;
        last = answer.expect("counted").revision;
    }
    let prefix = "acme/2026-11/".to_owned();
    let sum = soon(server.client.sum_counters(SumCountersRequest { prefix })).await;
    let sum = sum.expect("a sum").into_inner();
    assert_eq!((sum.sum, sum.count, sum.revision), (123, 2, last));
    assert_eq!(server.sum("acme/2026-1").await, 127, "both months");

    for counter in ["big/a", "big/b"] {
        server.counted(&plain(counter, i64::MAX)).await;
    }
    let prefix = "big/".to_owned();
    let over = soon(server.client.sum_counters(SumCountersRequest { prefix })).await;
    let (reason, metadata) = reason(&over.expect_err("it does not fit"));
    assert_eq!(reason, "SUM_OUT_OF_RANGE");
    assert_eq!(metadata["sum"], (2 * i128::from(i64::MAX)).to_string());
}

/// With the revision of one's own change, a read shows that change.
#[tokio::test]
async fn a_read_shows_ones_own_change() {
    let mut server = Server::start(&[]).await;
    for value in 1..=50 {
        let own = server.increment(&plain("shop/stock/tea", 1)).await;
        for consistency in [Consistency::Linearizable, Consistency::StaleOk] {
            let asked = BatchGetCountersRequest {
                counters: vec!["shop/stock/tea".into(), "shop/stock/cup".into()],
                consistency: consistency.into(),
                min_revision: own.as_ref().expect("counted").revision,
            };
            let read = soon(server.client.batch_get_counters(asked)).await;
            let read = read.expect("counters").into_inner().counters;
            let values: Vec<_> = read.iter().map(|counter| counter.value).collect();
            assert_eq!(values, [value, 0]);
        }
    }
}

/// A watch goes on where it was, after a crash as well: with what has changed, and what was deleted.
#[tokio::test]
async fn a_dashboard_goes_on_after_a_crash() {
    let mut server = Server::start(&[]).await;
    let now = SystemTime::now();
    for (id, option) in [("ann", "yes"), ("bob", "no"), ("eve", "void")] {
        let vote = request(&format!("ballot-7/{option}"), 1, id, now);
        server.counted(&vote).await;
    }
    let mut view = View::open(&mut server.client, prefix("ballot-7/", 0)).await;
    view.until_synced().await;
    assert_eq!(view.restarts, 1, "the whole state");

    let mut server = server.crash().await;
    let vote = request("ballot-7/yes", 1, "sue", now);
    server.counted(&vote).await;
    let deleted = DeleteCounterRequest {
        counter: "ballot-7/void".into(),
        ..DeleteCounterRequest::default()
    };
    let deleted = soon(server.client.delete_counter(deleted)).await;
    let deleted = deleted.expect("deleted").into_inner().revision;
    let request = prefix("ballot-7/", 0);
    view.resume(&mut server.client, request.clone()).await;
    let news = view.next().await;
    assert_eq!(news.counters.len(), 1, "only what has changed");
    view.until(deleted).await;
    assert_eq!(view.values(), [("ballot-7/no", 1), ("ballot-7/yes", 2)]);
    assert_eq!(view.restarts, 1);

    // Other data, which have not come so far: the state begins anew.
    let mut other = Server::start(&[]).await;
    other.counted(&plain("ballot-7/yes", 9)).await;
    let mut view = View::open(&mut other.client, prefix("ballot-7/", deleted)).await;
    assert!(view.next().await.restarted);
    assert_eq!(view.values(), [("ballot-7/yes", 9)]);
}
