//! Counters in etcd survive faults around them. A run has three nodes on three members of etcd, all of them real
//! processes, with a proxy on every connection between two of them. Clients of every kind move from node to node. A
//! nemesis kills, stops, cuts off, slows down, replaces and fills processes and sets their clocks, one fault at a time.
//! Afterwards, the clients' answers are checked against each other, as in `crash`.
//!
//! A run follows from a seed, as far as a run of real processes can: the faults, their order and duration, and the
//! clients' requests. The seed is printed, and `SUMD_FAULTS_SEED` sets it. `SUMD_UPGRADE_TO` names the program that
//! nodes are upgraded to; by default it is the same program. `SUMD_FAULTS_ONLY`, as in `the leader dies`, restricts the
//! faults to that kind, and repeats it more often.

pub mod clock;
mod fault;
mod fleet;
mod gaps;
mod mutants;
mod nemesis;
mod node;
mod pulse;
mod resume;

use std::env;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::crash::checks::{self, Facts, Stored};
use crate::crash::crowd::Crowd;
use crate::crash::finding::{finding, found};
use crate::crash::history::{Clock, Moment};
use crate::crash::link::{Context, Link, Names, Servers};
use crate::crash::{readers, writers};
use crate::etcd::proxy::Way;
use crate::support::{PATIENCE, within};
use fault::Fault;
use fleet::Fleet;
use gaps::Gaps;
use mutants::Mutant;
use node::Node;

/// The deadline of the clients that measure outages.
const IMPATIENCE: [Duration; 1] = [Duration::from_millis(500)];
/// Deadlines of clients of nodes that cannot reach each other and commit in turns: on a busy machine, a call takes as
/// long as several commits. A lost answer is requested again well before the clients give up.
const TURNS: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(10)];
/// Number of measuring clients that ask any node.
const PULSES: usize = 3;
/// Number of clients that write so much that rows have to be written back.
const WIDE: usize = 2;

/// The parameters of a run.
#[derive(Clone)]
struct Plan {
    seed: u64,
    /// How often each fault happens.
    times: usize,
    /// The longest duration of a fault.
    longest: Duration,
    /// The horizon of request ids.
    horizon: Duration,
    /// How far a clock may be wrong.
    jump: Duration,
    /// The longest pause of a client between two calls.
    rest: Duration,
    /// Several faults may happen at once, too.
    severe: bool,
    mutant: Option<Mutant>,
}

impl Plan {
    /// The faults, in their order.
    fn faults(&self, rng: &mut Rng) -> Vec<Fault> {
        let only = env::var("SUMD_FAULTS_ONLY").ok();
        let times = match only {
            Some(_) => self.times * 8,
            None => self.times,
        };
        let mut faults = Vec::new();
        for _ in 0..times {
            faults.extend(Fault::all(rng, self.jump));
            if self.severe {
                faults.extend(Fault::severe(rng));
            }
        }
        faults.retain(|fault| only.as_ref().is_none_or(|only| fault.kind() == only));
        faults
    }
}

/// Counts of what was done.
#[derive(Default)]
struct Figures {
    faults: usize,
    operations: usize,
    messages: usize,
    late: usize,
    replays: usize,
    told: usize,
    gaps: Gaps,
}

impl Figures {
    fn add(&mut self, other: Self) {
        self.faults += other.faults;
        self.operations += other.operations;
        self.messages += other.messages;
        self.late += other.late;
        self.replays += other.replays;
        self.told += other.told;
        self.gaps.add(other.gaps);
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            faults,
            operations,
            messages,
            late,
            replays,
            told,
            gaps,
        } = self;
        write!(
            f,
            "{faults} faults, {operations} operations ({messages} messages of sessions), {} replays ({late} of answers \
             that were lost), {told} answers to watchers\n{gaps}",
            replays + late
        )
    }
}

/// Under any fault, every answer is true, everything requested with an id happens once, and a node answers soon.
#[tokio::test]
#[ignore = "make test runs it"]
async fn what_was_answered_survives_faults() {
    let plan = Plan {
        seed: seed(),
        times: 1,
        longest: Duration::from_secs(2),
        horizon: Duration::from_mins(10),
        jump: Duration::from_secs(50),
        rest: Duration::from_millis(60),
        severe: false,
        mutant: None,
    };
    let figures = run(&plan).await;
    eprintln!("{figures}");
    assert!(figures.late > 0, "no answer was lost: {figures}");
    // Other tests of `make test` run at the same time.
    figures.gaps.check(3);
}

/// The same, round after round for a long time, with ids that are forgotten meanwhile.
#[tokio::test]
#[ignore = "make soak runs it"]
async fn soak() {
    // Without a duration, this is one of the ignored tests that `make test` runs.
    let Ok(seconds) = env::var("SUMD_SOAK_SECONDS") else {
        return;
    };
    let time = Duration::from_secs(seconds.parse().expect("a number of seconds"));
    let mut seed = seed();
    let mut total = Figures::default();
    let began = Instant::now();
    while began.elapsed() < time {
        let plan = Plan {
            seed,
            times: 3,
            longest: Duration::from_secs(6),
            horizon: Duration::from_mins(1),
            jump: Duration::from_secs(20),
            rest: Duration::from_millis(40),
            severe: true,
            mutant: None,
        };
        total.add(run(&plan).await);
        println!("{:>5} s: {total}", began.elapsed().as_secs());
        seed = seed.wrapping_add(1);
    }
    total.gaps.check(2);
}

fn seed() -> u64 {
    env::var("SUMD_FAULTS_SEED").map_or_else(
        |_| fastrand::u64(..),
        |seed| seed.parse().expect("SUMD_FAULTS_SEED is a number"),
    )
}

/// Runs clients against nodes while faults happen, and checks the outcome.
async fn run(plan: &Plan) -> Figures {
    // Shown if the test fails.
    eprintln!("SUMD_FAULTS_SEED={}", plan.seed);
    let mut rng = Rng::with_seed(plan.seed);
    let mut of_nemesis = rng.fork();
    let faults = plan.faults(&mut of_nemesis);
    let horizon = format!("{}s", plan.horizon.as_secs());
    let flags = ["--counter-memory", "64KiB", "--drain-delay", "0s"];
    let mut flags: Vec<_> = flags.map(str::to_owned).into();
    flags.extend(["--id-horizon".to_owned(), horizon]);
    // A store with a single lane is shared, too.
    let one = plan.mutant.is_none() && rng.u8(..4) == 0;
    let lanes = if one { "1" } else { "8" };
    flags.extend(["--etcd-lanes", lanes].map(str::to_owned));
    eprintln!("{lanes} lanes");
    let mut fleet = Fleet::start(&flags, plan.mutant).await;
    if plan.mutant.is_some() {
        // Wrong behaviour of etcd shows when several nodes write to a lane.
        fleet.set_peers(Way::Closed);
    }
    let mut servers = fleet.servers();
    servers.guesses = plan.mutant == Some(Mutant::Guess);
    if plan.mutant.is_some() {
        servers.deadlines = &TURNS;
    }
    let context = Context {
        servers,
        clock: Clock::start(),
        names: Names("f".into()),
        answered: Arc::new(AtomicUsize::new(0)),
        rest: plan.rest,
        horizon: plan.horizon,
        stop: CancellationToken::new(),
        audit: CancellationToken::new(),
    };
    let mut crowd = Crowd::start(&context, &mut rng);
    for _ in 0..WIDE {
        let context = Context {
            rest: plan.rest * 5,
            ..context.clone()
        };
        crowd.join(writers::with_ids(
            Link::new(context, rng.fork()),
            writers::wide,
        ));
    }
    let deadlines: &[_] = if plan.mutant.is_some() {
        &TURNS
    } else {
        &IMPATIENCE
    };
    let mut served = measure(&mut crowd, &context, deadlines, &mut rng);
    let nodes = served.len();
    let storm = nemesis::storm(
        &mut fleet,
        &faults,
        plan.longest,
        &mut served,
        context.clock,
        &mut of_nemesis,
    );
    let events = tokio::select! {
        events = storm => events,
        () = crowd.early() => unreachable!("nobody goes early"),
    };
    let before = context.answered.load(Ordering::Relaxed);
    let enough = || context.answered.load(Ordering::Relaxed) > before + 1000;
    // Before that, a client that waits in vain fails with the reason.
    let patience = context.servers.outage + PATIENCE;
    tokio::select! {
        () = within(patience, "progress after the last fault", enough) => {}
        () = crowd.early() => unreachable!("nobody goes early"),
        () = all_run(&mut fleet.nodes) => unreachable!("they run for ever"),
    }
    context.stop.cancel();
    // One more kill while the clients are finishing. No fault disturbs what follows.
    let last = of_nemesis.usize(..nodes);
    fleet.nodes[last].kill().await;
    fleet.nodes[last].start().await;
    context.audit.cancel();
    let history = tokio::select! {
        history = crowd.go_home(&mut rng) => history,
        () = all_run(&mut fleet.nodes) => unreachable!("they run for ever"),
    };
    let now = all_tell_the_same(&context, &mut rng).await;
    for node in &mut fleet.nodes {
        node.end().await;
    }
    let stored = Stored::default();
    // The clock of the asked node decides whether an id with a time is too old, and two nodes' clocks differ by up to
    // twice as much as each may be wrong. An id without a time is never too old, whatever the clocks show.
    let horizon = plan.horizon.saturating_sub(plan.jump * 2);
    let facts = Facts::new(&context.names, &history, &now, &stored, horizon);
    checks::all(&facts.of_several_nodes());
    Figures {
        faults: events.len(),
        operations: history.operations(),
        messages: history.messages(),
        late: history.late_answers(),
        replays: history.replays.len(),
        told: history.watches.iter().map(|watch| watch.told.len()).sum(),
        gaps: Gaps::new(&context.names, &history, &events),
    }
}

/// Fails if a node has ended, because its clients would wait for it in vain.
async fn all_run(nodes: &mut [Node]) {
    loop {
        nodes.iter_mut().for_each(Node::assert_runs);
        sleep(Duration::from_millis(100)).await;
    }
}

/// Adds the clients that measure: one for each node, and some for any node. Returns when each node has answered last.
fn measure(
    crowd: &mut Crowd,
    context: &Context,
    deadlines: &'static [Duration],
    rng: &mut Rng,
) -> Vec<watch::Receiver<Moment>> {
    let mut add = |addresses: Vec<Arc<str>>, group: String| {
        let context = Context {
            servers: Servers {
                addresses: addresses.into(),
                deadlines,
                ..context.servers.clone()
            },
            ..context.clone()
        };
        let (told, served) = watch::channel(Moment::ZERO);
        crowd.join(pulse::pulse(Link::new(context, rng.fork()), group, told));
        served
    };
    let all = context.servers.addresses.to_vec();
    for i in 0..PULSES {
        add(all.clone(), format!("{}{i}", pulse::ANY));
    }
    let nodes = all.iter().enumerate();
    nodes
        .map(|(i, address)| add(vec![address.clone()], format!("node{i}")))
        .collect()
}

/// The stored counters, which must be the same at every node.
async fn all_tell_the_same(context: &Context, rng: &mut Rng) -> checks::Counters {
    let mut told = Vec::new();
    for address in context.servers.addresses.iter() {
        let servers = Servers {
            addresses: [address.clone()].into(),
            ..context.servers.clone()
        };
        let context = Context {
            servers,
            ..context.clone()
        };
        let mut link = Link::new(context, rng.fork());
        told.push(readers::all(link.client().await).await);
    }
    let first = told.pop().expect("there are nodes");
    for other in told {
        if first != other {
            found(format!("nodes differ: {first:?} and {other:?}"));
        }
    }
    first
}

/// A run whose only fault is that etcd does not do what it is asked to.
fn plan_of(mutant: Mutant) -> Plan {
    Plan {
        seed: seed(),
        times: 0,
        longest: Duration::ZERO,
        horizon: Duration::from_mins(10),
        jump: Duration::ZERO,
        rest: Duration::from_millis(40),
        severe: false,
        mutant: Some(mutant),
    }
}

/// Asserts that a mutant is caught, and returns the finding. Any finding will do, because one fault shows in many ways;
/// one of them is that nodes find the data inconsistent, and stop. A mere time-out is none.
async fn is_caught(mutant: Mutant) -> String {
    let failed = tokio::spawn(async move { run(&plan_of(mutant)).await }).await;
    let Err(failed) = failed else {
        panic!("{mutant:?} was not caught");
    };
    let panic = failed.into_panic();
    let Some(found) = finding(&*panic) else {
        std::panic::resume_unwind(panic);
    };
    eprintln!("{mutant:?}: {found}");
    found.to_owned()
}

#[tokio::test]
#[ignore = "make test runs it"]
async fn nothing_is_found_where_nothing_is_wrong() {
    run(&plan_of(Mutant::None)).await;
}

#[tokio::test]
#[ignore = "make test runs it"]
async fn a_store_without_its_guard_is_caught() {
    is_caught(Mutant::NoGuard).await;
}

#[tokio::test]
#[ignore = "make test runs it"]
async fn ids_that_are_not_recorded_are_caught() {
    let found = is_caught(Mutant::NoIds).await;
    // Only repeated requests that count again would show it.
    let check = "what_is_sent_again_is_answered_as_it_was_first";
    assert!(found.contains(check), "{found}");
}

#[tokio::test]
#[ignore = "make test runs it"]
async fn an_answer_before_the_commit_is_caught() {
    is_caught(Mutant::EarlyAnswer).await;
}

/// Only callers without ids, which repeat their requests, show it.
#[tokio::test]
#[ignore = "make test runs it"]
async fn doubt_that_is_told_as_nothing_done_is_caught() {
    let found = is_caught(Mutant::Guess).await;
    let check = "what_is_stored_is_what_was_acknowledged";
    assert!(found.contains(check), "{found}");
}
