//! Clients that change counters, and note with each answer the position of the log: later cuts must contain the change.

use std::path::{Path, PathBuf};
use std::time::Duration;

use fastrand::Rng;
use sumd::proto::sum::v1::RecordIncrementsRequest;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Status;
use uuid::Uuid;

use super::recording::{Position, position};
use crate::crash::history::Verdict;
use crate::crash::operation::{Add, Client, Operation};
use crate::support::soon;

/// Numbers of clients that make calls, and that record in bulk.
const CALLERS: usize = 20;
const RECORDERS: usize = 2;

/// Callers wait for some of these steps between two calls, so that they run as long as the recorders, and several call
/// at once.
const STEP: Duration = Duration::from_millis(100);

/// Prefix of the counters that are recorded in bulk.
const BULK: &str = "bulk/";
/// Enough counters, with names long enough, for a few messages to fill the write-ahead log, so that it begins again.
const METERS: usize = 8000;
const NAME: usize = 240;
/// Increments per message.
const INCREMENTS: usize = 150;
/// Messages that are sent before earlier ones are acknowledged.
const AHEAD: usize = 2;

/// How much the clients do before a server ends.
#[derive(Clone, Copy)]
pub struct Load {
    /// For each caller.
    pub calls: usize,
    /// For each recorder.
    pub messages: usize,
}

/// The clients' requests and answers.
pub struct Told {
    pub changes: Vec<Change>,
    /// Requests without an answer, which are sent again with the same ids.
    pending: Vec<Asked>,
    pub sessions: Vec<Session>,
    /// The position of the log when each server had given its first answer.
    pub first_answers: Vec<Position>,
}

/// A requested change, perhaps sent to several servers in turn.
struct Asked {
    /// `None` before it is sent.
    id: Option<String>,
    operation: Operation,
}

#[derive(Debug)]
pub struct Change {
    pub id: String,
    pub operation: Operation,
    pub verdict: Verdict,
    /// Disks that are cut at or after this position must have it.
    pub answered: Position,
}

pub struct Session {
    pub id: String,
    pub messages: Vec<Vec<Add>>,
    /// Acknowledged messages, each with the position from which cut disks must have it.
    acknowledged: Vec<(usize, Position)>,
}

impl Session {
    /// The last message that was acknowledged before a cut.
    pub fn acknowledged(&self, cut: Position) -> usize {
        let before = self.acknowledged.iter().filter(|(_, at)| *at <= cut);
        before.map(|(message, _)| *message).max().unwrap_or(0)
    }

    fn is_done(&self) -> bool {
        self.acknowledged(Position::MAX) == self.messages.len()
    }
}

impl Told {
    pub fn new() -> Self {
        let session = |_| Session {
            id: Uuid::now_v7().to_string(),
            messages: Vec::new(),
            acknowledged: Vec::new(),
        };
        Self {
            changes: Vec::new(),
            pending: Vec::new(),
            sessions: (0..RECORDERS).map(session).collect(),
            first_answers: Vec::new(),
        }
    }

    /// Whether every request was answered.
    pub fn is_done(&self) -> bool {
        self.pending.is_empty() && self.sessions.iter().all(Session::is_done)
    }

    /// Runs clients against a server until they have done their part, or the server ends. First they repeat unanswered
    /// requests: one after the other, the oldest first, so that each gets its own commit; or all at once.
    pub async fn go_on(&mut self, address: &str, log: &Path, load: Load, rng: &mut Rng) {
        let begun = position(log);
        let mut pending = std::mem::take(&mut self.pending);
        // In the order in which they were first sent.
        pending.sort_by(|one, other| one.id.cmp(&other.id));
        if rng.u8(..4) > 0
            && let Ok(client) = try_connect(address).await
        {
            let (changes, left) = call(client, pending, log.to_owned(), rng.fork()).await;
            self.changes.extend(changes);
            pending = left;
        }
        let mut callers = JoinSet::new();
        for i in 0..CALLERS {
            let mut asked: Vec<_> =
                pending.split_off(pending.len() * (CALLERS - 1 - i) / (CALLERS - i));
            asked.extend((0..load.calls).map(|_| Asked::new(rng)));
            match try_connect(address).await {
                Ok(client) => {
                    callers.spawn(call(client, asked, log.to_owned(), rng.fork()));
                }
                Err(_) => self
                    .pending
                    .extend(asked.into_iter().filter(|one| one.id.is_some())),
            }
        }
        let mut recorders = JoinSet::new();
        for mut session in self.sessions.drain(..) {
            let client = try_connect(address).await;
            let (log, mut rng) = (log.to_owned(), rng.fork());
            recorders.spawn(async move {
                let Session {
                    id,
                    messages,
                    acknowledged,
                } = &mut session;
                messages.extend((0..load.messages).map(|_| message(&mut rng)));
                let known = acknowledged.last().map_or(0, |(message, _)| *message);
                let note = |message| acknowledged.push((message, position(&log)));
                if let Ok(mut client) = client {
                    // If it breaks, the next server continues.
                    let _ = record(&mut client, id, messages, known, note).await;
                }
                session
            });
        }
        for (changes, left) in callers.join_all().await {
            self.changes.extend(changes);
            self.pending.extend(left);
        }
        self.sessions = recorders.join_all().await;
        let first = self.answers().filter(|at| *at >= begun).min();
        self.first_answers.extend(first);
    }

    fn answers(&self) -> impl Iterator<Item = Position> {
        let acknowledged = self.sessions.iter().flat_map(|one| &one.acknowledged);
        let changes = self.changes.iter().map(|change| change.answered);
        changes.chain(acknowledged.map(|(_, at)| *at))
    }
}

impl Asked {
    fn new(rng: &mut Rng) -> Self {
        Self {
            id: None,
            operation: operation(rng),
        }
    }
}

pub async fn connect(address: &str) -> Client {
    try_connect(address).await.expect("it listens")
}

async fn try_connect(address: &str) -> Result<Client, tonic::transport::Error> {
    Client::connect(format!("http://{address}")).await
}

/// Requests changes until the server ends. Returns the answers, and the requests without an answer.
async fn call(
    mut client: Client,
    asked: Vec<Asked>,
    log: PathBuf,
    mut rng: Rng,
) -> (Vec<Change>, Vec<Asked>) {
    let mut changes = Vec::new();
    let mut asked = asked.into_iter();
    while let Some(Asked { id, operation }) = asked.next() {
        let is_new = id.is_none();
        if is_new {
            sleep(STEP * rng.u32(..4)).await;
        }
        let id = id.unwrap_or_else(|| Uuid::now_v7().to_string());
        let Ok(answer) = soon(operation.send(&mut client, &id)).await else {
            let id = Some(id);
            let sent = asked.filter(|one| one.id.is_some());
            let left = [Asked { id, operation }].into_iter().chain(sent);
            return (changes, left.collect());
        };
        let answered = position(&log);
        assert!(!(is_new && answer.replayed), "{id} is new");
        changes.push(Change {
            id,
            operation,
            verdict: answer.verdict,
            answered,
        });
    }
    (changes, Vec::new())
}

fn operation(rng: &mut Rng) -> Operation {
    let add = |rng: &mut Rng, group: &str, counters| {
        let counter = format!("{group}/{}", rng.usize(..counters));
        Add::new(counter.into(), rng.i64(-50..=100))
    };
    let replaced = format!("replaced/{}", rng.u8(..8)).into();
    match rng.u8(..10) {
        0..4 => Operation::Increment(add(rng, "hot", 3)),
        4..6 => Operation::Increment(add(rng, "some", 300)),
        6 => Operation::Batch((0..5).map(|_| add(rng, "some", 300)).collect()),
        7 => Operation::Increment(add(rng, "replaced", 8)),
        8 => Operation::Set(replaced, rng.i64(-1000..=1000)),
        _ => Operation::Delete(replaced),
    }
}

fn message(rng: &mut Rng) -> Vec<Add> {
    let increment = |_| {
        let counter = format!("{BULK}{:0>NAME$}", rng.usize(..METERS));
        Add::new(counter.into(), rng.i64(-50..=100))
    };
    (0..INCREMENTS).map(increment).collect()
}

/// Sends the messages of a session that the server does not have, and waits until it has them all. `known` is the last
/// message that the client knows to be acknowledged.
///
/// # Errors
/// Returns the status of the stream if it ends before that.
pub async fn record(
    client: &mut Client,
    id: &str,
    messages: &[Vec<Add>],
    known: usize,
    mut note: impl FnMut(usize),
) -> Result<(), Status> {
    let request = |sequence: usize, known: usize| {
        let message = sequence.checked_sub(1).map(|at| &messages[at]);
        let increments = message.into_iter().flatten();
        RecordIncrementsRequest {
            session_id: id.to_owned(),
            session_time: None,
            sequence: sequence as u64,
            acknowledged: known as u64,
            increments: increments.map(Add::to_proto).collect(),
        }
    };
    let (queue, requests) = mpsc::unbounded_channel();
    queue.send(request(0, known)).expect("it was made just now");
    let asked = client.record_increments(UnboundedReceiverStream::new(requests));
    let mut answers = soon(asked).await?.into_inner();
    let mut sent = 0;
    loop {
        let answer = soon(answers.message()).await?;
        let answer = answer.ok_or_else(|| Status::cancelled("more of them"))?;
        assert!(answer.failures.is_empty(), "{:?}", answer.failures);
        let done = usize::try_from(answer.acknowledged).expect("few");
        note(done);
        if done >= messages.len() {
            break;
        }
        sent = sent.max(done);
        while sent < messages.len().min(done + AHEAD) {
            sent += 1;
            // If the stream has ended, reading it reports that.
            let _ = queue.send(request(sent, done));
        }
    }
    drop(queue);
    while soon(answers.message()).await?.is_some() {}
    Ok(())
}
