//! Answers to watchers, checked against the states that there were.

use std::collections::BTreeMap;

use super::Facts;
use crate::crash::history::{Moment, Seen, Told, Watched};
use crate::crash::operation::Name;

/// Values and revisions of the counters that a watcher knows.
type View = BTreeMap<String, (i64, i64)>;

/// Applies an answer.
fn update(view: &mut View, told: &Told) {
    if told.answer.restarted {
        view.clear();
    }
    for counter in &told.answer.counters {
        // A counter that is watched by name may be reported as absent.
        if counter.revision == 0 {
            view.remove(&counter.name);
        } else {
            view.insert(counter.name.clone(), (counter.value, counter.revision));
        }
    }
    for name in &told.answer.deleted {
        view.remove(name);
    }
}

/// Within a stream no counter goes back. Each reported state follows a change that was requested by then. An answer's
/// revision means that every change up to it was reported. The state becomes complete once.
pub fn watchers_do_not_go_back_and_miss_nothing(facts: &Facts<'_>) -> Vec<String> {
    let mut problems = Vec::new();
    for watch in &facts.history.watches {
        let mut view = View::new();
        let changes = changes(facts, watch);
        let mut due = changes.iter().peekable();
        let (mut stream, mut synced, mut reached) = (u32::MAX, false, 0);
        // The stream's last revision of each counter.
        let mut last: BTreeMap<&str, i64> = BTreeMap::new();
        for told in &watch.told {
            if told.stream != stream {
                stream = told.stream;
                (synced, reached) = (false, 0);
                last.clear();
            }
            // The state starts over, and is complete anew: a stream that breaks before that has nothing to resume from.
            if told.answer.restarted {
                (synced, reached) = (false, 0);
            }
            for counter in &told.answer.counters {
                let before = last.insert(&counter.name, counter.revision).unwrap_or(0);
                // An absent counter has no revision to compare.
                if counter.revision < before && counter.revision > 0 {
                    problems.push(format!("{counter:?} came after revision {before}"));
                }
            }
            if synced && told.answer.synced || told.answer.revision < reached {
                problems.push(format!("after {reached} came {:?}", told.answer));
            }
            (synced, reached) = (synced | told.answer.synced, told.answer.revision);
            problems.extend(untrue(facts, told));
            let deleted = |name| told.answer.deleted.contains(name);
            if told
                .answer
                .counters
                .iter()
                .any(|counter| deleted(&counter.name))
            {
                problems.push(format!(
                    "{:?} has a counter, and has it deleted",
                    told.answer
                ));
            }
            update(&mut view, told);
            let (revision, at) = (told.answer.revision, told.at);
            let named = told.answer.counters.iter().map(|counter| &counter.name);
            for counter in named.chain(&told.answer.deleted) {
                problems.extend(missed(facts, &view, counter, revision, at));
            }
            while let Some((changed, counter)) = due.next_if(|(changed, _)| *changed <= revision) {
                problems.extend(missed(facts, &view, counter, *changed, at));
            }
        }
    }
    problems
}

/// The changes of watched counters, in order.
fn changes<'a>(facts: &'a Facts<'_>, watch: &Watched) -> Vec<(i64, &'a Name)> {
    let mut all = Vec::new();
    for (counter, line) in facts
        .lines
        .iter()
        .filter(|(name, _)| watch.wanted.has(name))
    {
        all.extend(
            line.states[1..]
                .iter()
                .map(|state| (state.revision, counter)),
        );
    }
    all.sort_unstable();
    all
}

/// Reported states that a counter never had, or not yet.
fn untrue(facts: &Facts<'_>, told: &Told) -> Vec<String> {
    let mut problems = Vec::new();
    for counter in &told.answer.counters {
        let Some(line) = facts.lines.get(counter.name.as_str()) else {
            continue;
        };
        let value = (counter.revision > 0).then_some(counter.value);
        let right = match line.find(counter.revision) {
            Some(state) => {
                line.states[state].value == value && line.states[state].span.asked <= told.at
            }
            None => false,
        };
        if !right {
            problems.push(format!("{counter:?} was never so when it was told"));
        }
    }
    problems
}

/// Whether the view lacks the state of a counter at a revision, and every later one.
fn missed(
    facts: &Facts<'_>,
    view: &View,
    counter: &str,
    revision: i64,
    at: Moment,
) -> Option<String> {
    let line = facts.lines.get(counter)?;
    let states = &line.states[line.at(revision)..];
    let right = match view.get(counter) {
        Some((_, told)) => *told >= states[0].revision,
        None => states
            .iter()
            .any(|state| state.value.is_none() && state.span.asked <= at),
    };
    let known = view.get(counter);
    (!right).then(|| format!("{counter} was told as {known:?}, after {:?}", states[0]))
}

/// In the end, each watcher has the stored state.
pub fn watchers_end_at_the_truth(facts: &Facts<'_>) -> Vec<String> {
    let mut problems = Vec::new();
    for watch in &facts.history.watches {
        let mut view = View::new();
        for told in &watch.told {
            update(&mut view, told);
        }
        let stored = facts.now.iter();
        for (name, truth) in stored.filter(|(name, _)| watch.wanted.has(name)) {
            let known = view.remove(&**name);
            if known != Some(*truth) {
                problems.push(format!("{name} is known as {known:?}, and is {truth:?}"));
            }
        }
        let others = view.iter();
        problems.extend(others.map(|known| format!("{known:?} is known, and is not there")));
    }
    problems
}

/// The tallies that watchers were sent, each with its answer.
pub fn tallies<'a>(facts: &'a Facts<'_>) -> impl Iterator<Item = (&'a Told, Seen)> {
    let told = facts.history.watches.iter().flat_map(|watch| &watch.told);
    told.flat_map(|told| {
        let counters = told.answer.counters.iter();
        let tallies = counters.filter(|counter| facts.is_in("tally", &counter.name));
        tallies.map(move |counter| {
            let seen = Seen {
                counter: counter.name.as_str().into(),
                value: counter.value,
                revision: counter.revision,
            };
            (told, seen)
        })
    })
}
