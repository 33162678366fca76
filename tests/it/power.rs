//! Counters survive a loss of power. Each write and each sync of a server is recorded while it works. Then disks are
//! made as a loss of power at various moments can leave them, with unsynced data kept or lost in any way that a disk
//! allows, and a server is started on each.
//!
//! A run follows from a recording and a seed. The seed is printed, and `SUMD_POWER_SEED` sets it. If a test fails, the
//! recording is kept, with the disk on which it failed.

mod audit;
mod disk;
mod load;
mod recording;

use std::any::Any;
use std::env;
use std::fmt;
use std::ops::RangeInclusive;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use futures_util::FutureExt as _;
use tempfile::TempDir;
use tokio::task::JoinSet;

use audit::Found;
use disk::Disk;
use load::{Load, Told};
use recording::{Change, Fault, Position, Record, Recording, Studio, data, position};

use crate::crash::operation::{Add, Operation};
use crate::support::process::{self, Process};
use crate::support::soon;

/// No delay before a drain, counters that are read from disk again, and ids that are remembered until all are sent
/// again.
const FLAGS: [&str; 6] = [
    "--drain-delay",
    "0s",
    "--counter-memory",
    "64KiB",
    "--id-horizon",
    "1h",
];

/// Number of disks that are checked at the same time.
const AT_ONCE: usize = 2;

/// Enough for the log to be copied into the database, and to begin again, while the first server runs.
const LOAD: Load = Load {
    calls: 6,
    messages: 60,
};

/// The load of each server if faults end some of them, because then there are more servers.
const LOAD_OF_MANY: Load = Load {
    calls: 3,
    messages: 20,
};

/// A recording, the clients' answers, and the positions in the log where each server started and where it listened.
struct Take {
    recording: Recording,
    told: Arc<Told>,
    starts: Vec<(Position, Position)>,
}

/// Counts of what was done.
#[derive(Default)]
struct Figures {
    records: usize,
    cuts: usize,
    answered: usize,
    unanswered: usize,
}

impl Figures {
    fn add(&mut self, other: &Self) {
        self.records += other.records;
        self.cuts += other.cuts;
        self.answered += other.answered;
        self.unanswered += other.unanswered;
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            records,
            cuts,
            answered,
            unanswered,
        } = self;
        write!(
            f,
            "{records} changes to files, {cuts} losses of power, after which {answered} answered operations were there, and \
             {unanswered} that were not answered yet"
        )
    }
}

/// A folder that is kept if the test fails.
struct Scene(TempDir);

impl Scene {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.disable_cleanup(true);
            eprintln!("what was recorded stays at {}", self.0.path().display());
        }
    }
}

/// Wherever the power is lost, every earlier answered change is there, and every repeated request counts once.
#[tokio::test]
async fn what_was_answered_survives_a_loss_of_power() {
    let scene = Scene::new();
    let figures = run(&scene, 32, LOAD, &[], &mut Rng::with_seed(seed())).await;
    eprintln!("{figures}");
    assert!(figures.answered > 0, "{figures}");
}

/// The same if servers die in the middle of commits, of copying the log into the database, and of their starts. Each
/// next server finds data in the page cache that are not on disk, and the clients repeat the requests that were not
/// answered.
#[tokio::test]
async fn what_was_answered_after_a_kill_survives_a_loss_of_power() {
    let scene = Scene::new();
    let mut rng = Rng::with_seed(seed());
    let kills = kills(&mut rng);
    let figures = run(&scene, 48, LOAD_OF_MANY, &kills, &mut rng).await;
    eprintln!("{figures}");
    assert!(figures.answered > 0, "{figures}");
}

/// The same if flushes fail. The server ends, and acknowledges nothing from then on. The next one does not take the
/// data of the failed flush for durable.
#[tokio::test]
async fn what_was_answered_after_a_flush_failed_survives_a_loss_of_power() {
    let scene = Scene::new();
    let mut rng = Rng::with_seed(seed());
    let failures = failures(&mut rng);
    let figures = run(&scene, 32, LOAD_OF_MANY, &failures, &mut rng).await;
    eprintln!("{figures}");
    assert!(figures.answered > 0, "{figures}");
}

/// The same for a long time, recording after recording.
#[tokio::test]
#[ignore = "make soak runs it"]
async fn soak() {
    // Without a duration, this is one of the ignored tests that `make test` runs.
    let Ok(seconds) = env::var("SUMD_SOAK_SECONDS") else {
        return;
    };
    let time = Duration::from_secs(seconds.parse().expect("a number of seconds"));
    let mut rng = Rng::with_seed(seed());
    let mut total = Figures::default();
    let began = Instant::now();
    while began.elapsed() < time {
        let load = Load {
            calls: rng.usize(..=3 * LOAD.calls),
            messages: rng.usize(..=3 * LOAD.messages),
        };
        let faults = match rng.u8(..3) {
            0 => Vec::new(),
            1 => kills(&mut rng),
            _ => failures(&mut rng),
        };
        let figures = run(&Scene::new(), 200, load, &faults, &mut rng).await;
        total.add(&figures);
        println!("{:>5} s: {total}", began.elapsed().as_secs());
    }
}

/// A server that omits syncs, as with `synchronous=OFF`, differs from this one by the records that are missing.
/// Whichever kind is missing, an answered change is lost or damaged.
#[tokio::test]
async fn no_sync_can_be_left_out() {
    type Of = fn(&str) -> bool;
    let mutants: [(&str, Of); 4] = [
        ("any file", |_| true),
        ("the log", |path| path.ends_with("-wal")),
        ("the database", |path| path.ends_with("/sumd.db")),
        ("folders", |path| !path.contains('.')),
    ];
    let scene = Scene::new();
    let mut rng = Rng::with_seed(seed());
    let take = record(scene.0.path(), LOAD, &[], &mut rng).await;
    for (what, of) in mutants {
        let forgotten = |record: &Record| is_sync(record) && of(&record.path);
        let problem = caught(&take, &take.recording.without(forgotten), &scene, &mut rng).await;
        let problem = problem.unwrap_or_else(|| panic!("without syncs of {what} all is well"));
        eprintln!("without syncs of {what}: {problem}");
    }
}

/// A server that starts without making durable what it found is caught.
#[tokio::test]
async fn no_sync_of_a_start_can_be_left_out() {
    let scene = Scene::new();
    let mut rng = Rng::with_seed(seed());
    let kills = kills(&mut rng);
    let take = record(scene.0.path(), LOAD_OF_MANY, &kills, &mut rng).await;
    let starts = take.starts.iter().skip(1);
    let of_start = |record: &Record| {
        starts
            .clone()
            .any(|(from, to)| record.is_between(*from, *to))
    };
    assert!(
        take.recording
            .records
            .iter()
            .any(|record| is_sync(record) && of_start(record))
    );
    let mutant = take
        .recording
        .without(|record| is_sync(record) && of_start(record));
    let problem = caught(&take, &mutant, &scene, &mut rng).await;
    let problem = problem.expect("without syncs of the starts all is well");
    eprintln!("without syncs of the starts: {problem}");
}

/// A server that is not told of a failed flush continues after a hole, and is caught. This tests what the harness
/// leaves on disk after that.
#[tokio::test]
async fn a_flush_that_lies_is_seen() {
    let mut rng = Rng::with_seed(seed());
    // Pages that a later commit touches are written with that commit, so not every lie leaves a hole.
    for _ in 0..12 {
        let scene = Scene::new();
        let lies = [Fault::Lie(rng.u32(1..=10), "-wal")];
        let take = record(scene.0.path(), LOAD_OF_MANY, &lies, &mut rng).await;
        let Some(behind) = behind_a_lie(&take) else {
            continue;
        };
        let found = find_problem(&take, &take.recording, &behind, 6, &scene, &mut rng).await;
        if let Some(problem) = found {
            eprintln!("after a flush that lied: {problem}");
            return;
        }
    }
    panic!("after flushes that lied all is well");
}

/// The records from a flush that lied to the start of the next server, which copies what it finds in the page cache
/// into the database, and flushes that. `None` if there was nothing to flush, as in starting servers.
fn behind_a_lie(take: &Take) -> Option<RangeInclusive<usize>> {
    let records = &take.recording.records;
    let is_lie = |record: &Record| matches!(record.change, Change::Fail);
    let lie = records.iter().position(is_lie)?;
    let mut before = records[..lie].iter().rev();
    let newest = before.find(|record| record.inode == records[lie].inode)?;
    let starts = take.starts.iter();
    let mut starts = starts.map(|(from, _)| take.recording.cut(*from));
    let next = starts.find(|start| *start > lie)?;
    (!is_sync(newest)).then_some(lie + 1..=next)
}

fn is_sync(record: &Record) -> bool {
    matches!(record.change, Change::Sync)
}

/// The problem that losses of power show in a recording with records left out.
async fn caught(take: &Take, mutant: &Recording, scene: &Scene, rng: &mut Rng) -> Option<String> {
    let anywhere = 0..=mutant.records.len();
    for _ in 0..20 {
        let caught = find_problem(take, mutant, &anywhere, 4, scene, rng).await;
        if caught.is_some() {
            return caught;
        }
    }
    None
}

/// The problem that one of `count` losses of power in a part of the records shows.
async fn find_problem(
    take: &Take,
    recording: &Recording,
    part: &RangeInclusive<usize>,
    count: usize,
    scene: &Scene,
    rng: &mut Rng,
) -> Option<String> {
    let cuts = choose_cuts(recording, take, part, count, rng);
    let outcomes = lose_power(recording, &take.told, &cuts, scene.0.path()).await;
    outcomes.into_iter().find_map(|(_, found)| found.err())
}

/// A completed restore stays complete, and an interrupted one leaves the whole database or none.
#[tokio::test]
async fn a_restore_survives_a_loss_of_power() {
    let scene = Scene::new();
    let studio = Studio::new(scene.0.path()).await;
    let source = text(scene.0.path().join("source"));
    let server = Process::serve(&["--data-dir", &source]).await;
    let mut client = load::connect(&server.address).await;
    for i in 0..500 {
        let add = Add::new(format!("acme/{i}").into(), 1);
        let added = Operation::Increment(add).send(&mut client, "").await;
        added.expect("a value");
    }
    let backup = text(scene.0.path().join("backup"));
    let made = process::run(&["backup", &backup, "--data-dir", &source]).await;
    assert!(made.status.success(), "{made:?}");
    let mut restore = studio.command("restore");
    let restored = restore
        .args([&backup, "--data-dir"])
        .arg(data(&studio.root()));
    let restored = soon(restored.output()).await.expect("it is built");
    assert!(restored.status.success(), "{restored:?}");

    let recording = studio.recording();
    let mut disk = Disk::new(&recording);
    let mut rng = Rng::with_seed(seed());
    let end = recording.records.len();
    for at in (0..end).chain([end; 10]) {
        disk.forward(at);
        let root = tempfile::tempdir_in(scene.0.path()).expect("a folder");
        disk.lose_power(root.path(), &mut rng);
        let data = data(root.path());
        if at < end && !data.join("sumd.db").exists() {
            continue;
        }
        let found = process::run(&["check", "--data-dir", &text(data)]).await;
        let whole = found.stdout.starts_with(b"counters=500 ");
        let whole = whole && found.status.success();
        assert!(whole, "after {at} of {end}: {found:?}");
    }
}

fn text(path: PathBuf) -> String {
    path.into_os_string().into_string().expect("text")
}

fn seed() -> u64 {
    let seed = env::var("SUMD_POWER_SEED").map_or_else(
        |_| fastrand::u64(..),
        |seed| seed.parse().expect("SUMD_POWER_SEED is a number"),
    );
    // Shown if the test fails.
    eprintln!("SUMD_POWER_SEED={seed}");
    seed
}

/// Records servers, and checks what losses of power leave.
async fn run(scene: &Scene, cuts: usize, load: Load, faults: &[Fault], rng: &mut Rng) -> Figures {
    let folder = scene.0.path();
    let take = record(folder, load, faults, rng).await;
    let Take {
        recording, told, ..
    } = &take;
    let anywhere = 0..=recording.records.len();
    let cuts = choose_cuts(recording, &take, &anywhere, cuts, rng);
    let mut figures = Figures {
        records: recording.records.len(),
        cuts: cuts.len(),
        ..Figures::default()
    };
    for (cut, found) in lose_power(recording, told, &cuts, folder).await {
        let found = found.unwrap_or_else(|problem| {
            // The disk as it was before a server was started on it.
            let mut disk = Disk::new(recording);
            disk.forward(cut.at);
            disk.lose_power(&folder.join("disk"), &mut Rng::with_seed(cut.seed));
            panic!("after {cut:?} of {faults:?}: {problem}")
        });
        figures.answered += found.answered;
        figures.unanswered += found.unanswered;
    }
    figures
}

/// One death for each server. Most die with a commit written and not flushed.
fn kills(rng: &mut Rng) -> Vec<Fault> {
    let mut faults: Vec<_> = (0..4)
        .map(|_| Fault::DieSyncing(rng.u32(1..=15), "-wal"))
        .collect();
    faults.extend((0..3).map(|_| Fault::DieWriting(rng.u32(1..=200))));
    faults.push(Fault::DieWriting(rng.u32(1..=10)));
    faults.push(Fault::DieSyncing(1, "sumd.db"));
    rng.shuffle(&mut faults);
    faults
}

/// Failing flushes, one for each server.
fn failures(rng: &mut Rng) -> Vec<Fault> {
    let mut faults: Vec<_> = (0..5)
        .map(|_| Fault::Fail(rng.u32(1..=15), "-wal"))
        .collect();
    faults.push(Fault::Fail(rng.u32(1..=2), "-wal"));
    faults.push(Fault::Fail(1, "sumd.db"));
    // In between, a death: the next server may trust the page cache, or not.
    faults.push(Fault::DieSyncing(rng.u32(1..=15), "-wal"));
    rng.shuffle(&mut faults);
    faults
}

/// Records servers: one that does most of the work, one with each fault, and those that end in one way and in the
/// other.
async fn record(folder: &Path, load: Load, faults: &[Fault], rng: &mut Rng) -> Take {
    let studio = Studio::new(folder).await;
    let mut told = Told::new();
    let mut starts = Vec::new();
    let faults = faults.iter().map(|fault| (Some(*fault), "KILL", 10));
    let lives = [(None, "KILL", 1)].into_iter().chain(faults);
    for (fault, end, part) in lives.chain([(None, "TERM", 10), (None, "KILL", 10)]) {
        let load = Load {
            messages: load.messages.div_ceil(part),
            ..load
        };
        let from = if starts.is_empty() {
            0
        } else {
            position(&studio.log())
        };
        let mut server = studio.serve(&FLAGS, fault).await;
        if let Some(address) = server.address.clone() {
            starts.push((from, position(&studio.log())));
            told.go_on(&address, &studio.log(), load, rng).await;
        }
        if server.address.is_some() && told.is_done() {
            // It has no request in flight.
            server.signal(end);
            server.exit().await;
        } else {
            // It ends without a signal, even if it has not answered every request.
            let code = server.exit().await.code();
            let expected = match fault {
                Some(Fault::DieWriting(_) | Fault::DieSyncing(..)) => 137,
                Some(Fault::Fail(..)) => 1,
                Some(Fault::Lie(..)) | None => panic!("it has ended with {code:?}"),
            };
            assert_eq!(code, Some(expected), "{fault:?}");
        }
    }
    Take {
        recording: studio.recording(),
        told: Arc::new(told),
        starts,
    }
}

/// A moment at which the power is lost.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// Number of records before it.
    at: usize,
    /// Decides what the disk keeps of unsynced data.
    seed: u64,
}

/// Moments of each kind in a part of the records, in order: around commits, in checkpoints, when files are created,
/// deleted or resized, right after the first answer of each server, and while servers start.
fn choose_cuts(
    recording: &Recording,
    take: &Take,
    part: &RangeInclusive<usize>,
    count: usize,
    rng: &mut Rng,
) -> Vec<Cut> {
    let mut kinds = [const { Vec::new() }; 6];
    let answers = take.told.first_answers.iter();
    kinds[4].extend(answers.map(|at| recording.cut(*at)));
    for (from, to) in take.starts.iter().skip(1) {
        kinds[5].extend(recording.cut(*from) + 1..=recording.cut(*to));
    }
    for (i, record) in recording.records.iter().enumerate() {
        let is_log = record.path.ends_with("-wal");
        let kind = match record.change {
            Change::Sync if is_log => 0,
            Change::Write { .. } if is_log => 1,
            Change::Write { .. } => 2,
            _ => 3,
        };
        // Before the record and after it.
        kinds[kind].extend([i, i + 1]);
    }
    for kind in &mut kinds {
        kind.retain(|at| part.contains(at));
    }
    let kinds = kinds.into_iter().filter(|kind| !kind.is_empty());
    let mut cuts: Vec<_> = kinds
        .cycle()
        .take(count)
        .map(|kind| Cut {
            at: kind[rng.usize(..kind.len())],
            seed: rng.u64(..),
        })
        .collect();
    cuts.sort_by_key(|cut| cut.at);
    cuts
}

/// The outcome of each cut.
type Outcomes = Vec<(Cut, Result<Found, String>)>;

async fn lose_power(
    recording: &Recording,
    told: &Arc<Told>,
    cuts: &[Cut],
    folder: &Path,
) -> Outcomes {
    let mut disk = Disk::new(recording);
    let mut audits = JoinSet::new();
    let mut outcomes = Outcomes::new();
    for cut in cuts {
        if audits.len() >= AT_ONCE {
            outcomes.extend(
                audits
                    .join_next()
                    .await
                    .map(|done| done.expect("it catches")),
            );
        }
        disk.forward(cut.at);
        let root = tempfile::tempdir_in(folder).expect("a folder");
        let mut rng = Rng::with_seed(cut.seed);
        disk.lose_power(root.path(), &mut rng);
        let (cut, told, position) = (*cut, told.clone(), recording.position(cut.at));
        let has_failed = recording.has_failed(cut.at);
        audits.spawn(async move {
            let audit = audit::audit(root.path(), position, has_failed, &told, rng);
            let found = AssertUnwindSafe(audit).catch_unwind().await;
            (cut, found.map_err(|panic| message(&*panic)))
        });
    }
    outcomes.extend(audits.join_all().await);
    outcomes
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
    text.unwrap_or_else(|| "a panic without words".into())
}
