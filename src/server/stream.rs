//! The task of an HTTP/2 stream. hyper does not ask a response for more while its reader takes nothing,
//! so what bounds a response that goes on is watched from outside of it, too.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tonic::Status;
use tracing::debug;

use super::call::Watch;
use super::idle::Idle;

tokio::task_local! {
    static BOUNDS: RefCell<Option<StreamBounds>>;
}

/// What holds for the response of the stream whose task this is.
struct StreamBounds {
    watch: Watch,
    /// How long the reader has taken nothing.
    stall: Idle,
    /// A frame was handed out, and no more was asked for since.
    waits_for_reader: bool,
}

/// Holds the response of this task's stream to bounds.
pub(super) fn bound(watch: Watch, stall_timeout: Duration) {
    BOUNDS.with(|bounds| {
        *bounds.borrow_mut() = Some(StreamBounds {
            watch,
            stall: Idle::new(stall_timeout),
            waits_for_reader: false,
        });
    });
}

/// Whether the response has to end.
pub(super) fn poll_end(cx: &mut Context<'_>) -> Poll<Status> {
    with_bounds(|bounds| bounds.watch.poll(cx)).unwrap_or(Poll::Pending)
}

/// Notes what came of asking the response for a frame.
pub(super) fn note<T>(frame: &Poll<T>) {
    with_bounds(|bounds| {
        bounds.stall.moved();
        bounds.waits_for_reader = frame.is_ready();
    });
}

/// Asks the bounds of this task's stream, if it has any.
fn with_bounds<T>(ask: impl FnOnce(&mut StreamBounds) -> T) -> Option<T> {
    BOUNDS.with(|bounds| bounds.borrow_mut().as_mut().map(ask))
}

/// Spawns the tasks of a connection's streams.
#[derive(Clone, Copy)]
pub(super) struct Streams;

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
        let end = with_bounds(|bounds| {
            if !bounds.waits_for_reader {
                return Poll::Pending;
            }
            match bounds.watch.poll(cx) {
                Poll::Ready(_) => Poll::Ready(()),
                Poll::Pending => bounds.stall.poll(cx).map(|_| ()),
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
