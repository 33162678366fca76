//! Counters of bits show which operations were made, and that none was made twice: the carry would show.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::simulation::history::{CatchUp, End, History, Stored};

/// An operation that adds a bit.
struct Adder {
    bit: i64,
    asked: Instant,
    /// When it was known to be made, or `None` if it may not have been.
    known: Option<Instant>,
    /// If known.
    revision: Option<i64>,
    /// It must not have been made.
    not: bool,
    /// The session that it belongs to; messages of a session are made in order.
    session: Option<usize>,
}

type Adders = BTreeMap<String, Vec<Adder>>;

pub fn were_added_once(history: &History, stored: &Stored, problems: &mut Vec<String>) {
    let adders = adders(history);
    let none = Vec::new();
    for read in &history.reads {
        let CatchUp::Rows(names, rows) = &read.seen else {
            continue;
        };
        for (name, row) in names.iter().zip(&rows.rows) {
            if name.starts_with('n') {
                continue;
            }
            let value = row.as_ref().and_then(|row| row.value).unwrap_or(0);
            let of = adders.get(&**name).unwrap_or(&none);
            let made = |adder: &Adder| match adder.revision {
                Some(revision) => Some(revision <= rows.revision),
                None if adder.known.is_some_and(|known| known < read.span.asked) => Some(true),
                None if adder.asked > read.span.answered => Some(false),
                None => None,
            };
            check(name, value, of, made, problems);
        }
    }
    for bit in &history.bits {
        if let End::Effect(answer) = &bit.end
            && let sumd::model::Effect::Incremented(added) = answer.answer.done
        {
            let made = |adder: &Adder| match adder.revision {
                Some(revision) => Some(revision <= answer.revision),
                None if adder.asked > bit.span.answered => Some(false),
                None => None,
            };
            check(
                &bit.counter,
                added.value,
                &adders[&bit.counter],
                made,
                problems,
            );
        }
    }
    for (name, of) in &adders {
        let value = stored.get(&**name).and_then(|row| row.value).unwrap_or(0);
        let made = |adder: &Adder| adder.known.map(|_| true);
        check(name, value, of, made, problems);
    }
    for name in stored.keys().filter(|name| !name.starts_with('n')) {
        if !adders.contains_key(&**name) {
            problems.push(format!("nobody has made {name}"));
        }
    }
}

/// Checks a value against the adders that must have been made, must not have been, or may have been.
fn check(
    name: &str,
    value: i64,
    adders: &[Adder],
    made: impl Fn(&Adder) -> Option<bool>,
    problems: &mut Vec<String>,
) {
    let (mut must, mut may) = (0, 0);
    for adder in adders.iter().filter(|adder| !adder.not) {
        match made(adder) {
            Some(true) => must |= adder.bit,
            Some(false) => {}
            None => may |= adder.bit,
        }
    }
    if value & must != must || value & !(must | may) != 0 {
        problems.push(format!(
            "{name} was {value:b}, with {must:b} and maybe {may:b}"
        ));
    }
    // No message of a session is counted before the earlier ones.
    let mut gaps: BTreeMap<usize, i64> = BTreeMap::new();
    for adder in adders {
        let Some(session) = adder.session else {
            continue;
        };
        if value & adder.bit == 0 {
            gaps.entry(session).or_insert(adder.bit);
        } else if let Some(gap) = gaps.get(&session) {
            problems.push(format!(
                "{name} was {value:b}, without {gap:b} of a session"
            ));
        }
    }
}

fn adders(history: &History) -> Adders {
    let mut adders = Adders::new();
    for bit in &history.bits {
        let (known, revision) = match &bit.end {
            End::Effect(answer) => (Some(bit.span.answered), Some(answer.revision)),
            End::NotApplied | End::Unknown => (None, None),
        };
        adders.entry(bit.counter.clone()).or_default().push(Adder {
            bit: bit.delta,
            asked: bit.span.asked,
            known,
            revision,
            not: matches!(bit.end, End::NotApplied),
            session: None,
        });
    }
    for message in &history.messages {
        for add in message.adds.iter().filter(|add| add.limits.max.is_none()) {
            adders.entry(add.name.clone()).or_default().push(Adder {
                bit: add.delta,
                asked: message.asked,
                known: message.known,
                revision: None,
                not: message.not,
                session: Some(message.session),
            });
        }
    }
    adders
}
