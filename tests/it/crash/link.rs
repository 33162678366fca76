//! A client's way to the server, made anew whenever it breaks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fastrand::Rng;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::history::{Answer, Clock, Span, Verdict};
use super::operation::{Client, Name, Operation, Refusal};
use crate::support::PATIENCE;

/// What the clients of a run have in common.
#[derive(Clone)]
pub struct Context {
    pub address: Arc<str>,
    pub clock: Clock,
    pub names: Names,
    /// Changes that were answered so far.
    pub answered: Arc<AtomicUsize>,
    /// How long a client waits between two calls at most: it leaves time for others on the machine.
    pub rest: Duration,
    /// Nothing new is begun any more.
    pub stop: CancellationToken,
    /// The server has started for the last time.
    pub audit: CancellationToken,
}

/// The names of a run's counters: several runs have one database.
#[derive(Clone)]
pub struct Names(pub Arc<str>);

impl Names {
    pub fn of(&self, group: &str, i: usize) -> Name {
        format!("{}-{group}/{i}", self.0).into()
    }

    pub fn prefix(&self, group: &str) -> String {
        format!("{}-{group}/", self.0)
    }
}

pub struct Link {
    pub context: Context,
    pub rng: Rng,
    client: Option<Client>,
}

/// A change that was answered.
pub struct Asked {
    pub span: Span,
    pub attempts: u32,
    pub answer: Answer,
}

/// What an attempt that was not answered well has led to.
#[derive(Debug)]
pub enum Fate {
    /// By a limit: this is an answer, too.
    Refused(Verdict),
    /// Nothing was changed, by this attempt.
    NotApplied,
    Unknown,
    TooOld,
    Reused,
}

impl Link {
    pub fn new(context: Context, rng: Rng) -> Self {
        Self {
            context,
            rng,
            client: None,
        }
    }

    pub fn stopped(&self) -> bool {
        self.context.stop.is_cancelled()
    }

    /// Waits between two calls.
    pub async fn rest(&mut self) {
        self.think(self.context.rest).await;
    }

    /// Waits for a random time.
    pub async fn think(&mut self, at_most: Duration) {
        sleep(at_most.mul_f64(self.rng.f64())).await;
    }

    /// A connection; waits for the server as long as there is none.
    pub async fn client(&mut self) -> &mut Client {
        if self.client.is_none() {
            let connected = timeout(PATIENCE, self.connect()).await;
            self.client = Some(connected.expect("the server comes back"));
        }
        self.client.as_mut().expect("it was made just now")
    }

    async fn connect(&mut self) -> Client {
        loop {
            match Client::connect(format!("http://{}", self.context.address)).await {
                Ok(client) => return client,
                Err(_) => self.think(Duration::from_millis(20)).await,
            }
        }
    }

    /// What to do after an error: the connection is not used again if it was that.
    pub fn judge(&mut self, status: &Status) -> Fate {
        let Some(info) = status.get_details_error_info() else {
            // Not from the server, but from the transport.
            let transport = [
                Code::Unavailable,
                Code::Unknown,
                Code::Internal,
                Code::Cancelled,
            ];
            assert!(transport.contains(&status.code()), "{status:?}");
            self.client = None;
            return Fate::Unknown;
        };
        match info.reason.as_str() {
            "LIMIT_REACHED" | "COUNTER_OUT_OF_RANGE" => {
                let index = info.metadata.get("index");
                Fate::Refused(Verdict::Refused {
                    index: index.map_or(0, |index| index.parse().expect("an index")),
                    refusal: Refusal::read(&info),
                })
            }
            "REQUEST_TOO_OLD" => Fate::TooOld,
            "REQUEST_ID_REUSED" => Fate::Reused,
            "SHUTTING_DOWN" => {
                self.client = None;
                match info.metadata.get("outcome").map(String::as_str) {
                    Some("NOT_APPLIED") => Fate::NotApplied,
                    _ => Fate::Unknown,
                }
            }
            _ => panic!("nothing here should lead to {status:?}"),
        }
    }

    /// Asks once. Now and then it does not wait for the answer, as clients with short deadlines do.
    pub async fn attempt(&mut self, operation: &Operation, id: &str) -> Result<Answer, Fate> {
        let impatient = self.rng.u8(..) < 4;
        let deadline = Duration::from_micros(self.rng.u64(..4000));
        let client = self.client().await;
        let asked = operation.send(client, id);
        if impatient {
            let answer = timeout(deadline, asked).await;
            let answer = answer.map_err(|_| Fate::Unknown)?;
            return answer.map_err(|status| self.judge(&status));
        }
        let answer = timeout(PATIENCE, asked).await.expect("an answer in time");
        answer.map_err(|status| self.judge(&status))
    }

    /// Asks until there is an answer, always for the same; also when the server is killed meanwhile.
    pub async fn insist(&mut self, operation: &Operation, id: &str) -> Result<Asked, Fate> {
        self.client().await;
        let asked = self.context.clock.now();
        let mut attempts = 0;
        loop {
            attempts += 1;
            let answer = match self.attempt(operation, id).await {
                Ok(answer) => answer,
                Err(Fate::Refused(verdict)) => Answer {
                    verdict,
                    replayed: false,
                },
                Err(Fate::NotApplied | Fate::Unknown) => {
                    self.think(Duration::from_millis(10)).await;
                    continue;
                }
                Err(other) => return Err(other),
            };
            let span = self.context.clock.since(asked);
            self.context.answered.fetch_add(1, Ordering::Relaxed);
            return Ok(Asked {
                span,
                attempts,
                answer,
            });
        }
    }
}
