//! Tallies: counters that calls and sessions both add to, and from which the part of each can be read.

use std::collections::HashMap;

use super::{Facts, watches};
use crate::crash::history::{Moment, Outcome, Recorded, Seen, Span, Verdict};
use crate::crash::operation::{Add, Name};
use crate::crash::sessions::{RECORDERS, TALLIES, TALLY_BITS, UNIT};

/// A tally as seen at some time: by a call that changed it, a read or a watcher.
struct Glimpse {
    span: Span,
    revision: i64,
    value: i64,
}

fn glimpses(facts: &Facts<'_>) -> HashMap<Name, Vec<Glimpse>> {
    let mut all: HashMap<Name, Vec<Glimpse>> = HashMap::new();
    let mut add = |counter: &Name, span, revision, value| {
        all.entry(counter.clone()).or_default().push(Glimpse {
            span,
            revision,
            value,
        });
    };
    for (change, revision, increment, result) in calls(facts) {
        if let Outcome::Applied { value, .. } = result {
            add(&increment.counter, change, revision, value);
        }
    }
    for read in &facts.history.reads {
        let seen = read.counters.iter();
        for seen in seen.filter(|seen| facts.is_in("tally", &seen.counter)) {
            add(&seen.counter, read.span, seen.revision, seen.value);
        }
    }
    for (told, seen) in watches::tallies(facts) {
        let span = Span {
            asked: Moment::ZERO,
            answered: told.at,
        };
        let Seen {
            counter,
            value,
            revision,
        } = seen;
        add(&counter, span, revision, value);
    }
    all
}

/// The calls that have changed tallies.
fn calls<'a>(facts: &'a Facts<'_>) -> impl Iterator<Item = (Span, i64, &'a Add, Outcome)> {
    facts.history.changes.iter().flat_map(move |change| {
        let adds = change.operation.increments();
        let done = match &change.answer.verdict {
            Verdict::Effect { revision, results } => Some((*revision, results)),
            Verdict::Rejection { .. } => None,
        };
        done.into_iter().flat_map(move |(revision, results)| {
            let both = adds.iter().zip(results.iter().copied());
            both.filter(move |(add, _)| facts.is_in("tally", &add.counter))
                .map(move |(add, result)| (change.span, revision, add, result))
        })
    })
}

/// The number of a client's messages in a tally.
fn count(value: i64, who: usize) -> usize {
    let bits = value >> (TALLY_BITS * who);
    usize::try_from(bits & ((1 << TALLY_BITS) - 1)).expect("it is masked")
}

/// The number of messages up to `number` that belong to a tally.
fn share(at: usize, number: usize) -> usize {
    (number + TALLIES - at) / TALLIES - usize::from(at == 0)
}

/// By key, the largest number with that key or a lower one.
struct Largest<K>(Vec<(K, usize)>);

impl<K: Ord + Copy> Largest<K> {
    fn of(pairs: impl Iterator<Item = (K, usize)>) -> Self {
        let mut all: Vec<_> = pairs.collect();
        all.sort_unstable();
        let mut largest = 0;
        for (_, number) in &mut all {
            largest = largest.max(*number);
            *number = largest;
        }
        Self(all)
    }

    /// The largest number with a key for which `such` is true; `such` must be true of the lowest keys only.
    fn among(&self, such: impl Fn(K) -> bool) -> usize {
        let end = self.0.partition_point(|(key, _)| such(*key));
        end.checked_sub(1).map_or(0, |last| self.0[last].1)
    }
}

/// The known times and revisions of a client's messages.
struct Places<'a> {
    session: &'a Recorded,
    answered: Largest<Moment>,
    revisions: Largest<i64>,
    /// By own revision, in falling order: the number of messages that are not before the one with it.
    exact: Largest<std::cmp::Reverse<i64>>,
}

impl<'a> Places<'a> {
    fn of(session: &'a Recorded) -> Self {
        let known = || session.acknowledgements.iter();
        let exact = known().filter(|known| known.exact);
        Self {
            session,
            answered: Largest::of(known().map(|known| (known.at, known.number))),
            revisions: Largest::of(known().map(|known| (known.revision, known.number))),
            exact: Largest::of(exact.map(|known| {
                let others = session.messages.len() - (known.number - 1);
                (std::cmp::Reverse(known.revision), others)
            })),
        }
    }

    /// The violation in this client's part of a tally, if there is one.
    fn check(&self, at: usize, glimpse: &Glimpse) -> Option<String> {
        let answered = self.answered.among(|at| at < glimpse.span.asked);
        let placed = self.revisions.among(|at| at <= glimpse.revision);
        let messages = &self.session.messages;
        let sent = messages.partition_point(|message| {
            let sent = message.sent;
            sent.is_some_and(|sent| sent <= glimpse.span.answered)
        });
        let later = self.exact.among(|at| at.0 > glimpse.revision);
        let most = sent.min(messages.len() - later);
        let right = share(at, answered.max(placed))..=share(at, most);
        let found = count(glimpse.value, self.session.who);
        let who = self.session.who;
        (!right.contains(&found)).then(|| format!("{found} messages of {who}, and not {right:?}"))
    }
}

/// Whenever a tally was seen, it had all calls up to its revision, and a prefix of each client's messages. The prefix
/// contains all messages that were acknowledged by then, none that was not sent, and never fewer than at a lower
/// revision.
pub fn tallies_show_a_prefix_of_each_session(facts: &Facts<'_>) -> Vec<String> {
    let places: Vec<_> = facts.history.sessions.iter().map(Places::of).collect();
    let mut glimpses = glimpses(facts);
    let mut by_counter: HashMap<&Name, Vec<(i64, i64)>> = HashMap::new();
    for (_, revision, add, _) in calls(facts) {
        let calls = by_counter.entry(&add.counter).or_default();
        calls.push((revision, add.delta));
    }
    let mut problems = Vec::new();
    for at in 0..TALLIES {
        let counter = facts.names.of("tally", at);
        let mut calls = by_counter.remove(&counter).unwrap_or_default();
        calls.sort_unstable();
        let mut calls = calls.into_iter().peekable();
        let mut seen = glimpses.remove(&counter).unwrap_or_default();
        seen.sort_by_key(|glimpse| glimpse.revision);
        let (mut total, mut before) = (0, [0; RECORDERS]);
        for glimpse in &seen {
            let revision = glimpse.revision;
            while let Some((_, delta)) = calls.next_if(|(made, _)| *made <= revision) {
                total += delta;
            }
            let found = glimpse.value.div_euclid(UNIT) * UNIT;
            if found != total {
                problems.push(format!(
                    "{counter} at {revision}: calls have added {total}, and not {found}"
                ));
            }
            let now = std::array::from_fn(|who| count(glimpse.value, who));
            if now.iter().zip(&before).any(|(now, before)| now < before) {
                problems.push(format!("{counter} at {revision}: {now:?} after {before:?}"));
            }
            before = now;
            let wrong = places.iter().filter_map(|places| places.check(at, glimpse));
            problems.extend(wrong.map(|problem| format!("{counter} at {revision}: {problem}")));
        }
    }
    problems
}
