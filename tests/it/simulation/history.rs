//! The requests of clients, and their answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use sumd::lane::Decided;
use sumd::model::{Increments, Limits, Operation};
use sumd::store::{Page, Row, Rows, Scan, Sum};
use tokio::time::Instant;

/// A request, which can be repeated.
#[derive(Clone, Debug)]
pub enum What {
    Add(Add),
    Batch(Vec<Add>),
    Set(String, i64),
    Delete(String),
}

#[derive(Clone, Debug)]
pub struct Add {
    pub name: String,
    pub delta: i64,
    pub limits: Limits,
}

impl What {
    pub fn operation(&self) -> Operation {
        match self {
            Self::Add(add) => {
                Operation::Increment(Increments::one(add.name.clone(), add.delta, add.limits))
            }
            Self::Batch(adds) => Operation::Batch(increments(adds)),
            Self::Set(name, value) => Operation::Set(name.as_str().into(), *value),
            Self::Delete(name) => Operation::Delete(name.as_str().into()),
        }
    }
}

pub fn increments(adds: &[Add]) -> Increments {
    let mut increments = Increments::default();
    for add in adds {
        increments.push(&add.name, add.delta, add.limits);
    }
    increments
}

/// The time from the request to the answer.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub asked: Instant,
    pub answered: Instant,
}

/// The outcome of a request.
#[derive(Clone, Debug)]
pub enum End {
    Effect(Decided),
    /// It was certainly not carried out.
    NotApplied,
    /// The outcome will never be known.
    Unknown,
}

/// A request with an id, which was repeated until it was answered.
pub struct Named {
    pub id: String,
    pub what: What,
    pub span: Span,
    pub answer: Decided,
}

/// A bit that was added to a counter that has only bits, so that the value shows which were added.
pub struct Bit {
    pub counter: String,
    pub delta: i64,
    pub span: Span,
    pub end: End,
}

/// An increment without an id that fails with any value.
pub struct Failing {
    pub add: Add,
    pub answer: Decided,
}

/// The increments of one message of a session.
pub struct Message {
    pub session: usize,
    pub adds: Vec<Add>,
    /// When it was first sent.
    pub asked: Instant,
    /// When it was acknowledged, unless its session was forgotten before.
    pub known: Option<Instant>,
    /// It must not have been made.
    pub not: bool,
}

pub struct Read {
    pub span: Span,
    pub seen: CatchUp,
}

pub enum CatchUp {
    Rows(Vec<Arc<str>>, Rows),
    Page(Scan, Page),
    Sum(Arc<str>, Sum),
}

impl Read {
    /// Everything up to this revision is included.
    pub fn revision(&self) -> i64 {
        match &self.seen {
            CatchUp::Rows(_, rows) => rows.revision,
            CatchUp::Page(_, page) => page.revision,
            CatchUp::Sum(_, sum) => sum.revision,
        }
    }
}

/// All requests and answers of a run.
#[derive(Default)]
pub struct History {
    pub named: Vec<Named>,
    pub bits: Vec<Bit>,
    pub failing: Vec<Failing>,
    pub messages: Vec<Message>,
    pub reads: Vec<Read>,
    /// Violations that a client has noticed itself.
    pub problems: Vec<String>,
}

impl History {
    pub fn add(&mut self, other: Self) {
        self.named.extend(other.named);
        self.bits.extend(other.bits);
        self.failing.extend(other.failing);
        self.messages.extend(other.messages);
        self.reads.extend(other.reads);
        self.problems.extend(other.problems);
    }
}

/// The stored counters at the end.
pub type Stored = BTreeMap<Arc<str>, Row>;
