//! Clients with bulk sessions, and the server's part of a stream of one: what `src/counter/record.rs` does, without gRPC.

use std::collections::BTreeMap;
use std::time::Duration;

use fastrand::Rng;
use sumd::counter::parts::Parts;
use sumd::lane::{self, Decided, LaneError};
use sumd::model::{
    Done, Failure, Follows, Limits, Operation, Record, Refused, Request, Session, SessionId,
};
use sumd::proto::sum::v1::IncrementFailure;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::history::{Add, History, Message, Span, increments};
use super::nodes::{BEGAN, Cluster, Node};
use super::plan::{MESSAGES, SESSIONS};
use super::writers::Client;

/// Messages that a client sends before the first of them is acknowledged.
const WINDOW: u64 = 6;

struct Recorder {
    client: Client,
    session: SessionId,
    messages: Vec<Vec<Add>>,
    acknowledged: u64,
    /// When each was first sent, and acknowledged.
    sent: BTreeMap<u64, Instant>,
    known: BTreeMap<u64, Instant>,
}

/// Records messages until all are acknowledged, on one stream after the other.
pub async fn record(cluster: Cluster, mut rng: Rng, who: usize) -> History {
    let messages = (0..MESSAGES).map(|number| message(&mut rng, who, number));
    let mut recorder = Recorder {
        messages: messages.collect(),
        session: format!("session-{who}").into(),
        client: Client::new(&cluster, rng.fork()),
        acknowledged: 0,
        sent: BTreeMap::new(),
        known: BTreeMap::new(),
    };
    while recorder.acknowledged < MESSAGES {
        if let Some(node) = cluster.any(&mut recorder.client.rng) {
            node.lives(recorder.stream(&node)).await;
        }
        sleep(Duration::from_millis(recorder.client.rng.u64(1..500))).await;
    }
    let mut history = recorder.client.history;
    for (number, adds) in (1..).zip(recorder.messages) {
        history.messages.push(Message {
            session: who,
            adds,
            span: Span {
                asked: recorder.sent[&number],
                answered: recorder.known[&number],
            },
        });
    }
    history
}

/// Each has its own bit in each counter that it adds to; and some add what fails.
fn message(rng: &mut Rng, who: usize, number: u64) -> Vec<Add> {
    let delta = 1 << (who as u64 * MESSAGES + number);
    let mut adds = Vec::new();
    for group in SESSIONS {
        if rng.bool() {
            adds.push(Add {
                name: format!("{group}/{}", rng.u8(..2)),
                delta,
                limits: Limits::default(),
            });
        }
        if rng.u8(..6) == 0 {
            adds.push(Add {
                name: format!("{group}/0"),
                delta: 1,
                limits: Limits {
                    max: Some(-1),
                    ..Limits::default()
                },
            });
        }
    }
    adds
}

impl Recorder {
    /// One stream, until something goes wrong with it or nothing is left.
    async fn stream(&mut self, node: &Node) {
        let Ok(lanes) = node.store.session(self.session.clone()).await else {
            return;
        };
        let (applied, failures) = Session::merge(&lanes.lanes);
        if applied > self.sent.len() as u64 {
            self.client.problem(format!("{applied} was never sent"));
        }
        self.learn(applied, &to_proto(&failures));
        let digests = super::rows::digests();
        let count = node.store.lanes();
        let mut parts = Parts::new(digests, count, &self.session, self.acknowledged);
        let (replies, mut answers) = mpsc::unbounded_channel();
        let mut next = self.acknowledged + 1;
        let window = self.client.rng.u64(1..=WINDOW);
        while self.acknowledged < MESSAGES {
            if next <= MESSAGES && next <= self.acknowledged + window {
                // A message that is sent again on the same stream changes nothing.
                let again = self.client.rng.u8(..8) == 0 && next - 1 > self.acknowledged;
                let sequence = if again { next - 1 } else { next };
                if self
                    .send(node, &mut parts, sequence, &replies)
                    .await
                    .is_err()
                {
                    return;
                }
                next += u64::from(!again);
                sleep(Duration::from_millis(self.client.rng.u64(..60))).await;
                continue;
            }
            let Some(answer) = answers.recv().await else {
                return;
            };
            sleep(Duration::from_millis(self.client.rng.u64(..4))).await;
            if !self.take(&mut parts, answer) {
                return;
            }
        }
    }

    /// Hands each lane its part of a message.
    async fn send(
        &mut self,
        node: &Node,
        parts: &mut Parts,
        sequence: u64,
        replies: &mpsc::UnboundedSender<lane::Result<Decided>>,
    ) -> Result<(), LaneError> {
        let at = usize::try_from(sequence - 1).expect("few");
        let mut whole = increments(&self.messages[at]);
        self.sent.entry(sequence).or_insert_with(Instant::now);
        for (lane, part) in parts.split(sequence, self.acknowledged, 0, &whole) {
            let increments = part.take(&mut whole);
            let count = increments.len();
            let record = Record {
                session: self.session.clone(),
                time: BEGAN,
                sequence,
                acknowledged: self.acknowledged,
                follows: Follows::InLane(part),
                contents: super::rows::digests().message(&increments),
                increments,
            };
            let request = Request {
                id: None,
                operation: Operation::Record(record),
            };
            node.lanes
                .enqueue(lane, request, count, replies.clone())
                .await?;
        }
        Ok(())
    }

    /// `false` where the stream has come to an end by that.
    fn take(&mut self, parts: &mut Parts, answer: lane::Result<Decided>) -> bool {
        let decided = match answer {
            Ok(decided) => decided,
            Err(LaneError::Refused(Refused::Overtaken { .. } | Refused::Acknowledged { .. })) => {
                return false;
            }
            Err(LaneError::Refused(refused)) => {
                let session = self.session.clone();
                self.client.problem(format!("{session}: {refused:?}"));
                return false;
            }
            Err(_) => return false,
        };
        let Done::Recorded {
            acknowledged,
            failures,
        } = decided.answer.done
        else {
            self.client.problem(format!("{decided:?} is no answer"));
            return false;
        };
        for whole in parts.durable(
            decided.lane,
            acknowledged,
            decided.revision,
            to_proto(&failures),
        ) {
            self.learn(whole.sequence, &whole.failures);
        }
        true
    }

    /// Messages up to this one are acknowledged, and these failures of those that were not.
    fn learn(&mut self, acknowledged: u64, failures: &[IncrementFailure]) {
        for number in self.acknowledged + 1..=acknowledged {
            let at = usize::try_from(number - 1).expect("few");
            let all = (0..).zip(&self.messages[at]);
            let expected = all.filter(|(_, add)| add.limits.max.is_some());
            let told = failures.iter().filter(|failure| failure.sequence == number);
            if !expected
                .map(|(index, _): (u32, _)| index)
                .eq(told.map(|failure| failure.index))
            {
                let session = self.session.clone();
                self.client
                    .problem(format!("{session}: {number} failed as {failures:?}"));
            }
            self.known.insert(number, Instant::now());
        }
        self.acknowledged = self.acknowledged.max(acknowledged);
    }
}

/// As a stream tells them, but for the words.
fn to_proto(failures: &[(u64, Failure)]) -> Vec<IncrementFailure> {
    let told = |(sequence, failure): &(u64, Failure)| IncrementFailure {
        sequence: *sequence,
        index: failure.index,
        error: None,
    };
    failures.iter().map(told).collect()
}
