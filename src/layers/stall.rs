//! The task of an HTTP/2 stream. hyper does not poll a response's body while its reader takes nothing, so the bounds of a
//! response that goes on are watched from outside of it, too.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;
use tracing::debug;

use super::deadline::Timer;
use super::drain::shutting_down;
use super::idle::Idle;

tokio::task_local! {
    static BOUNDS: RefCell<Option<StreamBounds>>;
}

/// The bounds of the response of the stream whose task this is.
struct StreamBounds {
    bounds: Bounds,
    /// Runs while the reader takes nothing.
    stall: Idle,
    /// A frame was handed out, and none was asked for since.
    waits_for_reader: bool,
}

/// The deadline and the shutdown of a response that goes on after its headers.
pub(super) struct Bounds {
    deadline: Timer,
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Bounds {
    pub(super) fn new(deadline: Option<Instant>, shutdown: &CancellationToken) -> Self {
        Self {
            deadline: Timer::new(deadline),
            shutdown: Box::pin(shutdown.clone().cancelled_owned()),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        if let Poll::Ready(exceeded) = self.deadline.poll(cx) {
            return Poll::Ready(exceeded);
        }
        self.shutdown.as_mut().poll(cx).map(|()| shutting_down())
    }
}

/// Holds the response of this task's stream to bounds.
pub(super) fn bound(bounds: Bounds, stall_timeout: Duration) {
    BOUNDS.with(|of_task| {
        *of_task.borrow_mut() = Some(StreamBounds {
            bounds,
            stall: Idle::new(stall_timeout),
            waits_for_reader: false,
        });
    });
}

/// Whether the response has to end.
pub(super) fn poll_end(cx: &mut Context<'_>) -> Poll<Status> {
    with_bounds(|stream| stream.bounds.poll(cx)).unwrap_or(Poll::Pending)
}

/// Notes the result of asking the response for a frame.
pub(super) fn note<T>(frame: &Poll<T>) {
    with_bounds(|stream| {
        stream.stall.moved();
        stream.waits_for_reader = frame.is_ready();
    });
}

/// Asks the bounds of this task's stream, if it has any.
fn with_bounds<T>(ask: impl FnOnce(&mut StreamBounds) -> T) -> Option<T> {
    BOUNDS.with(|bounds| bounds.borrow_mut().as_mut().map(ask))
}

/// Runs a future as if it were the task of a stream.
#[cfg(test)]
pub(super) async fn scope<F: Future>(stream: F) -> F::Output {
    BOUNDS.scope(RefCell::new(None), stream).await
}

/// Spawns the tasks of a connection's streams.
#[derive(Clone, Copy)]
pub struct Streams;

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        tokio::spawn(BOUNDS.scope(RefCell::new(None), Bounded { stream }));
    }
}

pin_project_lite::pin_project! {
    struct Bounded<F> {
        #[pin]
        stream: F,
    }
}

impl<F: Future<Output = ()>> Future for Bounded<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut stream = self.project().stream;
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let end = with_bounds(|of_stream| {
            if !of_stream.waits_for_reader {
                return Poll::Pending;
            }
            match of_stream.bounds.poll(cx) {
                Poll::Ready(_) => Poll::Ready(()),
                Poll::Pending => of_stream.stall.poll(cx).map(|_| ()),
            }
        });
        ready!(end.unwrap_or(Poll::Pending));
        // A reader that has just come back gets its trailers; the others a reset, as the task ends.
        if stream.poll(cx).is_pending() {
            debug!("ended a stream whose reader takes nothing");
        }
        Poll::Ready(())
    }
}
