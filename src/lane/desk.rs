//! How answers get back to the threads that wait for them.
//!
//! A lane answers thousands of requests at once. Were each told by itself, the first would be sent to its client while the
//! lane tells the second, and every answer would be a wake-up and a packet of its own. So answers go back a thread at a
//! time, and are handed out there.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot};

use super::running::ended_by;
use super::{Decided, LaneError, Result};
use crate::model::Request;

/// Who waits for an answer.
pub(super) enum Waiter {
    Single(oneshot::Sender<Result<Decided>>),
    Bulk(Bulk),
    Then(Box<dyn FnOnce(Result<Decided>) + Send>),
}

impl Waiter {
    /// Those who have stopped waiting are not missed.
    fn tell(self, answer: Result<Decided>) {
        match self {
            Self::Single(waiter) => drop(waiter.send(answer)),
            Self::Bulk(waiter) => waiter.tell(answer),
            Self::Then(waiter) => waiter(answer),
        }
    }
}

/// A stream that waits for the answers of all its requests. Since it has a sender of its own, it would not notice that one is never
/// answered: so one that is dropped with a lane that has died tells it that nobody knows.
pub(super) struct Bulk(Option<mpsc::UnboundedSender<Result<Decided>>>);

impl Bulk {
    pub(super) fn new(answers: mpsc::UnboundedSender<Result<Decided>>) -> Self {
        Self(Some(answers))
    }

    fn tell(mut self, answer: Result<Decided>) {
        if let Some(answers) = self.0.take() {
            let _ = answers.send(answer);
        }
    }

    /// Its request was not queued, which the stream is told otherwise.
    pub(super) fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        if let Some(answers) = self.0.take() {
            let _ = answers.send(Err(LaneError::Unknown(ended_by("has ended"))));
        }
    }
}

/// Who is told what, and what was asked: it goes back to be freed, for memory that one thread has allocated and another frees is
/// dear to both.
pub(super) type Told = (Waiter, Result<Decided>, Box<Request>);

/// Where answers are handed out: a desk for each runtime that has callers, which are known by their numbers, since to count
/// references from several threads would cost more than the rest of it.
#[derive(Clone, Default)]
pub(super) struct Desks(Arc<Mutex<Vec<mpsc::UnboundedSender<Vec<Told>>>>>);

impl Desks {
    /// Opens a desk on the runtime that this is called on.
    pub(super) fn open(&self) -> usize {
        let (sender, mut answers) = mpsc::unbounded_channel::<Vec<Told>>();
        tokio::spawn(async move {
            while let Some(answers) = answers.recv().await {
                for (waiter, answer, _asked) in answers {
                    waiter.tell(answer);
                }
            }
        });
        let mut desks = self.desks();
        desks.push(sender);
        desks.len() - 1
    }

    fn desks(&self) -> MutexGuard<'_, Vec<mpsc::UnboundedSender<Vec<Told>>>> {
        // One more or one less: it is whole in between.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers on their way, by the desk that they go to.
#[derive(Default)]
pub(super) struct Outbox(Vec<Vec<Told>>);

impl Outbox {
    pub(super) fn put(&mut self, desk: usize, told: Told) {
        if self.0.len() <= desk {
            self.0.resize_with(desk + 1, Vec::new);
        }
        self.0[desk].push(told);
    }

    pub(super) fn send(self, desks: &Desks) {
        let desks = desks.desks();
        let answers = self.0.into_iter().zip(&*desks);
        for (answers, desk) in answers.filter(|(answers, _)| !answers.is_empty()) {
            // Nobody waits at a desk that is gone.
            let _ = desk.send(answers);
        }
    }
}
