//! Clients with bulk sessions, each on one stream of a node's service after the other.

pub mod stream;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use fastrand::Rng;
use sumd::model::{Limits, Millis};
use sumd::proto::sum::v1::RecordIncrementsResponse;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;
use tonic_types::StatusExt as _;

use super::history::{Add, History, Message};
use super::nodes::{Cluster, Node};
use super::plan::{MESSAGES, SESSIONS};
use super::writers::Client;
use stream::Stream;

/// Messages that a client sends before the first of them is acknowledged.
const WINDOW: u64 = 6;

struct Recorder {
    client: Client,
    session: String,
    began: Millis,
    /// The longest time between two messages.
    pace: Duration,
    messages: Vec<Vec<Add>>,
    acknowledged: u64,
    /// How far the client's declared acknowledgement is behind.
    lag: u64,
    /// When each message was first sent, and acknowledged.
    sent: BTreeMap<u64, Instant>,
    known: BTreeMap<u64, Instant>,
    /// The server has forgotten the session: messages without an acknowledgement by now may be counted, or not.
    is_lost: bool,
    /// How often each message was sent.
    copies: HashMap<u64, u32>,
    /// The client has given up this message after an error that said that it is not applied and never will be.
    refused: Option<u64>,
}

/// Records messages until all are acknowledged, on one stream after the other.
pub async fn record(cluster: Cluster, mut rng: Rng, who: usize) -> History {
    let messages = (0..MESSAGES).map(|number| message(&mut rng, who, number));
    let mut recorder = Recorder {
        messages: messages.collect(),
        session: format!("session-{who}"),
        began: cluster.now(),
        pace: Duration::from_millis([60, 1_500][rng.usize(..2)]),
        client: Client::new(&cluster, rng.fork()),
        acknowledged: 0,
        lag: [0, 0, 2, u64::MAX][rng.usize(..4)],
        sent: BTreeMap::new(),
        known: BTreeMap::new(),
        is_lost: false,
        copies: HashMap::new(),
        refused: None,
    };
    while recorder.acknowledged < MESSAGES && !recorder.is_lost && recorder.refused.is_none() {
        if let Some(node) = cluster.any(&mut recorder.client.rng) {
            node.lives(recorder.stream(&node)).await;
        }
        let is_away = cluster.plan.offline && recorder.client.rng.u8(..3) == 0;
        let most = if is_away { 200_000 } else { 500 };
        sleep(Duration::from_millis(recorder.client.rng.u64(1..most))).await;
    }
    let mut history = recorder.client.history;
    for (number, adds) in (1..).zip(recorder.messages) {
        if let Some(asked) = recorder.sent.get(&number) {
            history.messages.push(Message {
                session: who,
                adds,
                asked: *asked,
                known: recorder.known.get(&number).copied(),
                not: recorder.refused == Some(number),
            });
        }
    }
    history
}

/// The increments of a message. It has its own bit in each counter that it adds to; some increments fail.
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
    /// Runs one stream until it breaks or no message is left.
    async fn stream(&mut self, node: &Node) {
        let mut stream = Stream::open(node);
        let window = self.client.rng.u64(1..=WINDOW);
        let mut next = self.acknowledged + 1;
        let mut is_named = true;
        if self.client.rng.bool() {
            self.send(&stream, 0, std::mem::take(&mut is_named));
        }
        while self.acknowledged < MESSAGES {
            let may_send = next <= MESSAGES.min(self.acknowledged + window);
            let mut pause = Duration::from_mins(1);
            if may_send {
                // A message that is repeated on the same stream changes nothing.
                let again = self.client.rng.u8(..8) == 0 && next - 1 > self.acknowledged;
                let sequence = if again { next - 1 } else { next };
                self.send(&stream, sequence, std::mem::take(&mut is_named));
                next += u64::from(!again);
                pause = self.pace.mul_f64(self.client.rng.f64());
            }
            match timeout(pause, stream.next()).await {
                Ok(Ok(answer)) => {
                    sleep(Duration::from_millis(self.client.rng.u64(..4))).await;
                    self.learn(&answer);
                    next = next.max(self.acknowledged + 1);
                }
                Ok(Err(status)) => return self.judge(&status),
                Err(_) => {}
            }
            if self.client.cluster.plan.offline && self.client.rng.u8(..5) == 0 {
                // The client leaves, with messages in flight.
                return;
            }
        }
    }

    /// Sends a message; 0 asks which messages are acknowledged.
    fn send(&mut self, stream: &Stream, sequence: u64, is_named: bool) {
        let at = usize::try_from(sequence).expect("few").checked_sub(1);
        let adds = at.map_or(&[][..], |at| &self.messages[at]);
        let known = self.acknowledged.saturating_sub(self.lag);
        let session = &self.session;
        let mut request = stream::request(session, self.began, sequence, known, adds);
        if !is_named && self.client.rng.bool() {
            request.session_id.clear();
            request.session_time = None;
        }
        if sequence > 0 {
            self.sent.entry(sequence).or_insert_with(Instant::now);
            *self.copies.entry(sequence).or_default() += 1;
        }
        stream.send(&request);
    }

    /// Checks the reason of a stream's end: a transient failure, or a session that was forgotten after a long time. If
    /// a message is reported as not applied although it is, the bits show it, because a client that has sent it once
    /// may give it up.
    fn judge(&mut self, status: &Status) {
        let plan = self.client.cluster.plan.clone();
        let info = status.get_details_error_info();
        let reason = info.as_ref().map_or("", |info| info.reason.as_str());
        match reason {
            // A lane that has failed is of a node that is about to end.
            "MESSAGE_OVERTAKEN" | "STORE_UNAVAILABLE" | "STORE_FULL" | "STORE_FAILED"
            | "OVERLOADED" | "SHUTTING_DOWN" => {}
            "SESSION_TOO_OLD" | "SESSION_LOST" if plan.offline || plan.jump > 0 => {
                self.is_lost = true;
            }
            // The session was forgotten, and the client has not said how far it was: the server asks it to start over.
            "SEQUENCE_GAP" if self.lag > 0 && (plan.offline || plan.jump > 0) => {
                self.is_lost = true;
            }
            // From a node whose clock is wrong; others are right.
            "SESSION_FROM_FUTURE" if plan.jump > 0 => {}
            _ => {
                let session = self.session.clone();
                self.client.problem(format!("{session}: {status:?}"));
            }
        }
        let outcome = info.as_ref().and_then(|info| info.metadata.get("outcome"));
        let next = self.acknowledged + 1;
        let is_only_copy = self.sent.len() as u64 == next && self.copies[&next] == 1;
        match outcome.map(String::as_str) {
            Some("UNKNOWN") => {}
            Some("NOT_APPLIED") => {
                if is_only_copy && self.client.rng.bool() {
                    self.refused = Some(next);
                }
            }
            _ => {
                let session = self.session.clone();
                self.client
                    .problem(format!("{session}: without an outcome: {status:?}"));
            }
        }
    }

    /// Records an acknowledgement, and checks the failures of the acknowledged messages.
    fn learn(&mut self, answer: &RecordIncrementsResponse) {
        let acknowledged = answer.acknowledged;
        if acknowledged > self.sent.len() as u64 {
            let session = self.session.clone();
            self.client
                .problem(format!("{session}: {acknowledged} was never sent"));
            return;
        }
        for number in self.acknowledged + 1..=acknowledged {
            let at = usize::try_from(number - 1).expect("few");
            let all = (0..).zip(&self.messages[at]);
            let expected = all.filter(|(_, add)| add.limits.max.is_some());
            let failures = answer.failures.iter();
            let told = failures.filter(|failure| failure.sequence == number);
            // The failures of a message that was sent twice are reported twice.
            let told: BTreeSet<u32> = told.map(|failure| failure.index).collect();
            if !expected.map(|(index, _): (u32, _)| index).eq(told) {
                let session = self.session.clone();
                self.client
                    .problem(format!("{session}: {number} failed as {answer:?}"));
            }
            self.known.insert(number, Instant::now());
        }
        self.acknowledged = self.acknowledged.max(acknowledged);
    }
}
