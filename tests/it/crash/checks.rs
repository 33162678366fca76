//! Properties that every run must have. Each check returns the violations that it finds.

mod order;
mod reads;
mod sessions;
mod tallies;
mod watches;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::time::Duration;

use super::finding::found;
use super::history::{Again, History, Outcome, Span, UnnamedFate, Verdict};
use super::link::Names;
use super::operation::Name;
use order::Lines;

/// Maximum number of reported problems of one kind.
const TOLD: usize = 5;

/// Values and revisions by counter name.
pub type Counters = BTreeMap<Name, (i64, i64)>;

/// The state that a run has left.
#[derive(Default)]
pub struct Stored {
    pub counters: Counters,
    pub revision: i64,
}

/// Everything that is known of a run.
pub struct Facts<'a> {
    names: &'a Names,
    history: &'a History,
    /// The state at the end.
    now: &'a Counters,
    /// The state at the beginning.
    before: &'a Stored,
    horizon: Duration,
    /// There are several nodes, which forward requests to each other, perhaps twice.
    several: bool,
    /// The states of each counter whose changes all have known revisions.
    lines: Lines,
    /// Violations found while deriving these states.
    broken: Vec<String>,
}

impl<'a> Facts<'a> {
    pub fn new(
        names: &'a Names,
        history: &'a History,
        now: &'a Counters,
        before: &'a Stored,
        horizon: Duration,
    ) -> Self {
        let (lines, broken) = order::lines(history, &names.prefix("tally"));
        Self {
            names,
            history,
            now,
            before,
            horizon,
            several: false,
            lines,
            broken,
        }
    }

    /// The same facts, of a run with several nodes.
    pub fn of_several_nodes(self) -> Self {
        Self {
            several: true,
            ..self
        }
    }

    pub fn last_revision(&self) -> i64 {
        let all = self.ops().into_iter().map(|op| op.revision);
        all.fold(self.before.revision, i64::max)
    }

    fn is_in(&self, group: &str, counter: &str) -> bool {
        counter.starts_with(&self.names.prefix(group))
    }

    /// Changes whose own revision is known.
    fn changes(&self) -> Vec<Op> {
        let mut all = Vec::new();
        let mut add = |what, span, revision| {
            all.push(Op {
                what,
                span,
                revision,
                lead: Some(1),
            });
        };
        for change in &self.history.changes {
            if let Verdict::Effect { revision, .. } = change.answer.verdict {
                add("a change", change.span, revision);
            }
        }
        for unnamed in &self.history.unnamed {
            if let UnnamedFate::Applied { revision, .. } = unnamed.fate {
                add("a change without id", unnamed.span, revision);
            }
        }
        for session in &self.history.sessions {
            for known in session.acknowledgements.iter().filter(|known| known.exact) {
                add("a message", session.span(known), known.revision);
            }
        }
        all
    }

    /// Everything that has a position in the order, or reveals one.
    fn ops(&self) -> Vec<Op> {
        let mut all = self.changes();
        let mut add = |what, span, revision, lead| {
            all.push(Op {
                what,
                span,
                revision,
                lead,
            });
        };
        for session in &self.history.sessions {
            for known in session.acknowledgements.iter().filter(|known| !known.exact) {
                let span = session.span(known);
                add("an acknowledgement", span, known.revision, Some(1));
            }
        }
        for sum in &self.history.sums {
            add("a sum", sum.span, sum.revision, Some(0));
        }
        for read in &self.history.reads {
            let newest = read.counters.iter().map(|seen| seen.revision).max();
            add("a read", read.span, newest.unwrap_or(0), None);
        }
        for told in self.history.watches.iter().flat_map(|watch| &watch.told) {
            let span = Span {
                asked: told.at,
                answered: told.at,
            };
            add("a watch", span, told.answer.revision, None);
        }
        all
    }
}

/// An operation with a position in the order.
struct Op {
    what: &'static str,
    span: Span,
    revision: i64,
    /// How far its revision must at least exceed those of operations that were answered before it was requested.
    lead: Option<i64>,
}

/// Checks the order of revisions against the order in real time.
fn in_real_time(mut ops: Vec<Op>) -> Vec<String> {
    ops.sort_by_key(|op| op.span.asked);
    let mut answered: Vec<_> = ops.iter().collect();
    answered.sort_by_key(|op| op.span.answered);
    let mut before = answered.into_iter().peekable();
    let mut newest: Option<&Op> = None;
    let mut problems = Vec::new();
    for op in &ops {
        while let Some(earlier) = before.next_if(|other| other.span.answered < op.span.asked) {
            if newest.is_none_or(|newest| newest.revision < earlier.revision) {
                newest = Some(earlier);
            }
        }
        if let (Some(newest), Some(lead)) = (newest, op.lead)
            && op.revision < newest.revision + lead
        {
            problems.push(format!(
                "{} at revision {}, {:?}, is after {} at revision {}, {:?}",
                op.what, op.revision, op.span, newest.what, newest.revision, newest.span
            ));
        }
    }
    problems
}

/// Runs all checks, and fails with everything that they find.
pub fn all(facts: &Facts<'_>) {
    let mut report = String::new();
    macro_rules! check {
        ($($check:path,)*) => {$(
            let problems = $check(facts);
            if !problems.is_empty() {
                let _ = writeln!(report, "{}: {} times", stringify!($check), problems.len());
            }
            for problem in problems.iter().take(TOLD) {
                let _ = writeln!(report, "    {problem}");
            }
        )*};
    }
    check!(
        what_is_stored_is_what_was_acknowledged,
        order::answers_follow_from_one_another,
        no_revision_is_given_twice,
        what_began_later_has_the_larger_revision,
        what_is_sent_again_is_answered_as_it_was_first,
        reads::reads_saw_a_state_of_their_time,
        reads::reads_of_a_group_saw_one_moment,
        reads::reads_do_not_go_back,
        reads::refusals_saw_a_state_of_their_time,
        reads::sums_are_those_of_their_revision,
        watches::watchers_do_not_go_back_and_miss_nothing,
        watches::watchers_end_at_the_truth,
        sessions::messages_are_counted_once_and_in_their_order,
        tallies::tallies_show_a_prefix_of_each_session,
    );
    if !report.is_empty() {
        found(format!("\n{report}"));
    }
}

/// Every counter has the value that the acknowledged changes give it, there are no other counters, and those of earlier
/// runs are unchanged. Of the changes without ids and with unknown outcomes, any subset may have been made.
fn what_is_stored_is_what_was_acknowledged(facts: &Facts<'_>) -> Vec<String> {
    let mut sums: HashMap<Name, i128> = HashMap::new();
    for change in &facts.history.changes {
        if let Verdict::Effect { results, .. } = &change.answer.verdict {
            for (add, result) in change.operation.increments().iter().zip(results) {
                if let Outcome::Applied { applied, .. } = result {
                    *sums.entry(add.counter.clone()).or_default() += i128::from(*applied);
                }
            }
        }
    }
    sums.retain(|counter, _| !facts.is_in("replaced", counter));
    sessions::add_up(facts, &mut sums);
    let mut problems = unnamed(facts, &mut sums);
    let mut expected: BTreeMap<_, _> = sums.into_iter().collect();
    for (counter, line) in &facts.lines {
        let last = line.last();
        if facts.is_in("replaced", counter)
            && let Some(value) = last.value
        {
            expected.insert(counter.clone(), value.into());
        }
        let revision = facts.now.get(counter).map(|(_, revision)| *revision);
        if last.value.is_some() && revision != Some(last.revision) {
            let last = last.revision;
            problems.push(format!("{counter} has {revision:?}, not revision {last}"));
        }
    }
    let mut stored = facts.now.clone();
    for (counter, before) in &facts.before.counters {
        let found = stored.remove(counter);
        if found != Some(*before) {
            problems.push(format!(
                "{counter} was {before:?} before this run, and is {found:?}"
            ));
        }
    }
    for (counter, value) in expected {
        let found = stored.remove(&counter).map(|(value, _)| i128::from(value));
        if found != Some(value) {
            problems.push(format!("{counter} is {found:?}, and should be {value}"));
        }
    }
    problems.extend(
        stored
            .iter()
            .map(|other| format!("nobody has made {other:?}")),
    );
    problems
}

/// Adds changes without ids: those that were made, and those of unknown outcome that are found.
fn unnamed(facts: &Facts<'_>, sums: &mut HashMap<Name, i128>) -> Vec<String> {
    let mut problems = Vec::new();
    let mut unknown: HashMap<Name, i64> = HashMap::new();
    let mut made: HashMap<Name, i64> = HashMap::new();
    for change in &facts.history.unnamed {
        let made = made.entry(change.counter.clone()).or_default();
        let unknown = unknown.entry(change.counter.clone()).or_default();
        match change.fate {
            UnnamedFate::Applied { value, .. } => {
                *made += change.delta;
                // The changes are of one client, one after the other.
                let others = value - *made;
                if others & !*unknown != 0 {
                    problems.push(format!("{} was {value} after {made}", change.counter));
                }
            }
            UnnamedFate::Unknown => *unknown |= change.delta,
            UnnamedFate::NotApplied => {}
        }
    }
    for (counter, made) in made {
        let stored = facts.now.get(&counter).map_or(0, |(value, _)| *value);
        let others = stored.wrapping_sub(made) & unknown[&counter];
        if made + others != 0 {
            sums.insert(counter, (made + others).into());
        }
    }
    problems
}

/// Every change has a revision of its own, above all revisions of earlier runs.
fn no_revision_is_given_twice(facts: &Facts<'_>) -> Vec<String> {
    let mut changes = facts.changes();
    changes.sort_by_key(|change| change.revision);
    let mut problems = Vec::new();
    for (a, b) in changes.iter().zip(&changes[1..]) {
        if a.revision == b.revision {
            let (revision, one, other) = (a.revision, a.what, b.what);
            problems.push(format!("revision {revision} is of {one} and of {other}"));
        }
    }
    let first = changes[0].revision;
    if first <= facts.before.revision {
        problems.push(format!("revision {first} was given by an earlier run"));
    }
    problems
}

/// An operation that began after another was answered has the larger revision.
fn what_began_later_has_the_larger_revision(facts: &Facts<'_>) -> Vec<String> {
    in_real_time(facts.ops())
}

/// A repeated request gets its first answer, and an answer is marked as replayed only if the request was sent more than
/// once. A request that is refused as too old is too old.
fn what_is_sent_again_is_answered_as_it_was_first(facts: &Facts<'_>) -> Vec<String> {
    let mut problems = Vec::new();
    for replay in &facts.history.replays {
        let (operation, first) = (&replay.operation, &replay.first);
        let problem = match &replay.again {
            Again::Answered(again) if again.verdict != *first => {
                format!("{:?}, and not {first:?}", again.verdict)
            }
            Again::Answered(again) => match again.verdict {
                Verdict::Effect { .. } if !again.replayed => "it is not said to be replayed".into(),
                _ => continue,
            },
            // The id has its time in whole milliseconds.
            Again::TooOld(age) if *age + Duration::from_millis(2) < facts.horizon => {
                format!("refused as too old when it was {age:?} old")
            }
            Again::TooOld(_) | Again::Forged => continue,
            Again::Mistaken => "its contents are said to be others".into(),
            Again::Confused(answer) => format!("with other contents, and answered {answer:?}"),
        };
        problems.push(format!("{operation:?} sent again: {problem}"));
    }
    for change in &facts.history.changes {
        if change.answer.replayed && change.attempts == 1 && !facts.several {
            problems.push(format!("{:?} was sent once", change.operation));
        }
    }
    problems
}
