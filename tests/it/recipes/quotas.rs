//! Quotas by period, and budgets that refill.

use std::time::SystemTime;

use sumd::proto::sum::v1::{IncrementCounterRequest, OnLimit};
use tokio::task::JoinSet;

use super::{MINUTE, Server, ago, request};
use crate::support::{reason, soon};

const QUOTA: &str = "acme/quota/2026-11-30";

fn limited(id: &str, delta: i64, max: i64, on_limit: OnLimit) -> IncrementCounterRequest {
    IncrementCounterRequest {
        max: Some(max),
        on_limit: on_limit.into(),
        ..request(QUOTA, delta, id, ago(MINUTE))
    }
}

#[tokio::test]
async fn a_refusal_is_final_for_its_id() {
    let mut server = Server::start(&[]).await;
    let first = limited("job-1", 8, 10, OnLimit::Reject);
    assert_eq!(server.counted(&first).await, (8, false));
    let over = limited("job-2", 5, 10, OnLimit::Reject);
    let refused = server.increment(&over).await.expect_err("13 is over");
    let (_, told) = reason(&refused);
    assert_eq!(
        (&*told["value"], &*told["delta"], &*told["max"]),
        ("8", "5", "10")
    );

    // There is room by now, and after a crash, too.
    let back = request(QUOTA, -8, "job-1/back", ago(MINUTE));
    assert_eq!(server.counted(&back).await, (0, false));
    let mut server = server.crash().await;
    let again = server.increment(&over).await.expect_err("the first answer");
    assert_eq!(reason(&again), reason(&refused));
    let anew = limited("job-2/2", 5, 10, OnLimit::Reject);
    assert_eq!(server.counted(&anew).await, (5, false));

    // A retry says what the first attempt said.
    let raised = limited("job-2/2", 5, 20, OnLimit::Reject);
    assert_eq!(server.refused(&raised).await, "REQUEST_ID_REUSED");
}

#[tokio::test]
async fn saturation_takes_what_is_left() {
    let mut server = Server::start(&[]).await;
    for (id, applied, value) in [("a", 6, 6), ("b", 4, 10), ("c", 0, 10)] {
        let request = limited(id, 6, 10, OnLimit::Saturate);
        let taken = server.increment(&request).await.expect("what is left");
        assert_eq!((taken.applied, taken.value), (applied, value));
        // A retry is told the same amount.
        let again = server.increment(&request).await.expect("the first answer");
        assert_eq!((again.applied, again.replayed), (applied, true));
    }
}

/// Units are given back even if the quota was lowered below the value; and the next period has nothing to do with it.
#[tokio::test]
async fn units_are_given_back_to_a_quota_that_was_lowered() {
    let mut server = Server::start(&[]).await;
    server.counted(&limited("a", 10, 10, OnLimit::Reject)).await;
    let back = limited("a/back", -2, 5, OnLimit::Reject);
    assert_eq!(server.counted(&back).await, (8, false));
    assert_eq!(
        server.refused(&limited("b", 1, 5, OnLimit::Reject)).await,
        "LIMIT_REACHED"
    );
    let tomorrow = IncrementCounterRequest {
        counter: "acme/quota/2026-12-01".into(),
        ..limited("c", 5, 5, OnLimit::Reject)
    };
    assert_eq!(server.counted(&tomorrow).await, (5, false));
    assert_eq!(server.value(QUOTA).await, 8);
}

fn refill(minute: SystemTime) -> IncrementCounterRequest {
    let since_1970 = minute.duration_since(SystemTime::UNIX_EPOCH);
    let number = since_1970.expect("after 1970").as_secs() / 60;
    IncrementCounterRequest {
        max: Some(150),
        on_limit: OnLimit::Saturate.into(),
        ..request("acme/budget", 100, &format!("refill-{number}"), minute)
    }
}

fn take(units: i64) -> IncrementCounterRequest {
    IncrementCounterRequest {
        counter: "acme/budget".into(),
        delta: -units,
        min: Some(0),
        ..IncrementCounterRequest::default()
    }
}

/// A budget gets the rate once a period, however many refill it; a late refill adds nothing.
#[tokio::test]
async fn a_budget_is_refilled_once_a_period() {
    let mut server = Server::start(&[]).await;
    let minute = ago(3 * MINUTE);
    let mut refilling = JoinSet::new();
    for _ in 0..8 {
        let mut client = server.client.clone();
        let request = refill(minute);
        refilling.spawn(async move { client.increment_counter(request).await });
    }
    let answers = soon(refilling.join_all()).await;
    let answers = answers.into_iter().map(|answer| answer.expect("a refill"));
    let first = answers.filter(|answer| !answer.get_ref().replayed);
    assert_eq!(first.count(), 1);

    assert_eq!(server.counted(&take(30)).await, (70, false));
    assert_eq!(server.refused(&take(71)).await, "LIMIT_REACHED");
    // No more than the largest burst.
    let mut server = server.crash().await;
    let next = refill(minute + MINUTE);
    assert_eq!(server.counted(&next).await, (150, false));
    assert_eq!(server.counted(&take(150)).await, (0, false));
    assert_eq!(server.counted(&next).await, (150, true));
    assert_eq!(server.refused(&take(1)).await, "LIMIT_REACHED");
    let late = refill(ago(11 * MINUTE));
    assert_eq!(server.refused(&late).await, "REQUEST_TOO_OLD");
}
