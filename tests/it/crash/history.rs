//! The requests of a run's clients, and the answers, with their times.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sumd::proto::sum::v1::WatchCountersResponse;

use super::operation::{Add, LimitError, Name, Operation};

/// Time since the start of the run, by a monotonic clock of this process.
pub type Moment = Duration;

#[derive(Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    pub fn start() -> Self {
        Self(Instant::now())
    }

    pub fn now(self) -> Moment {
        self.0.elapsed()
    }

    /// The span from `asked` until now.
    pub fn since(self, asked: Moment) -> Span {
        Span {
            asked,
            answered: self.now(),
        }
    }
}

/// The time from the first request to the first answer; the operation took place within it.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub asked: Moment,
    pub answered: Moment,
}

/// Everything that the clients have done.
#[derive(Default)]
pub struct History {
    pub changes: Vec<Change>,
    pub replays: Vec<Replay>,
    pub unnamed: Vec<Unnamed>,
    pub sessions: Vec<Recorded>,
    pub reads: Vec<Read>,
    pub sums: Vec<Sum>,
    pub watches: Vec<Watched>,
}

impl History {
    pub fn add(&mut self, mut other: Self) {
        self.changes.append(&mut other.changes);
        self.replays.append(&mut other.replays);
        self.unnamed.append(&mut other.unnamed);
        self.sessions.append(&mut other.sessions);
        self.reads.append(&mut other.reads);
        self.sums.append(&mut other.sums);
        self.watches.append(&mut other.watches);
    }

    /// Changes whose answer was lost, and came when the request was sent again.
    pub fn late_answers(&self) -> usize {
        let late = |change: &&Change| change.answer.replayed;
        self.changes.iter().filter(late).count()
    }

    pub fn messages(&self) -> usize {
        let messages = |session: &Recorded| session.messages.len();
        self.sessions.iter().map(messages).sum()
    }

    /// Number of calls that were answered, and of sessions' messages.
    pub fn operations(&self) -> usize {
        let calls = self.changes.len() + self.replays.len() + self.unnamed.len();
        calls + self.reads.len() + self.sums.len() + self.messages()
    }
}

/// A change that was requested with an id until it was answered.
pub struct Change {
    pub operation: Operation,
    pub span: Span,
    /// How often it was sent.
    pub attempts: u32,
    pub answer: Answer,
}

#[derive(Clone, Debug)]
pub struct Answer {
    pub verdict: Verdict,
    /// Whether the answer is marked as replayed. Refusals have no such mark.
    pub replayed: bool,
}

/// The outcome of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Effect {
        revision: i64,
        results: Vec<Outcome>,
    },
    /// The increment at this index would have passed a limit.
    Rejection { index: usize, refusal: LimitError },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Applied {
        value: i64,
        applied: i64,
    },
    /// Set or deleted, with the value before.
    Replaced(i64),
}

/// A request that was sent again after it had been answered.
pub struct Replay {
    pub operation: Operation,
    pub first: Verdict,
    pub again: Again,
}

pub enum Again {
    Answered(Answer),
    /// Refused as too old, with the age of the id.
    TooOld(Duration),
    /// It had other contents, and was refused for that.
    Forged,
    /// It had other contents, and was answered.
    Confused(Answer),
    /// It had the same contents, and was refused as if they were different.
    Mistaken,
}

/// A power of four that was added once, without an id.
pub struct Unnamed {
    pub counter: Name,
    pub delta: i64,
    pub span: Span,
    pub fate: UnnamedFate,
}

pub enum UnnamedFate {
    /// The value after it, and its revision.
    Applied {
        value: i64,
        revision: i64,
    },
    NotApplied,
    Unknown,
}

/// The records of a client in its sessions, one session after the other.
#[derive(Default)]
pub struct Recorded {
    pub who: usize,
    /// Numbered from 1, through all sessions.
    pub messages: Vec<Message>,
    pub acknowledgements: Vec<Acknowledgement>,
    /// By message number and index of the increment.
    pub failures: BTreeMap<(usize, usize), LimitError>,
    /// Failures that were reported again differently.
    pub contradictions: Vec<String>,
}

pub struct Message {
    pub increments: Vec<Add>,
    /// The time when it was first sent.
    pub sent: Option<Moment>,
}

pub struct Acknowledgement {
    pub at: Moment,
    pub number: usize,
    pub revision: i64,
    /// The revision is that of this message, and not a later one. The contract leaves this open; the server does so for
    /// messages that it has just applied.
    pub exact: bool,
}

/// Counters that were read in one request.
pub struct Read {
    pub span: Span,
    pub counters: Vec<Seen>,
    /// Whether they are all of one group.
    pub together: bool,
}

pub struct Seen {
    pub counter: Name,
    pub value: i64,
    pub revision: i64,
}

pub struct Sum {
    pub span: Span,
    pub prefix: String,
    pub total: i64,
    pub count: i64,
    pub revision: i64,
}

/// The answers to a watcher, over all its streams.
pub struct Watched {
    pub wanted: Wanted,
    pub told: Vec<Told>,
}

#[derive(Clone)]
pub enum Wanted {
    Prefix(String),
    Names(Vec<Name>),
}

impl Wanted {
    pub fn has(&self, counter: &str) -> bool {
        match self {
            Self::Prefix(prefix) => counter.starts_with(prefix),
            Self::Names(names) => names.iter().any(|name| **name == *counter),
        }
    }
}

pub struct Told {
    pub at: Moment,
    pub stream: u32,
    pub answer: WatchCountersResponse,
}
