//! The order of revisions agrees with real time.

use crate::simulation::history::{End, History, Span};

/// An event with a position in the order.
struct Event {
    what: String,
    span: Span,
    revision: i64,
    /// Whether the revision is its own; a read has that of the change before it.
    own: bool,
}

/// No revision is given twice, and an operation that was requested after another was answered has the larger revision.
pub fn revisions_are_as_time_goes(history: &History, problems: &mut Vec<String>) {
    let mut events = events(history);
    events.sort_by_key(|event| event.revision);
    let own: Vec<_> = events.iter().filter(|event| event.own).collect();
    for pair in own.windows(2) {
        if pair[0].revision == pair[1].revision {
            let (one, other) = (&pair[0].what, &pair[1].what);
            problems.push(format!("{one} and {other} are at {}", pair[0].revision));
        }
    }
    events.sort_by_key(|event| event.span.asked);
    let mut answered: Vec<&Event> = events.iter().collect();
    answered.sort_by_key(|event| event.span.answered);
    let mut before = answered.into_iter().peekable();
    let mut newest: Option<&Event> = None;
    for event in &events {
        let is_before = |other: &&Event| other.span.answered < event.span.asked;
        while let Some(earlier) = before.next_if(|other| is_before(other)) {
            if newest.is_none_or(|newest| newest.revision < earlier.revision) {
                newest = Some(earlier);
            }
        }
        if let Some(newest) = newest
            && event.revision < newest.revision + i64::from(event.own)
        {
            problems.push(format!(
                "{} at {} comes after {} at {}",
                event.what, event.revision, newest.what, newest.revision
            ));
        }
    }
}

fn events(history: &History) -> Vec<Event> {
    let mut events = Vec::new();
    let mut add = |what: String, span, revision, own| {
        events.push(Event {
            what,
            span,
            revision,
            own,
        });
    };
    for named in &history.named {
        add(named.id.clone(), named.span, named.answer.revision, true);
    }
    for bit in &history.bits {
        if let End::Effect(answer) = &bit.end {
            let what = format!("{:b} of {}", bit.delta, bit.counter);
            add(what, bit.span, answer.revision, true);
        }
    }
    for read in &history.reads {
        add("a read".into(), read.span, read.revision(), false);
    }
    events
}
