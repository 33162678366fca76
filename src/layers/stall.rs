//! The task of an HTTP/2 stream. hyper does not poll a response body while its reader is stalled, so this task enforces
//! the bounds of a response, too.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;
use tracing::debug;

use super::connection::CallContext;
use super::deadline::Timer;
use super::drain::shutting_down;
use super::idle::Idle;

tokio::task_local! {
    static BOUNDS: RefCell<Option<StreamBounds>>;
}

/// The bounds of the current task's response.
struct StreamBounds {
    bounds: Bounds,
    /// Runs while the reader is stalled.
    stall: Idle,
    /// Whether a frame was handed out, and none was asked for since.
    waits_for_reader: bool,
}

/// The deadline and the shutdown of a response.
struct Bounds {
    call: Arc<CallContext>,
    deadline: Timer,
    /// A complete answer only has to be read, which a drain has time for.
    is_complete: bool,
    /// Created at the first wait: most single answers are sent at once.
    shutdown: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Bounds {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        if let Poll::Ready(exceeded) = self.deadline.poll(cx) {
            return Poll::Ready(exceeded);
        }
        let shutdown = self.shutdown.get_or_insert_with(|| {
            let token = if self.is_complete {
                &self.call.connection.ending
            } else {
                self.call.shutdown()
            };
            Box::pin(token.clone().cancelled_owned())
        });
        shutdown.as_mut().poll(cx).map(|()| shutting_down())
    }
}

/// Sets the bounds of the current task's response. It waits for its reader from the beginning if it is complete.
pub(super) fn bound(call: Arc<CallContext>, is_complete: bool) {
    let bounds = StreamBounds {
        stall: Idle::new(call.connection.stream_idle_timeout),
        bounds: Bounds {
            deadline: Timer::new(call.deadline),
            call,
            is_complete,
            shutdown: None,
        },
        waits_for_reader: is_complete,
    };
    BOUNDS.with(|of_task| *of_task.borrow_mut() = Some(bounds));
}

/// Resolves to a status when the response has to end.
pub(super) fn poll_end(cx: &mut Context<'_>) -> Poll<Status> {
    with_bounds(|stream| stream.bounds.poll(cx)).unwrap_or(Poll::Pending)
}

/// Records the result of polling the response for a frame.
pub(super) fn note<T>(frame: &Poll<T>) {
    with_bounds(|stream| {
        stream.stall.moved();
        stream.waits_for_reader = frame.is_ready();
    });
}

/// Calls `ask` with the bounds of the current task's response, if it has any.
fn with_bounds<T>(ask: impl FnOnce(&mut StreamBounds) -> T) -> Option<T> {
    BOUNDS.with(|bounds| bounds.borrow_mut().as_mut().map(ask))
}

/// Runs a future as the task of a stream.
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
        // A reader that has just resumed gets its trailers; any other gets a reset, because the task ends.
        if stream.poll(cx).is_pending() {
            debug!("ended a stream whose peer does not read");
        }
        Poll::Ready(())
    }
}
