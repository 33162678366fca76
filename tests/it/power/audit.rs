//! Starts a server on a disk that a loss of power has left, and checks its state and its answers against the earlier
//! answers.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use fastrand::Rng;
use sumd::proto::sum::v1::{ListCountersRequest, SumCountersRequest};
use tokio::task::JoinSet;

use super::FLAGS;
use super::load::{Told, connect, record};
use super::recording::{Position, data};
use crate::crash::history::{Answer, Outcome, Verdict};
use crate::crash::operation::{Add, Client, Name, Operation};
use crate::support::process::{Process, run};
use crate::support::soon;

/// Number of clients that repeat their requests.
const RETRIERS: usize = 8;
/// Number of messages that a session continues with.
const MORE: usize = 5;

/// Values by counter name.
type Counters = BTreeMap<Name, i64>;

/// Numbers of calls and messages that were found on a disk.
#[derive(Default)]
pub struct Found {
    pub answered: usize,
    /// Durable, but not answered before the power was lost.
    pub unanswered: usize,
}

/// Checks that the state is a prefix of all changes in the order of revisions, that it contains everything that was
/// answered before `cut`, and that repeated requests count once. Panics if that is not so.
///
/// If a flush has failed before (`has_failed`), a change without an answer by then may be on disk, and a later server
/// that did not find it may have made it with another result.
pub async fn audit(
    disk: &Path,
    cut: Position,
    has_failed: bool,
    told: &Arc<Told>,
    mut rng: Rng,
) -> Found {
    let folder = data(disk);
    let folder = folder.to_str().expect("a path that is text");
    let answered = told.changes.iter().filter(|change| change.answered <= cut);
    let answered = answered.count();
    let mut found = Found {
        answered,
        unanswered: 0,
    };
    // Before the first answer, there may be no database.
    if answered > 0 && rng.bool() {
        check(folder).await;
    }
    let flags = [&["--data-dir", folder], &FLAGS[..]].concat();
    let mut server = Process::serve(&flags).await;
    let mut client = connect(&server.address).await;

    let last = last_revision(&mut client).await;
    let before = list(&mut client).await;
    let mut sessions = Counters::new();
    let mut recorded = Vec::new();
    for session in &told.sessions {
        let known = session.acknowledged(cut);
        let mut done = 0;
        let asked = record(&mut client, &session.id, &[], known, |last| done = last);
        asked.await.expect("no error");
        assert!(done >= known, "of {known} messages {done} are there");
        add_messages(&mut sessions, &session.messages[..done]);
        found.answered += known;
        found.unanswered += done - known;
        recorded.push((session, known, done));
    }

    let answers = retry(&client, told, &mut rng).await;
    let mut there = Vec::new();
    for (change, answer) in told.changes.iter().zip(&answers) {
        let is_there = answer.replayed;
        let is_same = is_there && answer.verdict == change.verdict;
        let was_there = revision(&change.verdict) <= last;
        let is_right = if change.answered <= cut {
            is_same
        } else {
            has_failed || is_same || !(is_there || was_there)
        };
        let is_one = is_there == (revision(&answer.verdict) <= last);
        assert!(
            is_right && is_one,
            "{change:?} is lost or done otherwise: after revision {last} {answer:?}"
        );
        if is_there {
            there.push((&change.operation, &answer.verdict));
        }
    }
    found.unanswered += there.len() - answered;
    let mut expected = totals(there.into_iter());
    expected.extend(sessions);
    assert_same(&before, &expected);

    let changes = told.changes.iter().zip(&answers);
    let changes = changes.map(|(change, answer)| (&change.operation, &answer.verdict));
    let mut expected = totals(changes);
    for (session, known, done) in recorded {
        let all = session.messages.len();
        let messages = &session.messages[..all.min(done + MORE)];
        let recorded = record(&mut client, &session.id, messages, known, |_| {});
        recorded.await.expect("no error");
        add_messages(&mut expected, messages);
    }
    assert_same(&list(&mut client).await, &expected);
    server.signal("TERM");
    assert!(server.exit().await.success());
    check(folder).await;
    found
}

async fn check(folder: &str) {
    let found = run(&["check", "--data-dir", folder]).await;
    assert!(found.status.success(), "sumd check: {found:?}");
}

/// The last revision.
async fn last_revision(client: &mut Client) -> i64 {
    let all = SumCountersRequest::default();
    let sum = soon(client.sum_counters(all)).await;
    sum.expect("a sum").into_inner().revision
}

fn revision(verdict: &Verdict) -> i64 {
    match verdict {
        Verdict::Effect { revision, .. } => *revision,
        Verdict::Rejection { refusal, .. } => panic!("nothing is beyond any limit: {refusal:?}"),
    }
}

/// The values that changes lead to, in the order of their revisions and with their answers.
fn totals<'a>(changes: impl Iterator<Item = (&'a Operation, &'a Verdict)>) -> Counters {
    let mut changes: Vec<_> = changes.collect();
    changes.sort_by_key(|(_, verdict)| revision(verdict));
    let mut counters = Counters::new();
    let mut last = 0;
    for (operation, verdict) in changes {
        let Verdict::Effect { revision, results } = verdict else {
            continue;
        };
        assert!(*revision > last, "revision {revision} was given twice");
        last = *revision;
        let made = make(operation, &mut counters);
        assert_eq!(made, *results, "{operation:?} at {revision}");
    }
    counters
}

fn make(operation: &Operation, counters: &mut Counters) -> Vec<Outcome> {
    let replaced = |before: Option<i64>| vec![Outcome::Replaced(before.unwrap_or(0))];
    match operation {
        Operation::Set(name, value) => replaced(counters.insert(name.clone(), *value)),
        Operation::Delete(name) => replaced(counters.remove(name)),
        Operation::Increment(_) | Operation::Batch(_) => {
            let mut results = Vec::new();
            for add in operation.increments() {
                let counter = counters.entry(add.counter.clone()).or_default();
                *counter += add.delta;
                results.push(Outcome::Applied {
                    value: *counter,
                    applied: add.delta,
                });
            }
            results
        }
    }
}

fn add_messages(counters: &mut Counters, messages: &[Vec<Add>]) {
    for add in messages.iter().flatten() {
        *counters.entry(add.counter.clone()).or_default() += add.delta;
    }
}

fn assert_same(found: &Counters, expected: &Counters) {
    for name in found.keys().chain(expected.keys()) {
        let (found, expected) = (found.get(name), expected.get(name));
        assert_eq!(found, expected, "{name} is not what was answered");
    }
}

async fn list(client: &mut Client) -> Counters {
    let mut counters = Counters::new();
    let mut page_token = String::new();
    loop {
        let request = ListCountersRequest {
            page_size: 1000,
            page_token,
            ..ListCountersRequest::default()
        };
        let page = soon(client.list_counters(request)).await;
        let page = page.expect("a page").into_inner();
        let listed = page.counters.into_iter();
        counters.extend(listed.map(|counter| (counter.name.into(), counter.value)));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return counters;
        }
    }
}

/// Repeats every change, in random order, and returns the answers in the order of the changes.
async fn retry(client: &Client, told: &Arc<Told>, rng: &mut Rng) -> Vec<Answer> {
    let mut order: Vec<_> = (0..told.changes.len()).collect();
    rng.shuffle(&mut order);
    let mut retriers = JoinSet::new();
    for part in order.chunks(order.len().div_ceil(RETRIERS).max(1)) {
        let (mut client, told, part) = (client.clone(), told.clone(), part.to_vec());
        retriers.spawn(async move {
            let mut answers = Vec::new();
            for at in part {
                let change = &told.changes[at];
                let answer = soon(change.operation.send(&mut client, &change.id)).await;
                answers.push((at, answer.expect("an answer")));
            }
            answers
        });
    }
    let mut answers: Vec<_> = retriers.join_all().await.into_iter().flatten().collect();
    answers.sort_by_key(|(at, _)| *at);
    answers.into_iter().map(|(_, answer)| answer).collect()
}
