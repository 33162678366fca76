//! Counters survive `kill -9`. Clients of every kind change, read and watch them while the server is killed at random
//! moments and started again. Afterwards, the answers are checked against each other, against the clock and against the
//! stored state.
//!
//! A run follows from a seed, as far as a run of real processes can. The seed is printed, and `SUMD_CRASH_SEED` sets
//! it.
//!
//! A kill does not show a disk that loses unsynced data, because the kernel keeps what a process has written. `power`
//! tests that.

pub mod checks;
pub mod crowd;
pub mod finding;
pub mod history;
pub mod link;
pub mod operation;
pub mod readers;
mod server;
mod sessions;
pub mod writers;

use std::env;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use tempfile::TempDir;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use checks::{Facts, Stored};
use crowd::Crowd;
use history::Clock;
use link::{Context, Link, Names, Servers};
use server::Server;

use crate::support::eventually;

/// Memory for few enough counters that some are read from disk again and again, and no delay before a drain.
const FLAGS: [&str; 4] = ["--counter-memory", "64KiB", "--drain-delay", "0s"];

/// The parameters of a run.
struct Plan {
    seed: u64,
    /// A part of the names of its counters.
    round: usize,
    kills: usize,
    /// The longest time from a start to the next kill.
    life: Duration,
    /// The horizon of request ids.
    horizon: Duration,
    /// The longest pause of a client between two calls.
    rest: Duration,
}

/// Counts of what was done.
#[derive(Default)]
struct Figures {
    kills: usize,
    checks: usize,
    operations: usize,
    messages: usize,
    late: usize,
    replays: usize,
    told: usize,
}

impl Figures {
    fn add(&mut self, other: &Self) {
        self.kills += other.kills;
        self.checks += other.checks;
        self.operations += other.operations;
        self.messages += other.messages;
        self.late += other.late;
        self.replays += other.replays;
        self.told += other.told;
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kills,
            checks,
            operations,
            messages,
            late,
            replays,
            told,
        } = self;
        write!(
            f,
            "{kills} kills, {operations} operations ({messages} messages of sessions), {} replays ({late} of answers \
             that were lost), {told} answers to watchers, {checks} times sumd check",
            replays + late
        )
    }
}

/// The folder of a database, which is kept if the test fails.
struct Data(TempDir);

impl Data {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.disable_cleanup(true);
            eprintln!("what is stored stays at {}", self.0.path().display());
        }
    }
}

/// Through some kills, every answer is true, and everything requested with an id happens once.
#[tokio::test]
async fn what_was_answered_survives_kill_9() {
    let data = Data::new();
    let plan = Plan {
        seed: seed(),
        round: 0,
        kills: 18,
        life: Duration::from_millis(2500),
        horizon: Duration::from_mins(10),
        rest: Duration::from_millis(20),
    };
    let figures = run(&plan, data.0.path(), &mut Stored::default()).await;
    eprintln!("{figures}");
    assert!(figures.late > 0, "no answer was lost: {figures}");
}

/// The same, round after round for a long time on one database, with ids that are forgotten meanwhile.
#[tokio::test]
#[ignore = "make soak runs it"]
async fn soak() {
    // Without a duration, this is one of the ignored tests that `make test` runs.
    let Ok(seconds) = env::var("SUMD_SOAK_SECONDS") else {
        return;
    };
    let time = Duration::from_secs(seconds.parse().expect("a number of seconds"));
    let seed = seed();
    let data = Data::new();
    let (mut stored, mut total) = (Stored::default(), Figures::default());
    let began = Instant::now();
    for round in 0.. {
        let plan = Plan {
            seed: seed.wrapping_add(round as u64),
            round,
            kills: 40,
            life: Duration::from_secs(4),
            horizon: Duration::from_secs(30),
            rest: Duration::from_millis(5),
        };
        let figures = run(&plan, data.0.path(), &mut stored).await;
        total.add(&figures);
        println!("{:>5} s: {total}", began.elapsed().as_secs());
        if began.elapsed() >= time {
            return;
        }
    }
}

fn seed() -> u64 {
    env::var("SUMD_CRASH_SEED").map_or_else(
        |_| fastrand::u64(..),
        |seed| seed.parse().expect("SUMD_CRASH_SEED is a number"),
    )
}

/// Runs clients against a server that is killed again and again, and checks the outcome. `stored` is the state that
/// earlier runs have left in the database, and afterwards the state that this one leaves.
async fn run(plan: &Plan, data: &Path, stored: &mut Stored) -> Figures {
    // Shown if the test fails.
    eprintln!("SUMD_CRASH_SEED={}", plan.seed);
    let mut rng = Rng::with_seed(plan.seed);
    let horizon = format!("{}s", plan.horizon.as_secs());
    let flags = [&FLAGS[..], &["--id-horizon", &horizon]].concat();
    let mut server = Server::start(data, &flags).await;
    let context = Context {
        servers: Servers::one(server.address()),
        clock: Clock::start(),
        names: Names(format!("r{}", plan.round).into()),
        answered: Arc::new(AtomicUsize::new(0)),
        rest: plan.rest,
        horizon: plan.horizon,
        stop: CancellationToken::new(),
        audit: CancellationToken::new(),
    };
    let mut crowd = Crowd::start(&context, &mut rng);
    tokio::select! {
        () = storm(plan, &mut server, &context.answered, &mut rng) => {}
        () = crowd.early() => {}
    }
    context.stop.cancel();
    // One more kill while the clients are finishing. No kill disturbs what follows.
    server.crash_and_restart(&mut rng).await;
    context.audit.cancel();
    let history = crowd.go_home(&mut rng).await;
    let mut link = Link::new(context.clone(), rng.fork());
    let now = readers::all(link.client().await).await;
    server.stop().await;
    let facts = Facts::new(&context.names, &history, &now, stored, plan.horizon);
    let last_revision = facts.last_revision();
    checks::all(&facts);
    *stored = Stored {
        counters: now,
        revision: last_revision,
    };
    Figures {
        kills: server.kills,
        checks: server.checks,
        operations: history.operations(),
        messages: history.messages(),
        late: history.late_answers(),
        replays: history.replays.len(),
        told: history.watches.iter().map(|watch| watch.told.len()).sum(),
    }
}

/// Kills at random moments, and lets the clients make progress after each.
async fn storm(plan: &Plan, server: &mut Server, answered: &AtomicUsize, rng: &mut Rng) {
    for _ in 0..plan.kills {
        // Short lives are more likely.
        sleep(plan.life.mul_f64(rng.f64().powi(2))).await;
        server.crash_and_restart(rng).await;
    }
    let before = answered.load(Ordering::Relaxed);
    let enough = || answered.load(Ordering::Relaxed) > before + 500;
    eventually("progress after the last kill", enough).await;
}
