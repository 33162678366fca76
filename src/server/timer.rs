//! The time by which hyper keeps connections alive.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use hyper_util::rt::TokioTimer;

thread_local! {
    /// When this thread has polled a connection last.
    static POLLED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Tells the time at which a connection was polled last. hyper asks with every frame, lest a client that was heard of
/// just now be pinged, and where the clock is dear, as in many virtual machines, to read it each time is a twentieth of
/// a call.
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
