//! Inventories: several counters at once, and what undoes that.

use std::time::SystemTime;

use sumd::proto::sum::v1::BatchIncrementCountersRequest;
use tonic::Status;

use super::{MINUTE, Server, ago, batch, not_applied};
use crate::support::{reason, soon};

/// The moves of an order for one tea and one cup.
const RESERVE: [(&str, i64); 4] = [
    ("shop/stock/tea", -1),
    ("shop/reserved/tea", 1),
    ("shop/stock/cup", -1),
    ("shop/reserved/cup", 1),
];

fn reserve(id: &str, time: SystemTime) -> BatchIncrementCountersRequest {
    batch(id, time, &RESERVE)
}

fn cancel(id: &str, time: SystemTime) -> BatchIncrementCountersRequest {
    batch(id, time, &RESERVE.map(|(counter, delta)| (counter, -delta)))
}

impl Server {
    /// Whether the batch was answered before.
    async fn batch(&mut self, batch: &BatchIncrementCountersRequest) -> Result<bool, Status> {
        let answer = soon(self.client.batch_increment_counters(batch.clone())).await;
        answer.map(|answer| answer.get_ref().replayed)
    }

    async fn deliver(&mut self, tea: i64, cups: i64) {
        let goods = [("shop/stock/tea", tea), ("shop/stock/cup", cups)];
        let delivered = self.batch(&batch("delivery-1", ago(MINUTE), &goods)).await;
        assert!(!delivered.expect("delivered"));
    }

    /// In stock and reserved: tea, and cups.
    async fn goods(&mut self) -> [i64; 4] {
        let mut goods = [0; 4];
        for (amount, (counter, _)) in goods.iter_mut().zip(RESERVE) {
            *amount = self.value(counter).await;
        }
        goods
    }
}

#[tokio::test]
async fn a_reservation_is_made_as_a_whole_and_once() {
    let mut server = Server::start(&[]).await;
    server.deliver(3, 1).await;
    let first = reserve("order-7/reserve", ago(MINUTE));
    assert!(!server.batch(&first).await.expect("reserved"));
    let mut server = server.crash().await;
    assert!(server.batch(&first).await.expect("reserved before"));
    assert_eq!(server.goods().await, [2, 1, 0, 1]);

    // There is tea, and no cup.
    let second = reserve("order-8/reserve", ago(MINUTE));
    let refused = server.batch(&second).await.expect_err("no cup");
    let (_, told) = reason(&refused);
    assert_eq!(not_applied(&refused), "LIMIT_REACHED");
    let told = ["index", "counter", "value", "min"].map(|key| &*told[key]);
    assert_eq!(told, ["2", "shop/stock/cup", "0", "0"]);
    assert_eq!(server.goods().await, [2, 1, 0, 1]);
    assert_eq!(server.sum("shop/").await, 4, "the books balance");

    // Once there is a cup, the order needs another id.
    let cup = batch("delivery-2", ago(MINUTE), &[("shop/stock/cup", 1)]);
    server.batch(&cup).await.expect("delivered");
    let again = server.batch(&second).await.expect_err("the first answer");
    assert_eq!(not_applied(&again), "LIMIT_REACHED");
    let anew = reserve("order-8/reserve-2", ago(MINUTE));
    assert!(!server.batch(&anew).await.expect("reserved"));
    assert_eq!(server.goods().await, [1, 2, 0, 2]);
}

#[tokio::test]
async fn a_cancellation_counts_once() {
    let mut server = Server::start(&[]).await;
    server.deliver(3, 1).await;
    let first = reserve("order-7/reserve", ago(MINUTE));
    assert!(!server.batch(&first).await.expect("reserved"));
    let back = cancel("order-7/cancel", ago(MINUTE));
    assert!(!server.batch(&back).await.expect("cancelled"));
    let mut server = server.crash().await;
    assert!(server.batch(&back).await.expect("cancelled before"));
    assert_eq!(server.goods().await, [3, 0, 1, 0]);

    // Another id is another cancellation, of which nothing is reserved any more.
    let twice = cancel("order-7/cancel-again", ago(MINUTE));
    let refused = server.batch(&twice).await.expect_err("nothing is reserved");
    assert_eq!(not_applied(&refused), "LIMIT_REACHED");
    assert_eq!(server.goods().await, [3, 0, 1, 0]);
}

/// A step that comes late is refused, and whether it was made before is seen in what is reserved.
#[tokio::test]
async fn a_late_step_is_refused() {
    let mut server = Server::start(&[]).await;
    server.deliver(1, 1).await;
    let late = reserve("order-7/reserve", ago(11 * MINUTE));
    let refused = server.batch(&late).await.expect_err("too old");
    assert_eq!(not_applied(&refused), "REQUEST_TOO_OLD");
    assert_eq!(server.sum("shop/reserved/").await, 0);
}

#[tokio::test]
async fn counters_of_two_groups_do_not_change_together() {
    let mut server = Server::start(&[]).await;
    let both = [("shop/stock/tea", 1), ("depot/stock/tea", 1)];
    let refused = server.batch(&batch("delivery-1", ago(MINUTE), &both)).await;
    let refused = refused.expect_err("two groups");
    assert_eq!(not_applied(&refused), "INVALID_ARGUMENT");
    assert_eq!(server.sum("").await, 0);
}
