//! Detection of inactivity, with one timer per period instead of one per event.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// A wait that ends once nothing has moved for at least the timeout and at most twice the timeout.
pub(super) struct Idle {
    timeout: Duration,
    /// Created at the first wait.
    timer: Option<Pin<Box<Sleep>>>,
    /// Whether something has moved since the timer was set.
    moved: bool,
}

impl Idle {
    pub(super) fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            timer: None,
            moved: false,
        }
    }

    pub(super) fn moved(&mut self) {
        self.moved = true;
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Duration> {
        let timeout = self.timeout;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(timeout)));
        while timer.as_mut().poll(cx).is_ready() {
            if !std::mem::take(&mut self.moved) {
                return Poll::Ready(timeout);
            }
            timer.as_mut().reset(Instant::now() + timeout);
        }
        Poll::Pending
    }
}
