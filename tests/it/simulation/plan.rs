//! What a run is to be: all of it follows from its seed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use sumd::model::{Bounds, Millis};
use sumd::store::etcd::Sizes;

/// Groups of counters that are changed with ids, and are exactly known in the end.
pub const NAMED: [&str; 3] = ["na", "nb", "nc"];
/// Counters of each of these.
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
    /// Of each node.
    pub sizes: Vec<Sizes>,
    pub bounds: Bounds,
    /// How wrong a node's clock may be.
    pub skew: Millis,
    /// The longest life of a node, in ms.
    pub life: u64,
    /// For how long there are faults.
    pub storm: Duration,
    pub writers: usize,
    pub sessions: usize,
    pub operations: usize,
    /// How long a client waits between two operations at most.
    pub rest: Duration,
}

impl Plan {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let nodes = rng.usize(2..5);
        let is_long = rng.u8(..6) == 0;
        let short_horizon = rng.bool();
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
                session_horizon: 600_000,
            },
            skew: [0, 3_000, 15_000][rng.usize(..3)],
            life: [3_000, 15_000, 100_000][rng.usize(..3)],
            storm: Duration::from_secs(if is_long { 240 } else { 25 }),
            writers: rng.usize(2..6),
            sessions: rng.usize(1..4),
            operations: rng.usize(6..20),
            rest: Duration::from_millis(if is_long { 25_000 } else { 600 }),
        }
    }
}

/// Mostly such that all of it happens in a short run.
fn sizes(rng: &mut Rng) -> Sizes {
    if rng.u8(..4) == 0 {
        return Sizes::default();
    }
    Sizes {
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

/// Gives away bits, each once.
#[derive(Clone, Default)]
pub struct Bits(Arc<Mutex<BTreeMap<String, u32>>>);

impl Bits {
    /// A counter of a group, and a bit that nobody else has there.
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
