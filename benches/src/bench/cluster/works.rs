//! The works on a cluster, the common ways to count on the same etcd, and the targets.

use crate::counters::{
    encode::{GROUP_EACH, Layout, ONE_GROUP},
    works::MESSAGE_INCREMENTS,
};

/// Numbers of etcd's members: a single one, and as many as survive the death of one.
pub const SIZES: [usize; 2] = [1, 3];

pub const NODES: usize = 3;
pub const CLIENTS: usize = 256;
pub const SESSIONS: usize = 64;

/// The share of its full rate at which a service is measured without overload.
pub const HALF: f64 = 0.5;

pub struct Work {
    pub name: &'static str,
    pub title: &'static str,
    pub kind: Kind,
}

pub enum Kind {
    /// Common ways to count, with etcd alone.
    Peers,
    /// Increments as fast as they are answered.
    Closed(Load),
    /// Increments at a fixed rate, half of the full rate measured before.
    Half(Load),
    /// Sums, which need no etcd; measured with and without one.
    Adds,
    Curve,
}

/// The load of a run's clients; the counters to increment are chosen at random.
#[derive(Clone, Copy)]
pub struct Load {
    pub layout: Layout,
    pub counters: u32,
    pub clients: usize,
    /// Increments per request; if more than one, requests are messages of `RecordIncrements`.
    pub batch: usize,
}

pub const fn unary(layout: Layout, counters: u32) -> Load {
    Load {
        layout,
        counters,
        clients: CLIENTS,
        batch: 1,
    }
}

pub const fn bulk(layout: Layout, counters: u32) -> Load {
    Load {
        layout,
        counters,
        clients: SESSIONS,
        batch: MESSAGE_INCREMENTS,
    }
}

const HOT: &str = "cluster-hot";
const SOME: &str = "cluster-1k";
const SOME_GROUPS: &str = "cluster-1k-groups";
const HALF_NAME: &str = "cluster-half";
/// Single commits at an interval, during the increments at half the rate.
pub const BESIDE: &str = "cluster-half, commits beside it";
const RECORD_HOT: &str = "cluster-record-hot";
const RECORD: &str = "cluster-record-10k";
const RECORD_GROUPS: &str = "cluster-record-10k-groups";

/// Sums, with etcd up and with etcd down.
pub const ADDS: [&str; 2] = ["cluster-add", "cluster-add, etcd down"];

pub const WORKS: [Work; 10] = [
    work(
        "cluster-etcd",
        "what people do today with etcd alone",
        Kind::Peers,
    ),
    work(
        HOT,
        "one counter, 256 unary clients",
        Kind::Closed(unary(ONE_GROUP, 1)),
    ),
    work(
        SOME,
        "1,000 counters of one group, 256 unary clients",
        Kind::Closed(unary(ONE_GROUP, 1_000)),
    ),
    work(
        SOME_GROUPS,
        "1,000 counters, a group each, 256 unary clients",
        Kind::Closed(unary(GROUP_EACH, 1_000)),
    ),
    work(
        HALF_NAME,
        "one counter, unary, at half the rate of 256 clients",
        Kind::Half(unary(ONE_GROUP, 1)),
    ),
    work(
        RECORD_HOT,
        "one counter, 64 sessions, 100 increments a message",
        Kind::Closed(bulk(ONE_GROUP, 1)),
    ),
    work(
        RECORD,
        "10,000 counters of one group, 64 sessions, 100 increments a message",
        Kind::Closed(bulk(ONE_GROUP, 10_000)),
    ),
    work(
        RECORD_GROUPS,
        "10,000 counters, a group each, 64 sessions, 100 increments a message",
        Kind::Closed(bulk(GROUP_EACH, 10_000)),
    ),
    work(
        ADDS[0],
        "`Add` of 3 values, 256 calls in flight, with etcd and without",
        Kind::Adds,
    ),
    work(
        "cluster-curve",
        "the cost of an increment over nodes, lanes, counters and ids",
        Kind::Curve,
    ),
];

const fn work(name: &'static str, title: &'static str, kind: Kind) -> Work {
    Work { name, title, kind }
}

/// A way to count with etcd alone.
pub struct Peer {
    pub name: &'static str,
    pub way: Way,
    /// Requests, or increments, in flight at any time.
    pub in_flight: usize,
    /// Whether each of them has a connection of its own.
    pub own_connections: bool,
}

#[derive(Clone, Copy)]
pub enum Way {
    /// Reads the counter, writes it if it has not changed, or else starts over. With `reads_along`, a refused write
    /// returns the present value, so that no new read is needed.
    Cas { reads_along: bool },
    /// Transactions with `puts` puts of different keys.
    Txn { puts: usize },
}

/// All variants are measured, since the best one of a kind depends on the machine; targets compare with the best.
pub const PEERS: [Peer; 9] = [
    peer("cas-16", Way::Cas { reads_along: false }, 16, true),
    peer("cas-16-along", Way::Cas { reads_along: true }, 16, true),
    peer("txn-1", Way::Txn { puts: 1 }, 1, true),
    peer("txn-16", Way::Txn { puts: 1 }, 16, true),
    peer("txn-16-shared", Way::Txn { puts: 1 }, 16, false),
    peer("puts-100-4", Way::Txn { puts: 100 }, 4, true),
    peer("puts-100-4-shared", Way::Txn { puts: 100 }, 4, false),
    peer("puts-100-16", Way::Txn { puts: 100 }, 16, true),
    peer("puts-100-16-shared", Way::Txn { puts: 100 }, 16, false),
];

const fn peer(name: &'static str, way: Way, in_flight: usize, own_connections: bool) -> Peer {
    Peer {
        name,
        way,
        in_flight,
        own_connections,
    }
}

const CAS: &[&str] = &["cas-16", "cas-16-along"];
const COMMIT: &[&str] = &["txn-1"];
const TXNS: &[&str] = &["txn-16", "txn-16-shared"];
const PUTS: &[&str] = &[
    "puts-100-4",
    "puts-100-4-shared",
    "puts-100-16",
    "puts-100-16-shared",
];

/// A target for sumd on `work`, against the best of some peers.
pub struct Target {
    pub work: &'static str,
    pub against: &'static str,
    pub peers: &'static [&'static str],
    pub goal: Goal,
}

pub enum Goal {
    /// Increments a second, at least this many times those of the peer.
    Times(f64),
    /// The 99th percentile, at most this many times the peer's median.
    Latency(f64),
}

pub const TARGETS: [Target; 10] = [
    times(HOT, "compare-and-swap", CAS, 50.0),
    times(HOT, "1-op transactions", TXNS, 3.0),
    times(SOME, "1-op transactions", TXNS, 2.0),
    times(SOME_GROUPS, "1-op transactions", TXNS, 2.0),
    times(RECORD_HOT, "compare-and-swap", CAS, 1_000.0),
    times(RECORD_HOT, "1-op transactions", TXNS, 100.0),
    times(RECORD, "puts by 100", PUTS, 10.0),
    times(RECORD_GROUPS, "puts by 100", PUTS, 10.0),
    Target {
        work: HALF_NAME,
        against: "one commit",
        peers: COMMIT,
        goal: Goal::Latency(5.0),
    },
    // The same against commits that are made while the nodes use the processors.
    Target {
        work: HALF_NAME,
        against: "a commit beside it",
        peers: &[BESIDE],
        goal: Goal::Latency(5.0),
    },
];

const fn times(
    work: &'static str,
    against: &'static str,
    peers: &'static [&'static str],
    least: f64,
) -> Target {
    Target {
        work,
        against,
        peers,
        goal: Goal::Times(least),
    }
}

/// Members of etcd for the curves: with three of them, two cores could not show how nodes scale.
pub const CURVE_MEMBERS: usize = 1;
pub const CURVE_NODES: [usize; 4] = [1, 2, 4, 8];
pub const CURVE_LANES: [u32; 5] = [1, 4, 16, 64, 256];
pub const CURVE_COUNTERS: [u32; 4] = [1_000, 10_000, 100_000, 1_000_000];
/// One window alone adds some hundred thousand ids.
pub const CURVE_IDS: [u64; 4] = [0, 1_000_000, 3_000_000, 10_000_000];
