//! The clock of hyper's keep-alive.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use hyper_util::rt::TokioTimer;

thread_local! {
    /// The time at which this thread last polled a connection.
    static POLLED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// A timer whose clock is the last poll of a connection. hyper reads the clock with every frame, so as not to ping a
/// client that was active just now. On machines with a slow clock, as many virtual machines have, reading it anew each
/// time is a twentieth of a call.
#[derive(Clone, Debug)]
pub(super) struct PolledTimer;

impl Timer for PolledTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        TokioTimer::new().sleep(duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        TokioTimer::new().sleep_until(deadline)
    }

    fn now(&self) -> Instant {
        POLLED.get().unwrap_or_else(Instant::now)
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn Sleep>>, deadline: Instant) {
        TokioTimer::new().reset(sleep, deadline);
    }
}

/// Runs a connection that has a [`PolledTimer`].
pub(super) async fn run<F: Future>(mut connection: Pin<&mut F>) -> F::Output {
    poll_fn(|cx| {
        POLLED.set(Some(Instant::now()));
        connection.as_mut().poll(cx)
    })
    .await
}
