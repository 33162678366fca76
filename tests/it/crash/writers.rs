//! Clients that change counters, one call at a time.

use std::time::Duration;

use fastrand::Rng;
use uuid::Uuid;

use super::finding::found;
use super::history::{
    Again, Change, History, Outcome, Replay, Span, Unnamed, UnnamedFate, Verdict,
};
use super::link::{Fate, Link, Names};
use super::operation::{Add, Name, Operation};
use super::sessions::{TALLIES, UNIT};

/// Makes the next operation of a client.
pub type Work = fn(&Names, &mut Rng) -> Operation;

/// The kinds of work, with the number of clients for each.
pub const WORKS: [(Work, usize); 6] = [
    (hot, 10),
    (some, 8),
    (edge, 2),
    (bank, 6),
    (replaced, 6),
    (tally, 2),
];

pub const BANK: usize = 40;
pub const HOT: usize = 4;
pub const SOME: usize = 300;
pub const REPLACED: usize = 12;
pub const EDGE: usize = 3;
const WIDE: usize = 500;

/// Counters with names of maximum length: a few batches of them are much to read and to write back.
pub fn wide(names: &Names, rng: &mut Rng) -> Operation {
    let group = names.of("wide", 0);
    let long = "-".repeat(200);
    let mut all = Vec::new();
    for _ in 0..rng.usize(1..=100) {
        let counter = format!("{group}{long}{}", rng.usize(..WIDE));
        all.push(Add::new(counter.into(), rng.i64(-9..=9)));
    }
    Operation::Batch(all)
}

/// Number of answered requests that a client keeps, to send them again.
const KEPT: usize = 48;
/// Number of first requests among them, which become too old in the end.
const OLD: usize = 8;

fn limited(counter: Name, rng: &mut Rng) -> Add {
    let mut add = Add::new(counter, rng.i64(-60..=60));
    let kind = rng.u8(..10);
    add.min = [0, 2, 3].contains(&kind).then(|| rng.i64(-200..=0));
    add.max = [1, 2, 3, 4].contains(&kind).then(|| rng.i64(0..=200));
    add.saturate = kind >= 3;
    add
}

/// A few counters that many clients change.
fn hot(names: &Names, rng: &mut Rng) -> Operation {
    Operation::Increment(limited(names.of("hot", rng.usize(..HOT)), rng))
}

/// Many counters.
fn some(names: &Names, rng: &mut Rng) -> Operation {
    Operation::Increment(limited(names.of("some", rng.usize(..SOME)), rng))
}

/// Values up to the limits of int64.
fn edge(names: &Names, rng: &mut Rng) -> Operation {
    let mut add = Add::new(names.of("edge", rng.usize(..EDGE)), rng.i64(..));
    add.saturate = rng.bool();
    Operation::Increment(add)
}

/// Moves amounts between accounts, so that their sum is always 0.
fn bank(names: &Names, rng: &mut Rng) -> Operation {
    let mut all = Vec::new();
    for _ in 0..rng.usize(1..=8) {
        let amount = rng.i64(1..=50);
        let mut from = Add::new(names.of("bank", rng.usize(..BANK)), -amount);
        from.min = rng.bool().then_some(-300);
        all.push(from);
        all.push(Add::new(names.of("bank", rng.usize(..BANK)), amount));
    }
    Operation::Batch(all)
}

fn replaced(names: &Names, rng: &mut Rng) -> Operation {
    let counter = names.of("replaced", rng.usize(..REPLACED));
    match rng.u8(..10) {
        0..3 => Operation::Set(counter, rng.i64(-1000..=1000)),
        3..6 => Operation::Delete(counter),
        _ => Operation::Increment(limited(counter, rng)),
    }
}

/// The counters that sessions add to as well; calls use the bits above those of sessions.
fn tally(names: &Names, rng: &mut Rng) -> Operation {
    let counter = names.of("tally", rng.usize(..TALLIES));
    Operation::Increment(Add::new(counter, rng.i64(-8..=8) * UNIT))
}

/// A request that was answered.
struct Known {
    id: Uuid,
    operation: Operation,
    span: Span,
    verdict: Verdict,
}

/// Makes an id, with or without a time.
type Ids = fn() -> Uuid;

/// Makes one change after the other, each with an id and until it is answered, and sometimes repeats one. After the
/// last start of the server, it repeats all that it has kept. Half of the clients have ids without a time.
pub async fn with_ids(mut link: Link, work: Work) -> History {
    let ids: Ids = if link.rng.bool() {
        Uuid::now_v7
    } else {
        Uuid::new_v4
    };
    let mut history = History::default();
    let mut known: Vec<Known> = Vec::new();
    while !link.stopped() {
        if link.rng.u8(..) < 8 {
            link.turn();
        }
        if link.rng.u8(..) < 24 && !known.is_empty() {
            let at = link.rng.usize(..known.len());
            again(&mut link, &known[at], &mut history).await;
        } else {
            let operation = work(&link.context.names, &mut link.rng);
            let new = named(&mut link, ids, operation, &mut history).await;
            if known.len() < KEPT {
                known.push(new);
            } else {
                let at = link.rng.usize(OLD..KEPT);
                known[at] = new;
            }
        }
        link.rest().await;
    }
    link.context.audit.clone().cancelled().await;
    for known in &known {
        again(&mut link, known, &mut history).await;
    }
    history
}

async fn named(link: &mut Link, ids: Ids, operation: Operation, history: &mut History) -> Known {
    let id = ids();
    let asked = link.insist(&operation, &id.to_string()).await;
    let asked = asked.unwrap_or_else(|fate| found(format!("{operation:?} has led to {fate:?}")));
    history.changes.push(Change {
        operation: operation.clone(),
        span: asked.span,
        attempts: asked.attempts,
        answer: asked.answer.clone(),
    });
    Known {
        id,
        operation,
        span: asked.span,
        verdict: asked.answer.verdict,
    }
}

/// Makes a change, and records it like all others.
pub async fn change(link: &mut Link, operation: Operation, history: &mut History) -> i64 {
    match named(link, Uuid::now_v7, operation, history).await.verdict {
        Verdict::Effect { revision, .. } => revision,
        Verdict::Rejection { refusal, .. } => found(format!("{refusal:?} of what has no limit")),
    }
}

async fn again(link: &mut Link, known: &Known, history: &mut History) {
    let has_time = known.id.get_timestamp().is_some();
    let age = link.context.clock.now().saturating_sub(known.span.asked);
    // An id that may be forgotten by the time it arrives would count as a new one.
    if !has_time && age + link.context.servers.outage > link.context.horizon {
        return;
    }
    let forge = link.rng.u8(..) < 24;
    let operation = if forge {
        known.operation.forged()
    } else {
        known.operation.clone()
    };
    let again = match link.insist(&operation, &known.id.to_string()).await {
        Ok(asked) if forge => Again::Confused(asked.answer),
        Ok(asked) => Again::Answered(asked.answer),
        Err(Fate::TooOld) if has_time => {
            Again::TooOld(link.context.clock.now().saturating_sub(known.span.asked))
        }
        Err(Fate::Reused) if forge => Again::Forged,
        Err(Fate::Reused) => Again::Mistaken,
        Err(fate) => found(format!("{operation:?} sent again has led to {fate:?}")),
    };
    history.replays.push(Replay {
        operation,
        first: known.verdict.clone(),
        again,
    });
}

/// Requests each change without an id, and again only after NOT_APPLIED. The deltas on a counter are powers of four, so
/// its value shows which were applied, and that none was applied twice.
pub async fn without_ids(mut link: Link, who: usize) -> History {
    let mut history = History::default();
    for generation in 0.. {
        let counter = link.context.names.of(&format!("unnamed{who}"), generation);
        for power in 0..31 {
            if link.stopped() {
                return history;
            }
            let delta = 1 << (2 * power);
            let operation = Operation::Increment(Add::new(counter.clone(), delta));
            link.client().await;
            let asked = link.context.clock.now();
            let fate = loop {
                match link.attempt(&operation, "").await {
                    Ok(answer) => break applied(&answer.verdict, delta),
                    Err(Fate::NotApplied) if link.stopped() => break UnnamedFate::NotApplied,
                    Err(Fate::NotApplied) => link.think(Duration::from_millis(20)).await,
                    Err(Fate::Unknown) => break UnnamedFate::Unknown,
                    Err(fate) => found(format!("{operation:?} has led to {fate:?}")),
                }
            };
            let span = link.context.clock.since(asked);
            history.unnamed.push(Unnamed {
                counter: counter.clone(),
                delta,
                span,
                fate,
            });
            link.rest().await;
        }
    }
    history
}

fn applied(verdict: &Verdict, delta: i64) -> UnnamedFate {
    match verdict {
        Verdict::Effect { revision, results } => match results[..] {
            [Outcome::Applied { value, applied }] if applied == delta => UnnamedFate::Applied {
                value,
                revision: *revision,
            },
            _ => found(format!(
                "{results:?} does not answer an increment by {delta}"
            )),
        },
        Verdict::Rejection { refusal, .. } => found(format!("{refusal:?} of what has no limit")),
    }
}
