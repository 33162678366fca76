//! The delivery of answers to the threads that wait for them.
//!
//! A lane answers thousands of requests at once. If it delivered each answer separately, the first would be sent to its
//! client while the lane delivers the second, and every answer would cost a wake-up and a packet of its own. So answers
//! are sent to a thread together, and delivered there.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot};

use super::error::{Decided, LaneError, Result, ended_by};
use crate::model::Request;

/// The recipient of an answer.
pub(super) enum ReplyTo {
    Single(oneshot::Sender<Result<Decided>>),
    Stream(StreamReplies),
    Then(Box<dyn FnOnce(Result<Decided>) + Send>),
}

impl ReplyTo {
    /// Delivers the answer. A recipient that has stopped waiting is ignored.
    fn complete(self, answer: Result<Decided>) {
        match self {
            Self::Single(reply_to) => drop(reply_to.send(answer)),
            Self::Stream(reply_to) => reply_to.complete(answer),
            Self::Then(done) => done(answer),
        }
    }
}

/// A stream that waits for the answers of all its requests. It holds a sender of its own, so it would not notice a
/// missing answer. So if this is dropped without an answer, as when its lane dies, the stream gets an unknown outcome.
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

    /// Drops this without an answer: the request was not queued, and the stream gets to know otherwise.
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

/// An answer, its recipient, and the request, which is freed on the thread that allocated it: cross-thread frees are
/// slow for both threads.
pub(super) type Completion = (ReplyTo, Result<Decided>, Box<Request>);

/// The queues that deliver answers, one for each runtime that has callers. They are known by their numbers: to count
/// references from several threads would cost more than all the rest.
#[derive(Clone, Default)]
pub(super) struct CompletionQueues(Arc<Mutex<Vec<mpsc::UnboundedSender<Vec<Completion>>>>>);

impl CompletionQueues {
    /// Opens a queue on the current runtime.
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
        // A panic leaves the list valid, with the last queue or without it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers to deliver, by their queues.
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
            // Nobody waits at a queue that is closed.
            let _ = completion_queue.send(answers);
        }
    }
}
