//! How answers get back to the threads that wait for them.
//!
//! A lane answers thousands of requests at once. Were each told by itself, the first would be sent to its client while the
//! lane tells the second, and every answer would be a wake-up and a packet of its own. So answers go back a thread at a
//! time, and are handed out there.

use tokio::sync::{mpsc, oneshot};

use super::{Decided, Result};

/// Who waits for an answer.
pub(super) enum Waiter {
    Single(oneshot::Sender<Result<Decided>>),
    Bulk(mpsc::UnboundedSender<Result<Decided>>),
}

impl Waiter {
    /// Those who have stopped waiting are not missed.
    fn tell(self, answer: Result<Decided>) {
        match self {
            Self::Single(waiter) => drop(waiter.send(answer)),
            Self::Bulk(waiter) => drop(waiter.send(answer)),
        }
    }
}

type Answers = Vec<(Waiter, Result<Decided>)>;

/// Where a thread's answers are handed out.
#[derive(Clone)]
pub(super) struct Desk(mpsc::UnboundedSender<Answers>);

impl Desk {
    /// A desk on the runtime that this is called on. It closes with the last of its clones.
    pub(super) fn open() -> Self {
        let (sender, mut answers) = mpsc::unbounded_channel::<Answers>();
        tokio::spawn(async move {
            while let Some(answers) = answers.recv().await {
                for (waiter, answer) in answers {
                    waiter.tell(answer);
                }
            }
        });
        Self(sender)
    }
}

/// Answers on their way, by the desk that they go to.
#[derive(Default)]
pub(super) struct Outbox(Vec<(Desk, Answers)>);

impl Outbox {
    pub(super) fn put(&mut self, desk: Desk, waiter: Waiter, answer: Result<Decided>) {
        let same = |(other, _): &&mut (Desk, Answers)| other.0.same_channel(&desk.0);
        match self.0.iter_mut().find(same) {
            Some((_, answers)) => answers.push((waiter, answer)),
            None => self.0.push((desk, vec![(waiter, answer)])),
        }
    }

    pub(super) fn send(self) {
        for (desk, answers) in self.0 {
            // Nobody waits at a desk that is gone.
            let _ = desk.0.send(answers);
        }
    }
}
