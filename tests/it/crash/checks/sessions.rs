//! Recorded messages of sessions, checked against their effects.

use std::collections::{BTreeMap, HashMap};

use super::Facts;
use crate::crash::history::{Acknowledgement, Recorded, Span};
use crate::crash::operation::{LimitError, Name};
use crate::crash::sessions::RECORDERS;

impl Recorded {
    /// The span from the first sending of a message to its acknowledgement.
    pub fn span(&self, known: &Acknowledgement) -> Span {
        let message = &self.messages[known.number - 1];
        Span {
            asked: message.sent.expect("it was sent"),
            answered: known.at,
        }
    }

    /// The values of this client's own counters, and the increments that fail, as they follow from the order of the
    /// messages.
    fn replay(&self) -> (HashMap<Name, i64>, BTreeMap<(usize, usize), LimitError>) {
        let (mut values, mut failures) = (HashMap::new(), BTreeMap::new());
        for (number, message) in (1..).zip(&self.messages) {
            for (index, add) in message.increments.iter().enumerate() {
                let before = values.get(&add.counter).copied().unwrap_or(0);
                match add.onto(before) {
                    Ok(value) => drop(values.insert(add.counter.clone(), value)),
                    Err(refusal) => drop(failures.insert((number, index), refusal)),
                }
            }
        }
        (values, failures)
    }
}

/// Adds the increments of all sessions' messages.
pub fn add_up(facts: &Facts<'_>, sums: &mut HashMap<Name, i128>) {
    for session in &facts.history.sessions {
        for (counter, value) in session.replay().0 {
            *sums.entry(counter).or_default() += i128::from(value);
        }
    }
}

/// Every message is acknowledged. Exactly those increments are reported as failed that fail in the order of the
/// messages, with the values that they found. A failure that is reported again is the same.
pub fn messages_are_counted_once_and_in_their_order(facts: &Facts<'_>) -> Vec<String> {
    let mut problems = Vec::new();
    assert_eq!(facts.history.sessions.len(), RECORDERS);
    for session in &facts.history.sessions {
        let who = session.who;
        let last = session
            .acknowledgements
            .iter()
            .map(|known| known.number)
            .max();
        if last.unwrap_or(0) != session.messages.len() {
            problems.push(format!("{who}: the last acknowledgement is of {last:?}"));
        }
        problems.extend(session.contradictions.iter().cloned());
        let (_, expected) = session.replay();
        for (key, refusal) in &expected {
            let told = session.failures.get(key);
            if told != Some(refusal) {
                problems.push(format!(
                    "{who}: {key:?} is {refusal:?}, and was told {told:?}"
                ));
            }
        }
        for (key, told) in &session.failures {
            if !expected.contains_key(key) {
                problems.push(format!("{who}: {key:?} was told {told:?}, and is none"));
            }
        }
    }
    problems
}
