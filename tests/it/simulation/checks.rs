//! Properties that every run must have. A map applies all operations with a revision again, in the order of their
//! revisions, and every answer and every read must agree with it.

mod bits;
mod order;
mod reads;

use std::collections::BTreeMap;

use sumd::lane::Decided;
use sumd::model::{Applied, Effect, FailedIncrement, LimitError};

use super::history::{Add, History, Named, Stored, What};

/// The values of a counter, each with the revision from which it held.
pub type Lines = BTreeMap<String, Vec<(i64, Option<i64>)>>;

/// All problems of a run.
pub fn all(history: &History, stored: &Stored) -> Vec<String> {
    let mut problems = history.problems.clone();
    let mut named: Vec<&Named> = history.named.iter().collect();
    named.sort_by_key(|named| named.answer.revision);
    let mut lines = Lines::new();
    for named in named {
        let revision = named.answer.revision;
        let expected = redo(&mut lines, &named.what, revision);
        if named.answer.answer.done != expected {
            problems.push(format!(
                "{} {:?} was answered {:?}, and not {expected:?}",
                named.id, named.what, named.answer
            ));
        }
    }
    failing(history, &lines, &mut problems);
    order::revisions_are_as_time_goes(history, &mut problems);
    reads::saw_what_was_there(history, &lines, &mut problems);
    bits::were_added_once(history, stored, &mut problems);
    stored_is(stored, &lines, &mut problems);
    problems
}

/// The state of a counter after all operations up to a revision, and the revision since which it held.
pub fn at(lines: &Lines, name: &str, revision: i64) -> (i64, Option<i64>) {
    let line = lines.get(name).map_or(&[][..], Vec::as_slice);
    let known = line.partition_point(|(since, _)| *since <= revision);
    known.checked_sub(1).map_or((0, None), |last| line[last])
}

fn redo(lines: &mut Lines, what: &What, revision: i64) -> Effect {
    let now = |lines: &Lines, name: &str| at(lines, name, i64::MAX).1;
    let set = |lines: &mut Lines, name: &str, value| {
        let line = lines.entry(name.to_owned()).or_default();
        // One operation may change a counter several times.
        if line.last().is_some_and(|(since, _)| *since == revision) {
            line.pop();
        }
        line.push((revision, value));
    };
    match what {
        What::Add(add) => match added(now(lines, &add.name), add) {
            Ok(added) => {
                set(lines, &add.name, Some(added.value));
                Effect::Incremented(added)
            }
            Err(refusal) => Effect::Failed(FailedIncrement { index: 0, refusal }),
        },
        What::Batch(adds) => {
            let mut values: BTreeMap<&str, i64> = BTreeMap::new();
            let mut results = Vec::new();
            for (index, add) in (0..).zip(adds) {
                let before = values.get(&*add.name).copied();
                match added(before.or_else(|| now(lines, &add.name)), add) {
                    Ok(added) => {
                        values.insert(&add.name, added.value);
                        results.push(added);
                    }
                    Err(refusal) => return Effect::Failed(FailedIncrement { index, refusal }),
                }
            }
            for (name, value) in values {
                set(lines, name, Some(value));
            }
            Effect::Batch(results.into())
        }
        What::Set(name, value) => {
            let before = now(lines, name);
            set(lines, name, Some(*value));
            Effect::Replaced(before.unwrap_or(0))
        }
        What::Delete(name) => {
            let before = now(lines, name);
            if before.is_some() {
                set(lines, name, None);
            }
            Effect::Replaced(before.unwrap_or(0))
        }
    }
}

fn added(before: Option<i64>, add: &Add) -> Result<Applied, LimitError> {
    add.limits.add(before.unwrap_or(0), add.delta)
}

/// A failed increment without an id has no revision of its own: it saw the state before the revision in its answer.
fn failing(history: &History, lines: &Lines, problems: &mut Vec<String>) {
    for failing in &history.failing {
        let Decided {
            answer, revision, ..
        } = &failing.answer;
        let (_, value) = at(lines, &failing.add.name, revision - 1);
        let expected =
            added(value, &failing.add).map_err(|refusal| FailedIncrement { index: 0, refusal });
        let expected = expected.map_or_else(Effect::Failed, Effect::Incremented);
        if answer.done != expected {
            problems.push(format!("{answer:?} at {revision} should be {expected:?}"));
        }
    }
}

/// The stored counters are the results of all operations, and no other counters have such names.
fn stored_is(stored: &Stored, lines: &Lines, problems: &mut Vec<String>) {
    let of_lines = stored.iter().filter(|(name, _)| name.starts_with('n'));
    let found: BTreeMap<&str, _> = of_lines
        .map(|(name, row)| (&**name, (row.revision, row.value)))
        .collect();
    let last = lines
        .iter()
        .filter_map(|(name, line)| Some((&**name, *line.last()?)));
    let expected: BTreeMap<&str, _> = last.filter(|(_, (_, value))| value.is_some()).collect();
    if found != expected {
        problems.push(format!("{found:?} is stored, and not {expected:?}"));
    }
}
