//! Notices that nothing moves, at the cost of a timer a period and not one a move.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// Resolves once nothing has moved for at least the timeout, and at most twice that.
pub(super) struct Idle {
    timeout: Duration,
    /// Runs from the first wait on.
    timer: Option<Pin<Box<Sleep>>>,
    /// Something has moved since the timer was set.
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
