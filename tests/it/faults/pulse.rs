//! Clients who ask without a pause, to tell for how long nobody was answered.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::crash::history::{History, Moment};
use crate::crash::link::Link;
use crate::crash::operation::{Add, Operation};
use crate::crash::writers;

/// When a node has answered last.
pub type Served = watch::Receiver<Moment>;

/// The group that the increments are made in by those who ask any node.
pub const ANY: &str = "any";

/// Between an answer and the next question.
const PAUSE: Duration = Duration::from_millis(5);

/// Increments a counter of its own, and tells of each answer.
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
