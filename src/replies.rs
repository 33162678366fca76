//! Streams of answers, each produced by a task of its own.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// Answers that wait for a stream's reader, beside those that HTTP/2 buffers.
const WAITING: usize = 2;

/// The producer's end.
pub struct Replies<A>(mpsc::Sender<A>);

/// Capacity for one answer.
pub struct Room<A>(mpsc::OwnedPermit<A>);

impl<A> Replies<A> {
    /// Sends an answer once there is capacity.
    pub async fn send(&self, answer: A) {
        self.room().await.send(answer);
    }

    /// Waits for capacity. A producer that waits before it makes an answer holds no memory for it.
    pub async fn room(&self) -> Room<A> {
        match self.0.clone().reserve_owned().await {
            Ok(room) => Room(room),
            // The reader is gone, and this task is about to be aborted.
            Err(_) => std::future::pending().await,
        }
    }
}

impl<A> Room<A> {
    /// Sends an answer.
    pub fn send(self, answer: A) {
        self.0.send(answer);
    }
}

/// The reader's end: all answers, then the producer's error if it has one. Dropping it aborts the producer.
pub struct ReplyStream<A, E> {
    producer: Option<AbortOnDropHandle<Result<(), E>>>,
    answers: mpsc::Receiver<A>,
}

/// Spawns a producer as a task of its own: it may hold a place in a queue, and a future that is not polled would block
/// the queue when its turn comes.
pub fn spawn<A, E, F>(producer: impl FnOnce(Replies<A>) -> F) -> ReplyStream<A, E>
where
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: Send + 'static,
{
    let (sender, answers) = mpsc::channel(WAITING);
    let producer = tokio::spawn(producer(Replies(sender)));
    ReplyStream {
        producer: Some(AbortOnDropHandle::new(producer)),
        answers,
    }
}

impl<A, E> Stream for ReplyStream<A, E> {
    type Item = Result<A, E>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        // Answers sent before the end come first.
        if let Some(answer) = ready!(this.answers.poll_recv(cx)) {
            return Poll::Ready(Some(Ok(answer)));
        }
        let Some(producer) = &mut this.producer else {
            return Poll::Ready(None);
        };
        let end = ready!(Pin::new(producer).poll(cx));
        this.producer = None;
        match end {
            Ok(end) => Poll::Ready(end.err().map(Err)),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
}
