//! A client's connection to the server, or to one of several, made again whenever it breaks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fastrand::Rng;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::finding::found;
use super::history::{Answer, Clock, Span, Verdict};
use super::operation::{Client, LimitError, Name, Operation};
use crate::support::PATIENCE;

/// Maximum silence of a connection, if there are other servers.
const SILENCE: Duration = Duration::from_secs(1);

/// Number of attempts that are reported.
const TOLD: usize = 32;

/// The state that the clients of a run share.
#[derive(Clone)]
pub struct Context {
    pub servers: Servers,
    pub clock: Clock,
    pub names: Names,
    /// Number of changes answered so far.
    pub answered: Arc<AtomicUsize>,
    /// The longest pause of a client between two calls, which leaves time to other processes on the machine.
    pub rest: Duration,
    /// The horizon of request ids.
    pub horizon: Duration,
    /// Cancelled when clients begin nothing new.
    pub stop: CancellationToken,
    /// Cancelled when the server has started for the last time.
    pub audit: CancellationToken,
}

/// The servers that clients use.
#[derive(Clone)]
pub struct Servers {
    /// The addresses of all servers; any will do.
    pub addresses: Arc<[Arc<str>]>,
    /// The deadlines of calls, one for each client; after it, the client asks another server. Empty if there is only
    /// one server, which has to answer.
    pub deadlines: &'static [Duration],
    /// The longest time until a change is answered.
    pub outage: Duration,
    /// All counters are in one lane, so a message is applied at one revision.
    pub one_lane: bool,
    /// An injected mistake: clients take an unknown outcome for NOT_APPLIED.
    pub guesses: bool,
}

impl Servers {
    /// A single server.
    pub fn one(address: &str) -> Self {
        Self {
            addresses: [address.into()].into(),
            deadlines: &[],
            outage: PATIENCE,
            one_lane: true,
            guesses: false,
        }
    }
}

/// Waits for an answer that is due. With a deadline, it may fail to come, and has to come from another server.
pub async fn in_time<T>(
    deadline: Option<Duration>,
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    match (
        timeout(deadline.unwrap_or(PATIENCE), answer).await,
        deadline,
    ) {
        (Ok(answer), _) => answer,
        (Err(_), Some(_)) => Err(Status::deadline_exceeded("no answer in time")),
        (Err(_), None) => panic!("this should have been answered long ago"),
    }
}

/// The names of a run's counters. They are distinct, because several runs use one database.
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
    deadline: Option<Duration>,
    client: Option<Client>,
    /// The index of the server in use.
    at: usize,
    /// The last failed attempts. They are reported if one keeps failing.
    tried: VecDeque<Attempt>,
}

/// A failed attempt.
#[derive(Debug)]
#[expect(dead_code, reason = "it is only shown")]
struct Attempt {
    server: usize,
    ended: Duration,
    error: String,
}

/// A change that was answered.
pub struct Asked {
    pub span: Span,
    pub attempts: u32,
    pub answer: Answer,
}

/// The consequence of a failed attempt.
#[derive(Debug)]
pub enum Fate {
    /// By a limit, which is an answer.
    Rejection(Verdict),
    /// This attempt has changed nothing.
    NotApplied,
    Unknown,
    TooOld,
    Reused,
}

impl Link {
    pub fn new(context: Context, mut rng: Rng) -> Self {
        let at = rng.usize(..context.servers.addresses.len());
        let deadline = rng.choice(context.servers.deadlines).copied();
        Self {
            context,
            rng,
            deadline,
            client: None,
            at,
            tried: VecDeque::with_capacity(TOLD),
        }
    }

    /// Connects anew, to a random server if there are several.
    pub fn turn(&mut self) {
        if self.context.servers.addresses.len() > 1 {
            self.at = self.rng.usize(..self.context.servers.addresses.len());
            self.client = None;
        }
    }

    pub fn deadline(&self) -> Option<Duration> {
        self.deadline
    }

    pub fn stopped(&self) -> bool {
        self.context.stop.is_cancelled()
    }

    /// Pauses between two calls.
    pub async fn rest(&mut self) {
        self.think(self.context.rest).await;
    }

    /// Pauses for a random time.
    pub async fn think(&mut self, at_most: Duration) {
        sleep(at_most.mul_f64(self.rng.f64())).await;
    }

    /// The connection; waits while there is no server.
    pub async fn client(&mut self) -> &mut Client {
        if self.client.is_none() {
            let connected = timeout(self.context.servers.outage, self.connect()).await;
            self.client = Some(connected.expect("the server comes back"));
        }
        self.client.as_mut().expect("it was made just now")
    }

    async fn connect(&mut self) -> Client {
        loop {
            let uri = format!("http://{}", self.context.servers.addresses[self.at]);
            let mut endpoint = Endpoint::from_shared(uri).expect("an address is a URI");
            if self.deadline.is_some() {
                // Without keepalives, a stream on which nothing is due would not notice that its server is gone, and a
                // client with a long deadline would wait for that server.
                endpoint = endpoint
                    .connect_timeout(SILENCE)
                    .http2_keep_alive_interval(SILENCE / 2)
                    .keep_alive_timeout(SILENCE)
                    .keep_alive_while_idle(true);
            }
            if let Ok(channel) = endpoint.connect().await {
                return Client::new(channel);
            }
            self.think(Duration::from_millis(20)).await;
            self.turn();
        }
    }

    /// The consequence of an error. The connection is dropped if it caused the error.
    pub fn judge(&mut self, status: &Status) -> Fate {
        self.note(format!("{:?}: {}", status.code(), status.message()));
        let Some(info) = status.get_details_error_info() else {
            // The error is of the transport, not of the server.
            let transport = [
                Code::Unavailable,
                Code::Unknown,
                Code::Internal,
                Code::Cancelled,
            ];
            let is_late = self.deadline().is_some() && status.code() == Code::DeadlineExceeded;
            assert!(is_late || transport.contains(&status.code()), "{status:?}");
            self.client = None;
            self.turn();
            return Fate::Unknown;
        };
        let outcome = info.metadata.get("outcome").map(String::as_str);
        let applied = match outcome {
            Some("NOT_APPLIED") => Fate::NotApplied,
            _ => Fate::Unknown,
        };
        match info.reason.as_str() {
            "LIMIT_REACHED" | "COUNTER_OUT_OF_RANGE" => {
                let index = info.metadata.get("index");
                Fate::Rejection(Verdict::Rejection {
                    index: index.map_or(0, |index| index.parse().expect("an index")),
                    refusal: LimitError::read(&info),
                })
            }
            "REQUEST_TOO_OLD" => Fate::TooOld,
            "REQUEST_ID_REUSED" => Fate::Reused,
            "SHUTTING_DOWN" => {
                self.client = None;
                self.turn();
                applied
            }
            "STORE_UNAVAILABLE" | "STORE_FULL" | "STORE_FAILED" | "OVERLOADED"
            | "MESSAGE_OVERTAKEN" | "ANSWER_LOST"
                if self.deadline().is_some() =>
            {
                self.turn();
                applied
            }
            _ => found(format!("nothing here should lead to {status:?}")),
        }
    }

    /// Like [`Self::judge`], for requests that can be repeated: they must not have been refused.
    pub fn excuse(&mut self, status: &Status) {
        let fate = self.judge(status);
        if !matches!(fate, Fate::Unknown | Fate::NotApplied) {
            found(format!("{status:?} has led to {fate:?}"));
        }
    }

    /// Sends one request. Sometimes it does not wait for the answer, like clients with short deadlines.
    pub async fn attempt(&mut self, operation: &Operation, id: &str) -> Result<Answer, Fate> {
        let answer = self.try_once(operation, id).await;
        match answer {
            Err(Fate::Unknown) if self.context.servers.guesses => Err(Fate::NotApplied),
            answer => answer,
        }
    }

    async fn try_once(&mut self, operation: &Operation, id: &str) -> Result<Answer, Fate> {
        let often = if self.context.servers.guesses { 32 } else { 4 };
        let impatient = self.rng.u8(..) < often;
        let hurry = Duration::from_micros(self.rng.u64(..4000));
        let deadline = self.deadline();
        let client = self.client().await;
        let asked = operation.send(client, id);
        if impatient {
            let answer = timeout(hurry, asked).await;
            let Ok(answer) = answer else {
                self.note(format!("not waited for longer than {hurry:?}"));
                self.turn();
                return Err(Fate::Unknown);
            };
            return answer.map_err(|status| self.judge(&status));
        }
        in_time(deadline, asked)
            .await
            .map_err(|status| self.judge(&status))
    }

    /// Repeats a request until it is answered, even if the server is killed meanwhile.
    ///
    /// # Panics
    /// Panics if that takes too long.
    pub async fn insist(&mut self, operation: &Operation, id: &str) -> Result<Asked, Fate> {
        let outage = self.context.servers.outage;
        let answered = timeout(outage, self.ask_on(operation, id)).await;
        answered.unwrap_or_else(|_| {
            panic!(
                "no answer to {operation:?} in {outage:?}, with {:?} for each attempt, the last at server {}; \
                 before it, the latest first: {:#?}",
                self.deadline, self.at, self.tried
            )
        })
    }

    fn note(&mut self, error: String) {
        self.tried.truncate(TOLD - 1);
        self.tried.push_front(Attempt {
            server: self.at,
            ended: self.context.clock.now(),
            error,
        });
    }

    async fn ask_on(&mut self, operation: &Operation, id: &str) -> Result<Asked, Fate> {
        self.client().await;
        let asked = self.context.clock.now();
        let mut attempts = 0;
        loop {
            attempts += 1;
            let answer = match self.attempt(operation, id).await {
                Ok(answer) => answer,
                Err(Fate::Rejection(verdict)) => Answer {
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
