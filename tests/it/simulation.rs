//! Several nodes on a model of etcd, in simulated time. The store, the lanes and the rules are the real ones. The
//! network between them and etcd loses, delays and repeats messages, while nodes crash, pause and have wrong clocks.
//! Afterwards, the clients' answers are checked against a map that applies the same operations.
//!
//! A run follows from its seed. The seed of a failing run is printed, and `SUMD_SIMULATION_SEED` sets it.

mod checks;
mod directed;
mod etcd;
mod history;
mod moves;
mod mutants;
pub mod network;
pub mod nodes;
mod plan;
mod readers;
pub mod rows;
mod scenes;
mod sessions;
mod writers;

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use fastrand::Rng;
use sumd::maintenance::transfer;
use sumd::model::{Increments, Limits, Operation, Request};
use sumd::store::etcd::Tuning;
use sumd::store::{Scan, Store};
use tokio::runtime;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use history::{History, Stored};
use mutants::Mutant;
use network::{Link, World};
use nodes::{Answer, Cluster, Life, Node};
use plan::{Bits, Plan};
use writers::Client;

/// Number of seeds that every run of the tests tries.
const QUICK: u64 = 150;
/// Number of seeds within which a mistake has to be found.
const ENOUGH: u64 = 100;
/// A limit of simulated time: all clients have their answers long before.
const LONGEST: Duration = Duration::from_mins(25);
/// Number of problems that are reported.
const TOLD: usize = 5;

/// The results of a run.
#[derive(Debug, Default)]
struct Run {
    problems: Vec<String>,
    /// A digest that differs between runs that differ.
    trace: u64,
    transactions: usize,
    faults: usize,
    operations: usize,
}

/// Every answer is true, whatever the network and the nodes do.
#[test]
fn nodes_count_exactly_once() {
    let seeds = match seed() {
        Some(seed) => seed..seed + 1,
        None => 0..QUICK,
    };
    let total = sweep(seeds, None);
    eprintln!("{total}");
}

/// The same for a long time.
#[test]
#[ignore = "make soak runs it"]
fn soak() {
    // Without a duration, this is one of the ignored tests that `make test` runs.
    let Ok(seconds) = env::var("SUMD_SOAK_SECONDS") else {
        return;
    };
    let time = Duration::from_secs(seconds.parse().expect("a number of seconds"));
    let mut first = seed().unwrap_or_else(|| fastrand::u64(..u64::MAX / 2));
    let began = Instant::now();
    while began.elapsed() < time {
        let total = sweep(first..first + 1000, None);
        println!("{:>5} s: {total}", began.elapsed().as_secs());
        first += 1000;
    }
}

/// Nodes that commit in turns, each with a fold of its own in progress, do not set rows back to earlier values.
#[test]
fn nodes_fold_beside_each_other() {
    let runtime = paused_runtime();
    runtime.block_on(async {
        let world = World::new(Rng::with_seed(1), None);
        world.lock().healed = true;
        let mut plan = Plan::new(1);
        (plan.lanes, plan.skew) = (2, 0);
        let sizes = Tuning {
            open_bytes: 0,
            folded_rows: 1,
            recent_bytes: 12_000,
            // Nothing is kept in memory, so that folded counters are read from their rows.
            kept_bytes: 0,
            ..Tuning::default()
        };
        plan.sizes = vec![sizes; 2];
        rows::begin(&mut world.lock().etcd, plan.lanes);
        let cluster = Cluster::new(plan, world.clone());
        let mut nodes = Vec::new();
        for at in 0..2 {
            let life = Life {
                hands_back: true,
                ..Life::default()
            };
            let opened = cluster.open(Link::calm(&world), at, life).await;
            nodes.push(opened.expect("it is well"));
        }
        let mut rng = Rng::with_seed(2);
        let mut expected: BTreeMap<String, i64> = BTreeMap::new();
        for delta in 1..1000 {
            let name = format!("na/{}", rng.u8(..20));
            *expected.entry(name.clone()).or_default() += delta;
            let operation = Operation::Increment(Increments::one(name, delta, Limits::default()));
            let request = Request {
                id: None,
                operation,
            };
            let (_, node) = &nodes[rng.usize(..2)];
            let done = node.lanes.execute(cluster.lane("na"), request).await;
            done.expect("nothing is in its way");
            let (_, node) = &nodes[rng.usize(..2)];
            let names = expected.keys().map(|name| name.as_str().into()).collect();
            let found = node.store.read(names).await.expect("it is well").rows;
            let found = found.into_iter().map(|row| row.and_then(|row| row.value));
            assert!(found.eq(expected.values().copied().map(Some)));
        }
    });
}

/// A seed is enough to repeat a run.
#[test]
fn a_run_follows_from_its_seed() {
    for seed in 0..10 {
        let (one, two) = (run(seed, None), run(seed, None));
        assert_eq!(one.trace, two.trace, "seed {seed}");
        assert_eq!(one.transactions, two.transactions, "seed {seed}");
    }
}

macro_rules! each_is_found {
    ($($test:ident: $mutant:ident,)*) => {$(
        #[test]
        fn $test() {
            let is_found = |seed: &u64| {
                let mutant = Some(Mutant::$mutant);
                // Without the mistake, the seed finds nothing.
                !run(*seed, mutant).problems.is_empty() && run(*seed, None).problems.is_empty()
            };
            let seed = (0..ENOUGH).find(is_found).expect("it is found");
            eprintln!("{:?} is found by seed {seed}", Mutant::$mutant);
        }
    )*};
}

each_is_found! {
    commits_without_a_guard_are_found: NoGuard,
    ids_that_are_not_stored_are_found: NoIds,
    answers_before_the_commit_are_found: EarlyAnswer,
    what_is_sent_again_as_something_new_is_found: NewAttempt,
    guesses_about_what_nobody_knows_are_found: Guess,
    stale_reads_are_found: StaleReads,
    lanes_that_forget_ids_when_they_are_loaded_are_found: ForgetfulLoads,
    sessions_that_are_forgotten_in_one_lane_are_found: LostSessions,
    lanes_that_do_not_go_on_after_an_outage_are_found: StuckLanes,
    memory_that_does_not_come_back_is_found: NoRoom,
}

/// An etcd that accepts far less at once than a batch with its fold may have is sent less, and no node ends because of
/// it.
#[test]
fn an_etcd_that_takes_little_is_given_little() {
    eprintln!("{}", sweep(0..30, Some(Mutant::SmallRequests)));
}

fn seed() -> Option<u64> {
    let seed = env::var("SUMD_SIMULATION_SEED").ok()?;
    Some(seed.parse().expect("SUMD_SIMULATION_SEED is a number"))
}

/// Runs seeds on all processors, and returns the totals. Fails with the first seed that fails.
fn sweep(seeds: std::ops::Range<u64>, mutant: Option<Mutant>) -> String {
    let left = Mutex::new(seeds.clone());
    let total = Mutex::new(Run::default());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let next = left.lock().ok().and_then(|mut left| left.next());
                    let Some(seed) = next else { return };
                    let run = run(seed, mutant);
                    assert!(run.problems.is_empty(), "{}", told(seed, &run));
                    let mut total = total.lock().expect("another has failed");
                    total.transactions += run.transactions;
                    total.faults += run.faults;
                    total.operations += run.operations;
                }
            });
        }
    });
    let total = total.into_inner().expect("nobody has it");
    format!(
        "{} runs, {} operations, {} transactions of which {} went wrong",
        seeds.count(),
        total.operations,
        total.transactions,
        total.faults
    )
}

fn told(seed: u64, run: &Run) -> String {
    let mut told = format!(
        "SUMD_SIMULATION_SEED={seed}: {} problems, {}\n",
        run.problems.len(),
        Plan::new(seed)
    );
    for problem in run.problems.iter().take(TOLD) {
        let _ = writeln!(told, "    {problem}");
    }
    told
}

/// A runtime whose time advances only when all tasks wait for it.
fn paused_runtime() -> runtime::Runtime {
    let mut runtime = runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build();
    runtime.expect("a runtime")
}

fn run(seed: u64, mutant: Option<Mutant>) -> Run {
    paused_runtime().block_on(async {
        let world = World::new(Rng::with_seed(seed ^ 0xe7cd), mutant);
        let mut history = History::default();
        let mut plan = Plan::new(seed);
        if mutant == Some(Mutant::NoRoom) {
            plan.bounds.id_bytes = 1000;
        }
        let work = simulate(plan, &world, &mut history);
        let problems = match timeout(LONGEST, work).await {
            Ok(Ok(stored)) => checks::all(&history, &stored),
            Ok(Err(problem)) => vec![problem],
            Err(_) => vec!["it comes to no end".to_owned()],
        };
        let mut world = world.lock();
        let mut problems = problems;
        problems.append(&mut world.problems);
        Run {
            problems,
            trace: world.trace,
            transactions: world.transactions,
            faults: world.faults,
            operations: history.named.len() + history.bits.len() + history.messages.len(),
        }
    })
}

/// Runs clients against nodes while there are faults, waits until all have their answers, and reads the state.
async fn simulate(plan: Plan, world: &World, history: &mut History) -> Result<Stored, String> {
    let mut rng = Rng::with_seed(plan.seed ^ 0x51b);
    rows::begin(&mut world.lock().etcd, plan.lanes);
    let (storm, nodes) = (plan.storm, plan.nodes);
    let cluster = Cluster::new(plan, world.clone());
    let mut others = JoinSet::new();
    for at in 0..nodes {
        others.spawn(cluster.clone().weather(at, rng.fork()));
        others.spawn(cluster.clone().compact(rng.fork()));
        others.spawn(cluster.clone().clocks(at, rng.fork()));
    }
    if cluster.plan.settles {
        others.spawn(cluster.clone().settle(rng.fork()));
    }
    let mut keepers = JoinSet::new();
    for at in 0..nodes {
        keepers.spawn(cluster.clone().keep(at, rng.fork()));
    }
    let mut clients = start_clients(&cluster, &mut rng);
    let heal = cluster.clone();
    others.spawn(async move {
        sleep(storm).await;
        heal.world.lock().healed = true;
        heal.healed.cancel();
    });
    while let Some(done) = clients.join_next().await {
        history.add(done.map_err(|panic| format!("a client: {panic}"))?);
    }
    cluster.healed.cancelled().await;
    // Nodes that are down are started again.
    sleep(Duration::from_secs(3)).await;
    let probe = Client::new(&cluster, rng.fork());
    history.add(writers::probe(probe).await);
    cluster.stop.cancel();
    while let Some(done) = keepers.join_next().await {
        done.map_err(|panic| format!("a node's keeper: {panic}"))?;
    }
    // Messages in flight land, or are lost.
    world.lock().healed = true;
    sleep(Duration::from_secs(70)).await;
    audit(&cluster, history, &mut rng).await
}

fn start_clients(cluster: &Cluster, rng: &mut Rng) -> JoinSet<History> {
    let bits = Bits::default();
    let mut clients = JoinSet::new();
    let mut client = || Client::new(cluster, rng.fork());
    for who in 0..cluster.plan.writers {
        clients.spawn(writers::with_ids(client(), who));
    }
    for who in 0..2 {
        clients.spawn(writers::without_ids(client(), bits.clone()));
        clients.spawn(writers::with_times(client(), bits.clone(), who));
    }
    for who in 0..cluster.plan.sessions {
        clients.spawn(sessions::record(cluster.clone(), rng.fork(), who));
    }
    clients.spawn(readers::read(cluster.clone(), rng.fork()));
    clients
}

/// Reads everything on a new node, and repeats requests that must be remembered.
async fn audit(cluster: &Cluster, history: &mut History, rng: &mut Rng) -> Result<Stored, String> {
    let link = Link::calm(&cluster.world);
    let (_running, node) = cluster.open(link, 0, Life::default()).await?;
    for lane in 0..cluster.plan.lanes {
        let loaded = node.store.load(lane).await;
        loaded.map_err(|error| format!("lane {lane}: {error}"))?;
    }
    remembered(cluster, &node, history, rng).await;
    let checked = transfer::check(Link::calm(&cluster.world), rows::PREFIX).await;
    let checked = checked.map_err(|error| error.to_string())?;
    if let Some(problem) = checked.problems.first() {
        return Err(format!("a check has found: {problem}"));
    }
    let stored = everything(&*node.store).await?;
    let names: Vec<_> = stored.keys().cloned().collect();
    let rows = node
        .store
        .read(names)
        .await
        .map_err(|error| error.to_string())?;
    if !rows.rows.iter().flatten().eq(stored.values()) {
        return Err(format!("{:?} and {stored:?} differ", rows.rows));
    }
    Ok(stored)
}

/// Each client's last ids are answered as before.
async fn remembered(cluster: &Cluster, node: &Node, history: &mut History, rng: &mut Rng) {
    if cluster.plan.bounds.id_horizon < 100_000 {
        return;
    }
    let hasher = rows::hasher();
    let mut problems = Vec::new();
    // Older ids may be forgotten by now.
    let since = tokio::time::Instant::now() - Duration::from_secs(400);
    let recent = history
        .named
        .iter()
        .filter(|named| named.span.asked > since);
    for named in recent.take(20) {
        let operation = named.what.operation();
        let lane = cluster.lane(operation.group());
        let request = Request {
            id: Some(hasher.id(&named.id, None, &operation)),
            operation,
        };
        let patience = Duration::from_mins(1);
        let same = match node.ask(lane, request, patience, rng).await {
            Answer::Effect(again) => {
                again.answer.replayed
                    && again.answer.done == named.answer.answer.done
                    && again.revision == named.answer.revision
            }
            _ => false,
        };
        if !same {
            let problem = format!("{} is not remembered as {:?}", named.id, named.answer);
            problems.push(problem);
        }
    }
    history.problems.append(&mut problems);
}

async fn everything(store: &dyn Store) -> Result<Stored, String> {
    let mut stored: Stored = BTreeMap::new();
    let mut after = None;
    loop {
        let scan = Scan {
            after,
            limit: 1000,
            ..Scan::default()
        };
        let page = store.scan(scan).await.map_err(|error| error.to_string())?;
        for row in page.rows {
            stored.insert(row.name.clone(), row);
        }
        after = page.next;
        if after.is_none() {
            return Ok(stored);
        }
    }
}
