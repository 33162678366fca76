//! The one order of all changes, and the states of counters in that order.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use super::Facts;
use crate::crash::history::{Change, History, Moment, Outcome, Span, Verdict};
use crate::crash::operation::{Name, Operation};

pub type Lines = HashMap<Name, Line>;

/// All states of a counter, beginning with its absence.
pub struct Line {
    pub states: Vec<State>,
    /// When changes were answered, each with the newest state of the changes answered until then.
    answered: Vec<(Moment, usize)>,
    /// When changes were requested, each with the oldest state of the changes requested from then on.
    asked: Vec<(Moment, usize)>,
}

#[derive(Clone, Copy, Debug)]
pub struct State {
    pub revision: i64,
    pub value: Option<i64>,
    /// The span of the change that led to it.
    pub span: Span,
}

impl Line {
    fn new() -> Self {
        let span = Span {
            asked: Moment::ZERO,
            answered: Moment::ZERO,
        };
        let never = State {
            revision: 0,
            value: None,
            span,
        };
        Self {
            states: vec![never],
            answered: Vec::new(),
            asked: Vec::new(),
        }
    }

    pub fn last(&self) -> &State {
        self.states.last().expect("there is a first one")
    }

    fn finish(&mut self) {
        let states = || self.states.iter().enumerate();
        self.answered = states()
            .map(|(i, state)| (state.span.answered, i))
            .collect();
        self.answered.sort_unstable();
        let mut newest = 0;
        for (_, state) in &mut self.answered {
            newest = newest.max(*state);
            *state = newest;
        }
        self.asked = states().map(|(i, state)| (state.span.asked, i)).collect();
        self.asked.sort_unstable();
        let mut oldest = usize::MAX;
        for (_, state) in self.asked.iter_mut().rev() {
            oldest = oldest.min(*state);
            *state = oldest;
        }
    }

    /// The states that the counter may have had within a span: none older than a change that was answered before it,
    /// and none newer than a change that was requested within it.
    pub fn possible(&self, span: Span) -> RangeInclusive<usize> {
        let before = self.answered.partition_point(|(at, _)| *at < span.asked);
        let first = before.checked_sub(1).map_or(0, |at| self.answered[at].1);
        let until = self.asked.partition_point(|(at, _)| *at <= span.answered);
        let later = self.asked.get(until).map_or(self.states.len(), |(_, i)| *i);
        first..=later.saturating_sub(1)
    }

    /// The state with this revision.
    pub fn find(&self, revision: i64) -> Option<usize> {
        let found = self
            .states
            .binary_search_by_key(&revision, |state| state.revision);
        found.ok()
    }

    /// The state right after this revision.
    pub fn at(&self, revision: i64) -> usize {
        let later = self
            .states
            .partition_point(|state| state.revision <= revision);
        later - 1
    }

    /// The revision that ended a state.
    pub fn end(&self, state: usize) -> i64 {
        let next = self.states.get(state + 1);
        next.map_or(i64::MAX, |next| next.revision)
    }
}

/// Each counter's states in the order of revisions, and the answers that do not follow from those before. The prefix
/// `unknown` is of counters with changes of unknown revisions.
pub fn lines(history: &History, unknown: &str) -> (Lines, Vec<String>) {
    let mut done = Vec::new();
    for change in &history.changes {
        if let Verdict::Effect { revision, results } = &change.answer.verdict {
            done.push((*revision, change, results.as_slice()));
        }
    }
    done.sort_by_key(|(revision, ..)| *revision);
    let (mut lines, mut problems) = (Lines::new(), Vec::new());
    for (revision, change, results) in done {
        let of = change.operation.increments();
        if of.iter().any(|add| add.counter.starts_with(unknown)) {
            continue;
        }
        follow(&mut lines, revision, change, results, &mut problems);
    }
    lines.values_mut().for_each(Line::finish);
    (lines, problems)
}

/// Applies a change, and compares its answer. If they differ, the answer is used from there on.
fn follow(
    lines: &mut Lines,
    revision: i64,
    change: &Change,
    results: &[Outcome],
    problems: &mut Vec<String>,
) {
    let mut step = |counter: &Name, make: &dyn Fn(Option<i64>) -> (Option<i64>, bool)| {
        let line = lines.entry(counter.clone()).or_insert_with(Line::new);
        let before = *line.last();
        let (value, follows) = make(before.value);
        if !follows {
            let operation = &change.operation;
            problems.push(format!(
                "{operation:?} at {revision} has led to {results:?}, {counter} having been {before:?}"
            ));
        }
        let span = change.span;
        let state = State {
            revision,
            value,
            span,
        };
        if before.revision == revision {
            // A batch may change a counter several times at one revision.
            *line.states.last_mut().expect("it was found just now") = state;
        } else if before.value.is_some() || value.is_some() {
            line.states.push(state);
        }
    };
    match (&change.operation, results) {
        (Operation::Set(counter, value), &[Outcome::Replaced(previous)]) => {
            step(counter, &|before| {
                (Some(*value), before.unwrap_or(0) == previous)
            });
        }
        (Operation::Delete(counter), &[Outcome::Replaced(previous)]) => {
            step(counter, &|before| (None, before.unwrap_or(0) == previous));
        }
        (operation, results) if operation.increments().len() == results.len() => {
            for (add, result) in operation.increments().iter().zip(results) {
                let Outcome::Applied { value, applied } = *result else {
                    panic!("{result:?} is no answer to an increment");
                };
                step(&add.counter, &|before| {
                    let before = before.unwrap_or(0);
                    let right = add.onto(before) == Ok(value);
                    (
                        Some(value),
                        right && before.checked_add(applied) == Some(value),
                    )
                });
            }
        }
        (operation, results) => panic!("{results:?} are no answer to {operation:?}"),
    }
}

/// In the order of revisions, each answer follows from the one before by the contract: values, applied deltas, limits,
/// previous values, and all changes of a batch at its one revision.
pub fn answers_follow_from_one_another(facts: &Facts<'_>) -> Vec<String> {
    facts.broken.clone()
}
