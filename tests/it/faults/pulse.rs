//! Clients that send requests without a pause, to measure how long none was answered.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::crash::history::{History, Moment};
use crate::crash::link::Link;
use crate::crash::operation::{Add, Operation};
use crate::crash::writers;

/// The time of a node's last answer.
pub type Served = watch::Receiver<Moment>;

/// The group of increments that any node may answer.
pub const ANY: &str = "any";

/// Pause between an answer and the next request.
const PAUSE: Duration = Duration::from_millis(5);

/// Increments a counter of its own, and reports each answer.
pub async fn pulse(mut link: Link, group: String, told: watch::Sender<Moment>) -> History {
    let mut history = History::default();
    let counter = link.context.names.of(&group, 0);
    while !link.stopped() {
        let operation = Operation::Increment(Add::new(counter.clone(), 1));
        writers::change(&mut link, operation, &mut history).await;
        told.send_replace(link.context.clock.now());
        sleep(PAUSE).await;
    }
    history
}
