//! How answers get back to the threads that wait for them.
//!
//! A lane answers thousands of requests at once. Were each told by itself, the first would be sent to its client while the
//! lane tells the second, and every answer would be a wake-up and a packet of its own. So answers go back a thread at a
//! time, and are handed out there.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot};

use super::error::{Decided, LaneError, Result, ended_by};
use crate::model::Request;

/// Who waits for an answer.
pub(super) enum ReplyTo {
    Single(oneshot::Sender<Result<Decided>>),
    Stream(StreamReplies),
    Then(Box<dyn FnOnce(Result<Decided>) + Send>),
}

impl ReplyTo {
    /// Those who have stopped waiting are not missed.
    fn complete(self, answer: Result<Decided>) {
        match self {
            Self::Single(reply_to) => drop(reply_to.send(answer)),
            Self::Stream(reply_to) => reply_to.complete(answer),
            Self::Then(done) => done(answer),
        }
    }
}

/// A stream that waits for the answers of all its requests. Since it has a sender of its own, it would not notice that one is never
/// answered: so one that is dropped with a lane that has died tells it that nobody knows.
pub(super) struct StreamReplies(Option<mpsc::UnboundedSender<Result<Decided>>>);

impl StreamReplies {
    pub(super) fn new(answers: mpsc::UnboundedSender<Result<Decided>>) -> Self {
        Self(Some(answers))
    }

    fn complete(mut self, answer: Result<Decided>) {
        if let Some(answers) = self.0.take() {
            let _ = answers.send(answer);
        }
    }

    /// Its request was not queued, which the stream is told otherwise.
    pub(super) fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for StreamReplies {
    fn drop(&mut self) {
        if let Some(answers) = self.0.take() {
            let _ = answers.send(Err(LaneError::Unknown(ended_by("has ended"))));
        }
    }
}

/// Who is told what, and what was asked: it goes back to be freed, for memory that one thread has allocated and another frees is
/// dear to both.
pub(super) type Completion = (ReplyTo, Result<Decided>, Box<Request>);

/// Hands answers out: a queue for each runtime that has callers. Queues are known by their numbers, since to count
/// references from several threads would cost more than the rest of it.
#[derive(Clone, Default)]
pub(super) struct CompletionQueues(Arc<Mutex<Vec<mpsc::UnboundedSender<Vec<Completion>>>>>);

impl CompletionQueues {
    /// Opens a queue on the runtime that this is called on.
    pub(super) fn open(&self) -> usize {
        let (sender, mut answers) = mpsc::unbounded_channel::<Vec<Completion>>();
        tokio::spawn(async move {
            while let Some(answers) = answers.recv().await {
                for (reply_to, answer, _asked) in answers {
                    reply_to.complete(answer);
                }
            }
        });
        let mut completion_queues = self.lock();
        completion_queues.push(sender);
        completion_queues.len() - 1
    }

    fn lock(&self) -> MutexGuard<'_, Vec<mpsc::UnboundedSender<Vec<Completion>>>> {
        // One more or one less: it is whole in between.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers on their way, by the queue that they go to.
#[derive(Default)]
pub(super) struct CompletionBatch(Vec<Vec<Completion>>);

impl CompletionBatch {
    pub(super) fn put(&mut self, completion_queue: usize, completion: Completion) {
        if self.0.len() <= completion_queue {
            self.0.resize_with(completion_queue + 1, Vec::new);
        }
        self.0[completion_queue].push(completion);
    }

    pub(super) fn send(self, completion_queues: &CompletionQueues) {
        let completion_queues = completion_queues.lock();
        let answers = self.0.into_iter().zip(&*completion_queues);
        for (answers, completion_queue) in answers.filter(|(answers, _)| !answers.is_empty()) {
            // Nobody waits at a queue that is gone.
            let _ = completion_queue.send(answers);
        }
    }
}
