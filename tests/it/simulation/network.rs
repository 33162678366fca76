//! The network between a node and etcd, which loses, delays and repeats messages.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use prost::Message as _;
use sumd::etcd::{Doubt, Error, Outcome, Refusal};
use sumd::proto::etcd::etcdserverpb::request_op::Request;
use sumd::proto::etcd::etcdserverpb::{TxnRequest, TxnResponse};
use sumd::store::etcd::{Hold, Kv};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::etcd::Etcd;
use super::mutants::Mutant;
use super::rows;

/// The state that all nodes share: etcd, and the random numbers.
#[derive(Clone)]
pub struct World(Arc<Mutex<Inner>>);

pub struct Inner {
    pub etcd: Etcd,
    pub rng: Rng,
    pub mutant: Option<Mutant>,
    /// Whether the network works without faults.
    pub healed: bool,
    /// Batches that were attempted before, for mutants that ask.
    pub attempts: BTreeSet<Bytes>,
    /// A digest of everything that has happened.
    pub trace: u64,
    pub transactions: usize,
    pub faults: usize,
    /// The bytes of the largest transaction that was sent to change something.
    pub largest: usize,
    /// Nodes that have failed without a good reason.
    pub problems: Vec<String>,
}

impl World {
    pub fn new(rng: Rng, mutant: Option<Mutant>) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            etcd: Etcd::new(),
            rng,
            mutant,
            healed: false,
            attempts: BTreeSet::new(),
            trace: 0,
            transactions: 0,
            faults: 0,
            largest: 0,
            problems: Vec::new(),
        })))
    }

    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    pub fn note(&mut self, what: u64) {
        self.trace = (self.trace.rotate_left(5) ^ what).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// The state of a node's network for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    Calm,
    /// One message in this many has a fault.
    Flaky(u32),
    /// Reads fail, and writes get through.
    OnlyWrites,
    /// Some reads get through: rows of the kinds in this bit set cannot be read. A reader that needs several kinds in
    /// turn gets only the first of them.
    Partly(u8),
    /// Nothing gets through in one of the directions.
    Cut,
    /// The node is paused until then: messages from it and to it wait.
    Paused(Instant),
}

impl Weather {
    /// In most cases sessions cannot be read, which are read last.
    pub fn partly(rng: &mut Rng) -> Self {
        Self::Partly(if rng.bool() { SESSIONS } else { rng.u8(1..16) })
    }
}

/// The fate of a transaction that is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Arrives,
    /// It is refused, and certainly not carried out.
    Rejection(Refusal),
    /// It is lost on the way.
    Lost,
    /// It is carried out, and the answer is lost.
    AnswerLost,
    /// It is carried out long after its sender has given up.
    Late,
    /// It is answered with this, and carried out or not.
    Doubtful(Doubt, bool),
}

/// One run of a node, as the network sees it. When it ends, no message of the node gets through any more. To the
/// others, that is all of a crash, at whatever point of the node's work it happens.
#[derive(Clone)]
pub struct Link {
    pub world: World,
    pub alive: CancellationToken,
    pub weather: Arc<Mutex<Weather>>,
}

impl Link {
    /// The network of a node without faults.
    pub fn calm(world: &World) -> Self {
        Self {
            world: world.clone(),
            alive: CancellationToken::new(),
            weather: Arc::new(Mutex::new(Weather::Calm)),
        }
    }

    pub fn weather(&self) -> Weather {
        *self.weather.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn mutant(&self) -> Option<Mutant> {
        self.world.lock().mutant
    }

    /// Whether the node takes an unknown outcome for not applied.
    pub fn guesses(&self) -> bool {
        self.mutant() == Some(Mutant::Guess)
    }

    /// Waits until the node is not paused.
    pub async fn awake(&self) {
        while let Weather::Paused(until) = self.weather() {
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }

    async fn send(&self, request: TxnRequest, deadline: Instant) -> Result<TxnResponse, Error> {
        self.awake().await;
        let (fate, copies, there, back) = {
            let mut world = self.world.lock();
            world.transactions += 1;
            let weather = if world.healed {
                Weather::Calm
            } else {
                self.weather()
            };
            let fate = fate(&mut world.rng, weather, &request);
            world.faults += usize::from(fate != Fate::Arrives);
            let copies = match (weather, fate) {
                // A transaction that is certainly not carried out has no other copies, nor has one that a full member
                // has answered.
                (_, Fate::Rejection(_) | Fate::Doubtful(Doubt::NoSpace, _)) => 0,
                (Weather::Flaky(_), _) if world.rng.u8(..8) == 0 => world.rng.u8(1..4),
                _ => 0,
            };
            (fate, copies, short(&mut world.rng), short(&mut world.rng))
        };
        for _ in 0..copies {
            // The first copy to arrive is the one that is answered.
            let delay = there + long(&mut self.world.lock().rng);
            self.deliver(request.clone(), delay, None);
        }
        let unknown = |doubt| Err(error(Outcome::Unknown(doubt)));
        match fate {
            Fate::Arrives => {
                let (reply, answer) = oneshot::channel();
                self.deliver(request, there, Some(reply));
                let answer = tokio::select! {
                    biased;
                    Ok(answer) = answer => answer,
                    () = sleep_until(deadline) => return unknown(Doubt::Deadline),
                };
                sleep(back).await;
                self.awake().await;
                answer.map_err(|refusal| error(Outcome::Definite(refusal)))
            }
            Fate::Rejection(refusal) => {
                // A client that looks for another member first takes its time.
                let patience = self.world.lock().rng.u64(..800);
                sleep(there + Duration::from_millis(patience)).await;
                Err(error(Outcome::Definite(refusal)))
            }
            Fate::Lost => {
                sleep_until(deadline).await;
                unknown(Doubt::Deadline)
            }
            Fate::AnswerLost | Fate::Late => {
                let delay = match fate {
                    Fate::Late => long(&mut self.world.lock().rng),
                    _ => there,
                };
                self.deliver(request, delay, None);
                if self.world.lock().rng.bool() {
                    sleep(there + back).await;
                    return unknown(Doubt::Unavailable);
                }
                sleep_until(deadline).await;
                unknown(Doubt::Deadline)
            }
            Fate::Doubtful(doubt, applied) => {
                if applied {
                    self.deliver(request, there, None);
                }
                sleep(there + back).await;
                unknown(doubt)
            }
        }
    }

    /// Delivers a transaction, even if its sender has gone.
    fn deliver(
        &self,
        request: TxnRequest,
        delay: Duration,
        reply: Option<oneshot::Sender<Result<TxnResponse, Refusal>>>,
    ) {
        let world = self.world.clone();
        tokio::spawn(async move {
            sleep(delay).await;
            let mut world = world.lock();
            let answer = world.carry_out(request);
            if let Some(reply) = reply {
                let _ = reply.send(answer);
            }
        });
    }
}

impl Inner {
    fn carry_out(&mut self, request: TxnRequest) -> Result<TxnResponse, Refusal> {
        if !request.compare.is_empty() {
            self.largest = self.largest.max(request.encoded_len());
        }
        let answer = match self.mutant {
            None => self.etcd.txn(&request),
            Some(mutant) => mutant.carry_out(self, request),
        };
        let succeeded = answer.as_ref().is_ok_and(|answer| answer.succeeded);
        let revision = self.etcd.revision();
        self.note(revision.cast_unsigned() * 2 + u64::from(succeeded));
        answer
    }
}

impl Kv for Link {
    async fn txn(&self, request: TxnRequest, deadline: Instant) -> Result<TxnResponse, Error> {
        tokio::select! {
            biased;
            // The run has ended: the rest of the node stops soonest if everything fails.
            () = self.alive.cancelled() => Err(error(Outcome::Definite(Refusal::Denied))),
            answer = self.send(request, deadline) => answer,
        }
    }

    async fn hold(&self, _prefix: &str) -> Result<Option<Hold>, Error> {
        Ok(None)
    }
}

pub fn error(outcome: Outcome) -> Error {
    Error::new(outcome, format!("{outcome:?}"))
}

/// A short latency: some milliseconds, rarely many.
fn short(rng: &mut Rng) -> Duration {
    let most = if rng.u8(..16) == 0 { 400_000 } else { 8_000 };
    Duration::from_micros(rng.u64(100..most))
}

/// A latency that exceeds every deadline.
fn long(rng: &mut Rng) -> Duration {
    let most = [500, 5_000, 60_000][rng.usize(..3)];
    Duration::from_millis(rng.u64(1..most))
}

/// Kinds of rows: those of heads and of sessions.
pub const HEADS: u8 = 1;
const SESSIONS: u8 = 1 << 2;

/// The kinds of rows that a transaction reads, as a bit set; 0 for one that writes.
fn reads(request: &TxnRequest) -> u8 {
    if !request.compare.is_empty() {
        return 0;
    }
    let kinds = request.success.iter().map(|operation| {
        let Some(Request::RequestRange(range)) = &operation.request else {
            return 0;
        };
        let kinds: [&[u8]; 4] = [b"/log/head/", b"/log/pack/", b"/sessions/", b""];
        let kind = kinds.iter().position(|kind| {
            let key = range.key.strip_prefix(rows::PREFIX.as_bytes());
            key.is_some_and(|key| key.starts_with(kind))
        });
        kind.map_or(0, |kind| 1 << kind)
    });
    kinds.fold(0, |all, kind| all | kind)
}

fn fate(rng: &mut Rng, weather: Weather, request: &TxnRequest) -> Fate {
    let writes = !request.compare.is_empty();
    match weather {
        Weather::Partly(kinds) if reads(request) & kinds != 0 => {
            if rng.bool() {
                Fate::Rejection(Refusal::NoLeader)
            } else {
                Fate::Lost
            }
        }
        Weather::Flaky(one_in) if rng.u32(..one_in) == 0 => match rng.u8(..12) {
            0 => Fate::Rejection(Refusal::NotConnected),
            1 => Fate::Rejection(Refusal::NoLeader),
            2 => Fate::Rejection(Refusal::Overloaded),
            3 | 4 => Fate::Lost,
            5..=7 => Fate::AnswerLost,
            8 | 9 => Fate::Late,
            10 => Fate::Doubtful(Doubt::NoSpace, rng.bool()),
            _ => Fate::Doubtful(Doubt::Unavailable, rng.bool()),
        },
        Weather::OnlyWrites if !writes => Fate::Rejection(Refusal::NoLeader),
        Weather::OnlyWrites if rng.bool() => Fate::AnswerLost,
        Weather::Cut => match rng.u8(..4) {
            0 => Fate::Rejection(Refusal::NoLeader),
            1 => Fate::AnswerLost,
            2 => Fate::Late,
            _ => Fate::Lost,
        },
        _ => Fate::Arrives,
    }
}
