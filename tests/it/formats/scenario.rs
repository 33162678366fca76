//! The requests that every fixture got before it was stored, and the state that it must always have.

use std::collections::BTreeMap;
use std::time::SystemTime;

use sumd::proto::sum::v1::{IncrementCounterRequest, ListCountersRequest, RecordIncrementsRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::BEGUN;
use crate::crash::history::{Answer, Outcome, Verdict};
use crate::crash::operation::{Add, Client, Operation};
use crate::support::{reason, soon};

/// A moved fixture has two parts, from before and after the move. Their names differ.
pub type Part = &'static str;

/// Number of increments, each in a batch of its own: too many for a head in etcd, so that packs are needed.
const MANY: usize = 60;

/// Values by counter name.
pub type Counters = BTreeMap<String, i64>;

/// A change with an id and its results, or `None` if a limit refused it.
struct Asked {
    id: String,
    operation: Operation,
    results: Option<Vec<Outcome>>,
}

fn asked(part: Part) -> Vec<Asked> {
    let add = |counter: &str, delta| Add::new(format!("{part}/{counter}").into(), delta);
    let added = |value, applied| Outcome::Applied { value, applied };
    let name = |counter: &str| format!("{part}/{counter}").into();
    let limited = Add {
        max: Some(5),
        ..add("e", 10)
    };
    let saturating = Add {
        max: Some(5),
        saturate: true,
        ..add("f", 10)
    };
    let changes = vec![
        (Operation::Increment(add("a", 5)), Some(vec![added(5, 5)])),
        (Operation::Increment(add("a", 2)), Some(vec![added(7, 2)])),
        (
            Operation::Batch(vec![add("b", 1), add("c", 9)]),
            Some(vec![added(1, 1), added(9, 9)]),
        ),
        (
            Operation::Set(name("d"), 100),
            Some(vec![Outcome::Replaced(0)]),
        ),
        (
            Operation::Delete(name("b")),
            Some(vec![Outcome::Replaced(1)]),
        ),
        (Operation::Increment(limited), None),
        (Operation::Increment(saturating), Some(vec![added(5, 5)])),
    ];
    let many = (0..MANY).map(|i| {
        let add = add(&format!("many-{i}"), 1);
        (Operation::Increment(add), Some(vec![added(1, 1)]))
    });
    let all = changes.into_iter().chain(many).enumerate();
    all.map(|(i, (operation, results))| Asked {
        id: format!("{part}-{i}"),
        operation,
        results,
    })
    .collect()
}

/// The messages of a session. The first increment of the second message fails.
fn messages(part: Part) -> [Vec<Add>; 3] {
    let add = |counter: &str, delta| Add::new(format!("{part}{counter}").into(), delta);
    [
        vec![add("/a", 1), add("-bulk/x", 3)],
        vec![add("/c", i64::MAX), add("-bulk/y", 4)],
        // Sent by the test alone.
        vec![add("-bulk/x", 1)],
    ]
}

/// Sends all requests of a part.
pub async fn fill(client: &mut Client, part: Part) {
    for Asked {
        id,
        operation,
        results,
    } in asked(part)
    {
        let answer = soon(operation.send(client, &id)).await;
        assert_eq!(outcome(answer), (false, results), "{operation:?}");
    }
    let resumed = record(client, part, 0, 2).await;
    assert_eq!(resumed, (0, vec![(2, 0)]));
}

/// The values of the counters, before or after [`go_on`].
pub fn expected(parts: &[Part], gone_on: bool) -> Counters {
    let mut counters = Counters::new();
    for part in parts {
        let more = i64::from(gone_on);
        let values = [("/a", 8 + more), ("/c", 9), ("/d", 100), ("/f", 5)];
        let values = values
            .into_iter()
            .chain([("-bulk/x", 3 + more), ("-bulk/y", 4)]);
        counters.extend(values.map(|(name, value)| (format!("{part}{name}"), value)));
        counters.extend((0..MANY).map(|i| (format!("{part}/many-{i}"), 1)));
    }
    counters
}

/// All repeated requests get their first answers, and count no more.
pub async fn assert_remembered(client: &mut Client, part: Part) {
    for Asked {
        id,
        operation,
        results,
    } in asked(part)
    {
        let answer = soon(operation.send(client, &id)).await;
        // A repeated refusal is not marked as a replay.
        let is_replay = results.is_some();
        assert_eq!(outcome(answer), (is_replay, results), "{id}: {operation:?}");
        // Another request with this id changes nothing.
        let forged = soon(operation.forged().send(client, &id)).await;
        let refused = forged.expect_err("the id is known");
        assert_eq!(refused.code(), Code::AlreadyExists, "{id}: {refused}");
    }
}

/// A session resumes with the failures that its client may not know, and repeated messages count no more. Then one more
/// message counts, and one more increment.
pub async fn go_on(client: &mut Client, part: Part) {
    let resumed = record(client, part, 0, 2).await;
    assert_eq!(resumed, (2, vec![(2, 0)]), "of session {part}");
    let resumed = record(client, part, 2, 3).await;
    assert_eq!(resumed, (2, vec![]), "of session {part}");
    let request = IncrementCounterRequest {
        counter: format!("{part}/a"),
        delta: 1,
        ..IncrementCounterRequest::default()
    };
    let added = soon(client.increment_counter(request)).await;
    assert_eq!(added.expect("a value").into_inner().value, 9);
}

/// Checks that the session is known, after [`go_on`].
pub async fn assert_session_is_known(client: &mut Client, part: Part) {
    let resumed = record(client, part, 2, 3).await;
    assert_eq!(resumed, (3, vec![]), "of session {part}");
}

fn outcome(answer: Result<Answer, Status>) -> (bool, Option<Vec<Outcome>>) {
    match answer {
        Ok(answer) => match answer.verdict {
            Verdict::Effect { results, .. } => (answer.replayed, Some(results)),
            Verdict::Rejection { .. } => panic!("a refusal is no answer"),
        },
        Err(status) => {
            assert_eq!(reason(&status).0, "LIMIT_REACHED", "{status}");
            (false, None)
        }
    }
}

/// Sends the messages of a session after `acknowledged`, up to one. Returns the last message that was there before, and
/// the reported failures.
async fn record(
    client: &mut Client,
    part: Part,
    acknowledged: u64,
    up_to: u64,
) -> (u64, Vec<(u64, u32)>) {
    let (requests, receiver) = mpsc::channel(8);
    let send = async |sequence: u64, increments: &[Add]| {
        let request = RecordIncrementsRequest {
            session_id: format!("{part}-meter"),
            session_time: Some((SystemTime::UNIX_EPOCH + BEGUN).into()),
            sequence,
            acknowledged,
            increments: increments.iter().map(Add::to_proto).collect(),
        };
        requests.send(request).await.expect("it is read");
    };
    send(0, &[]).await;
    let answers = client.record_increments(ReceiverStream::new(receiver));
    let mut answers = soon(answers).await.expect("a stream").into_inner();
    let mut failures = Vec::new();
    let mut resumed = None;
    loop {
        let answer = soon(answers.message()).await.expect("an answer");
        let answer = answer.expect("more of them");
        let told = answer.failures.iter();
        // A stream may report once more a failure that its first message declares as known.
        let told = told.filter(|failure| failure.sequence > acknowledged);
        failures.extend(told.map(|failure| (failure.sequence, failure.index)));
        if resumed.is_none() {
            resumed = Some(answer.acknowledged);
            for (sequence, message) in (1..=up_to).zip(messages(part)) {
                if sequence > acknowledged {
                    send(sequence, &message).await;
                }
            }
        }
        if answer.acknowledged >= up_to {
            break;
        }
    }
    drop(requests);
    while soon(answers.message()).await.expect("no error").is_some() {}
    (resumed.expect("an answer"), failures)
}

pub async fn list(client: &mut Client) -> Counters {
    let request = ListCountersRequest {
        page_size: 1000,
        ..ListCountersRequest::default()
    };
    let page = soon(client.list_counters(request)).await;
    let counters = page.expect("a page").into_inner().counters;
    counters
        .into_iter()
        .map(|counter| (counter.name, counter.value))
        .collect()
}
