//! The parameters of a run, all of which follow from its seed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use sumd::model::{Bounds, Millis};
use sumd::store::etcd::Tuning;

/// Groups of counters that are changed with ids, and are known exactly in the end.
pub const NAMED: [&str; 3] = ["na", "nb", "nc"];
/// Counters of each of these groups.
pub const NAMES: usize = 6;
/// Groups of counters that bits are added to.
pub const BITS: [&str; 2] = ["ba", "bb"];
/// Groups that sessions add to.
pub const SESSIONS: [&str; 3] = ["sa", "sb", "sc"];
/// Messages of one session, each of which has a bit of its own in each counter.
pub const MESSAGES: u64 = 20;

pub struct Plan {
    pub seed: u64,
    pub nodes: usize,
    pub lanes: u32,
    pub max_operations: usize,
    /// One for each node.
    pub sizes: Vec<Tuning>,
    pub bounds: Bounds,
    /// How wrong a node's clock may be, and how far it may be set while the node runs.
    pub skew: Millis,
    /// How far a clock may jump by mistake: beyond the horizon of ids.
    pub jump: Millis,
    /// Recording clients are away for long times, and sessions are forgotten meanwhile.
    pub offline: bool,
    /// From some time on, clients call a single node as long as it is up, so that no commit of another node makes it
    /// catch up.
    pub settles: bool,
    /// The longest run of a node, in ms.
    pub life: u64,
    /// How long there are faults.
    pub storm: Duration,
    pub writers: usize,
    pub sessions: usize,
    pub operations: usize,
    /// The longest pause of a client between two operations.
    pub rest: Duration,
}

impl Plan {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let nodes = rng.usize(2..5);
        let jumps = rng.u8(..5) == 0;
        let offline = !jumps && rng.u8(..8) == 0;
        let is_long = offline || rng.u8(..6) == 0;
        let short_horizon = !jumps && rng.bool();
        Self {
            seed,
            nodes,
            lanes: rng.u32(1..6),
            max_operations: [24, 128][rng.usize(..2)],
            sizes: (0..nodes).map(|_| sizes(&mut rng)).collect(),
            bounds: Bounds {
                id_bytes: 1 << 20,
                counter_bytes: [300, 1 << 16][rng.usize(..2)],
                id_horizon: if short_horizon { 20_000 } else { 600_000 },
                session_horizon: if offline { 120_000 } else { 600_000 },
            },
            skew: [0, 3_000, 15_000][rng.usize(..3)],
            jump: if jumps { 1_500_000 } else { 0 },
            offline,
            settles: rng.u8(..3) == 0,
            life: [3_000, 15_000, 100_000][rng.usize(..3)],
            storm: Duration::from_secs(if is_long { 240 } else { 25 }),
            writers: rng.usize(2..6),
            sessions: rng.usize(1..4),
            operations: rng.usize(6..20),
            // Some clients are done long before the faults end, and others are at work then.
            rest: Duration::from_millis(if is_long {
                25_000
            } else {
                [600, 3_000][rng.usize(..2)]
            }),
        }
    }
}

/// The unusual parts of a plan, for the report of a failure.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} nodes, {} lanes", self.nodes, self.lanes)?;
        let also = [
            (self.jump > 0, "clocks that jump"),
            (self.offline, "clients that are away"),
            (self.settles, "one node that is asked at last"),
        ];
        let also = also.iter().filter(|(is_so, _)| *is_so);
        also.into_iter()
            .try_for_each(|(_, what)| write!(f, ", {what}"))
    }
}

/// Mostly small sizes, with which everything happens in a short run.
fn sizes(rng: &mut Rng) -> Tuning {
    if rng.u8(..4) == 0 {
        return Tuning::default();
    }
    Tuning {
        open_bytes: [0, 200, 1000][rng.usize(..3)],
        folded_rows: rng.usize(1..5),
        folded_bytes: [0, 500, 1 << 18][rng.usize(..3)],
        recent_bytes: [0, 1000, 8000][rng.usize(..3)],
        recent_sessions: rng.usize(..4),
        pruned_packs: rng.usize(1..4),
        kept_packs: rng.usize(0..3),
        packs_page: rng.i64(1..4),
        packs_behind: [1, 64][rng.usize(..2)],
        rows_page: rng.i64(1..5),
        kept_bytes: [0, 2000, 1 << 20][rng.usize(..3)],
    }
}

/// Hands out bits, each once.
#[derive(Clone, Default)]
pub struct Bits(Arc<Mutex<BTreeMap<String, u32>>>);

impl Bits {
    /// A counter of a group, and a bit in it that was not handed out before.
    pub fn next(&self, group: &str) -> (String, i64) {
        let mut given = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for at in 0.. {
            let counter = format!("{group}/{at}");
            let next = given.entry(counter.clone()).or_insert(0);
            if *next < 62 {
                *next += 1;
                return (counter, 1 << (*next - 1));
            }
        }
        unreachable!("there is always another counter")
    }
}
