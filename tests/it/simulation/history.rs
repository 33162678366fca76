//! What clients have asked for, and what they were told.

use std::collections::BTreeMap;
use std::sync::Arc;

use sumd::lane::Decided;
use sumd::model::{Increments, Limits, Operation};
use sumd::store::{Page, Row, Rows, Scan, Sum};
use tokio::time::Instant;

/// A request, which can be made again and again.
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

/// From when to when.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub asked: Instant,
    pub answered: Instant,
}

/// How a request has ended.
#[derive(Clone, Debug)]
pub enum End {
    Effect(Decided),
    /// It certainly was not carried out.
    NotApplied,
    /// Nobody will ever know.
    Unknown,
}

/// A request with an id, which was repeated until it was answered.
pub struct Named {
    pub id: String,
    pub what: What,
    pub span: Span,
    pub answer: Decided,
}

/// A bit that was added to a counter that has nothing else, so that what is read of it tells which were.
pub struct Bit {
    pub counter: String,
    pub delta: i64,
    pub span: Span,
    pub end: End,
}

/// An increment that no value lets pass, without an id.
pub struct Failing {
    pub add: Add,
    pub answer: Decided,
}

/// What one message of a session adds.
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
    /// Everything up to this revision is in it.
    pub fn revision(&self) -> i64 {
        match &self.seen {
            CatchUp::Rows(_, rows) => rows.revision,
            CatchUp::Page(_, page) => page.revision,
            CatchUp::Sum(_, sum) => sum.revision,
        }
    }
}

/// Everything.
#[derive(Default)]
pub struct History {
    pub named: Vec<Named>,
    pub bits: Vec<Bit>,
    pub failing: Vec<Failing>,
    pub messages: Vec<Message>,
    pub reads: Vec<Read>,
    /// What a client has seen to be wrong.
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

/// What is stored at the end.
pub type Stored = BTreeMap<Arc<str>, Row>;
