//! Reads, checked against the states that there were.

use std::collections::{BTreeMap, HashMap};

use super::order::Line;
use super::{Facts, Op, in_real_time};
use crate::crash::history::{Read, Seen, Span, Verdict};
use crate::crash::operation::{Add, Name};

/// The state of a counter that was read, if it had that state within the span.
fn state(line: &Line, seen: &Seen, span: Span) -> Option<usize> {
    let mut possible = line.possible(span);
    if seen.revision == 0 {
        let absent = possible.find(|state| line.states[*state].value.is_none());
        return absent.filter(|_| seen.value == 0);
    }
    let found = line
        .find(seen.revision)
        .filter(|state| possible.contains(state))?;
    (line.states[found].value == Some(seen.value)).then_some(found)
}

/// The counters of a read whose states are all known.
fn known<'a>(
    facts: &'a Facts<'_>,
    read: &'a Read,
) -> impl Iterator<Item = (&'a Seen, Option<&'a Line>)> {
    let counters = read.counters.iter();
    let known = counters.filter(|seen| !facts.is_in("tally", &seen.counter));
    known.map(|seen| (seen, facts.lines.get(&seen.counter)))
}

/// A read shows a state that the counter had during the read: none older than a change that was answered before the
/// read began, and none newer than a change that was requested before it ended.
pub fn reads_saw_a_state_of_their_time(facts: &Facts<'_>) -> Vec<String> {
    let mut problems = Vec::new();
    for read in &facts.history.reads {
        for (seen, line) in known(facts, read) {
            let right = match line {
                Some(line) => state(line, seen, read.span).is_some(),
                None => (seen.value, seen.revision) == (0, 0),
            };
            if !right {
                let Seen {
                    counter,
                    value,
                    revision,
                } = seen;
                let possible = line.map(|line| &line.states[line.possible(read.span)]);
                problems.push(format!(
                    "{counter} was {value} at {revision}, and could be {possible:?}"
                ));
            }
        }
    }
    problems
}

/// All counters of one group that were read together were in those states at one moment.
pub fn reads_of_a_group_saw_one_moment(facts: &Facts<'_>) -> Vec<String> {
    let mut problems = Vec::new();
    for read in facts.history.reads.iter().filter(|read| read.together) {
        let (mut from, mut to) = (0, i64::MAX);
        for (seen, line) in known(facts, read) {
            // A counter that is absent may have been so several times meanwhile.
            if let Some(line) = line.filter(|_| seen.revision > 0)
                && let Some(state) = line.find(seen.revision)
            {
                from = from.max(seen.revision);
                to = to.min(line.end(state));
            }
        }
        if from >= to {
            let group = &read.counters[0].counter;
            problems.push(format!(
                "{group} and others were seen with {from}, and without {to}"
            ));
        }
    }
    problems
}

/// A read that began after another was answered shows nothing older.
pub fn reads_do_not_go_back(facts: &Facts<'_>) -> Vec<String> {
    let mut by_counter: HashMap<&Name, Vec<Op>> = HashMap::new();
    for read in &facts.history.reads {
        for seen in read.counters.iter().filter(|seen| seen.revision > 0) {
            by_counter.entry(&seen.counter).or_default().push(Op {
                what: "a read",
                span: read.span,
                revision: seen.revision,
                lead: Some(0),
            });
        }
    }
    by_counter.into_values().flat_map(in_real_time).collect()
}

/// An increment that a limit refused would have passed it from some state that the counter had meanwhile.
pub fn refusals_saw_a_state_of_their_time(facts: &Facts<'_>) -> Vec<String> {
    let mut problems = Vec::new();
    for change in &facts.history.changes {
        let Verdict::Rejection { index, refusal } = &change.answer.verdict else {
            continue;
        };
        let all = change.operation.increments();
        let failed = &all[*index];
        let earlier = all[..*index].iter();
        let earlier: Vec<&Add> = earlier
            .filter(|add| add.counter == failed.counter)
            .collect();
        let refused_from = |value: Option<i64>| {
            let before = earlier
                .iter()
                .try_fold(value.unwrap_or(0), |value, add| add.onto(value));
            before.and_then(|value| failed.onto(value)) == Err(refusal.clone())
        };
        let right = match facts.lines.get(&failed.counter) {
            Some(line) => {
                let mut possible = line.possible(change.span);
                possible.any(|state| refused_from(line.states[state].value))
            }
            None => refused_from(None),
        };
        if !right {
            problems.push(format!("{failed:?} was refused: {refusal:?}"));
        }
    }
    problems
}

/// A sum contains every change up to its revision, and no later one.
pub fn sums_are_those_of_their_revision(facts: &Facts<'_>) -> Vec<String> {
    let mut problems = Vec::new();
    // By prefix: after each revision, the sum and the number of counters.
    let mut known: HashMap<&str, Vec<(i64, i128, i64)>> = HashMap::new();
    for sum in &facts.history.sums {
        let known = known
            .entry(&sum.prefix)
            .or_insert_with(|| running(facts, &sum.prefix));
        let at = known.partition_point(|(revision, ..)| *revision <= sum.revision);
        let (_, total, count) = known[at - 1];
        if (total, count) != (sum.total.into(), sum.count) {
            problems.push(format!(
                "{} at {} was {} of {}, and is {total} of {count}",
                sum.prefix, sum.revision, sum.total, sum.count
            ));
        }
    }
    problems
}

fn running(facts: &Facts<'_>, prefix: &str) -> Vec<(i64, i128, i64)> {
    let mut steps: BTreeMap<i64, (i128, i64)> = BTreeMap::new();
    let lines = facts.lines.iter();
    for (_, line) in lines.filter(|(counter, _)| counter.starts_with(prefix)) {
        for pair in line.states.windows(2) {
            let part = |value: Option<i64>| (value.unwrap_or(0), i64::from(value.is_some()));
            let (before, after) = (part(pair[0].value), part(pair[1].value));
            let step = steps.entry(pair[1].revision).or_default();
            step.0 += i128::from(after.0) - i128::from(before.0);
            step.1 += after.1 - before.1;
        }
    }
    let (mut sum, mut count) = (0, 0);
    let mut all = vec![(0, 0, 0)];
    for (revision, step) in steps {
        sum += step.0;
        count += step.1;
        all.push((revision, sum, count));
    }
    all
}
