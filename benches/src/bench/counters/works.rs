//! The works on counters, the contenders, and the targets.

/// A server that keeps counters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Sumd,
    Redis,
    Postgres,
}

impl Engine {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sumd => "sumd",
            Self::Redis => "redis",
            Self::Postgres => "postgres",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One increment per request; each client waits for its answer.
    Increment,
    /// Many increments per request.
    Record,
    /// Like `Increment`, by a single client without other load.
    Idle,
    Curve,
    Restart,
}

/// A load for a server.
pub struct Work {
    pub name: &'static str,
    pub title: &'static str,
    pub kind: Kind,
    /// Number of counters; those to increment are chosen at random.
    pub counters: u32,
    /// Number of concurrent clients.
    pub clients: usize,
}

/// Number of counters in works without a hot one.
const SOME: u32 = 10_000;

pub const WORKS: [Work; 11] = [
    increment("increment-hot-64", "one counter, 64 clients", 1, 64),
    increment("increment-hot-256", "one counter, 256 clients", 1, 256),
    increment("increment-10k-64", "10,000 counters, 64 clients", SOME, 64),
    increment(
        "increment-10k-256",
        "10,000 counters, 256 clients",
        SOME,
        256,
    ),
    record("record-hot-64", "one counter, 64 clients", 1, 64),
    record("record-hot-256", "one counter, 256 clients", 1, 256),
    record("record-10k-64", "10,000 counters, 64 clients", SOME, 64),
    record("record-10k-256", "10,000 counters, 256 clients", SOME, 256),
    Work {
        name: "increment-idle",
        title: "one increment at a time, nobody else about",
        kind: Kind::Idle,
        counters: 1,
        clients: 1,
    },
    Work {
        name: "counters-curve",
        title: "the cost of an increment over the number of counters, 64 clients",
        kind: Kind::Curve,
        counters: 0,
        clients: CURVE_CLIENTS,
    },
    Work {
        name: "restart",
        title: "kill -9 with 1,000,000 counters and many ids, to the first answer",
        kind: Kind::Restart,
        counters: RESTART_COUNTERS,
        clients: RESTART_CLIENTS,
    },
];

pub const CURVE_COUNTERS: [u32; 5] = [1_000, 10_000, 100_000, 1_000_000, 10_000_000];
pub const CURVE_CLIENTS: usize = 64;
pub const RESTART_COUNTERS: u32 = 1_000_000;
pub const RESTART_CLIENTS: usize = 256;

const fn increment(name: &'static str, title: &'static str, counters: u32, clients: usize) -> Work {
    Work {
        name,
        title,
        kind: Kind::Increment,
        counters,
        clients,
    }
}

const fn record(name: &'static str, title: &'static str, counters: u32, clients: usize) -> Work {
    Work {
        name,
        title,
        kind: Kind::Record,
        counters,
        clients,
    }
}

impl Work {
    pub fn interleaved(&self) -> bool {
        !matches!(self.kind, Kind::Curve | Kind::Restart)
    }

    pub fn heading(&self) -> String {
        match self.kind {
            Kind::Increment => format!("one increment a request, {}", self.title),
            Kind::Record => format!("many increments a request, {}", self.title),
            _ => self.title.to_owned(),
        }
    }

    /// The load of `contender`.
    pub fn load(&self, contender: &Contender) -> Load {
        Load {
            counters: self.counters,
            clients: self.clients,
            batch: contender.batch,
        }
    }
}

/// The load of a run's clients.
#[derive(Clone, Copy)]
pub struct Load {
    pub counters: u32,
    pub clients: usize,
    /// Increments per request; if more than one, sumd's `RecordIncrements` or Redis' pipelines.
    pub batch: usize,
}

/// Increments in a message of `RecordIncrements`.
pub const MESSAGE_INCREMENTS: usize = 100;

/// A way of doing the works.
pub struct Contender {
    pub name: &'static str,
    pub engine: Engine,
    pub batch: usize,
}

pub const CONTENDERS: [Contender; 6] = [
    contender("sumd", Engine::Sumd, 1),
    contender("redis", Engine::Redis, 1),
    contender("postgres", Engine::Postgres, 1),
    contender("sumd-100", Engine::Sumd, MESSAGE_INCREMENTS),
    contender("redis-16", Engine::Redis, 16),
    contender("redis-100", Engine::Redis, 100),
];

const fn contender(name: &'static str, engine: Engine, batch: usize) -> Contender {
    Contender {
        name,
        engine,
        batch,
    }
}

impl Contender {
    pub fn does(&self, work: &Work) -> bool {
        match work.kind {
            Kind::Increment | Kind::Idle => self.batch == 1,
            Kind::Record => self.batch > 1,
            Kind::Curve | Kind::Restart => self.engine == Engine::Sumd,
        }
    }
}

/// A target for sumd's `contender` on `work`.
pub struct Target {
    pub work: &'static str,
    pub goal: Goal,
}

pub enum Goal {
    /// Server CPU time for each increment, at most this many times that of the peer.
    Cpu(&'static str, f64),
    /// Increments a second, at least this many times those of the peer.
    Times(&'static str, f64),
    /// Increments a second, at least.
    Rate(f64),
}

pub const TARGETS: [Target; 10] = [
    target("increment-hot-256", Goal::Cpu("redis", 1.0)),
    target("increment-10k-256", Goal::Cpu("redis", 1.0)),
    target("increment-hot-256", Goal::Times("postgres", 4.0)),
    target("increment-10k-256", Goal::Times("postgres", 4.0)),
    target("record-hot-64", Goal::Times("redis-100", 8.0)),
    target("record-hot-256", Goal::Times("redis-100", 8.0)),
    target("record-hot-64", Goal::Rate(2e6)),
    target("record-hot-256", Goal::Rate(2e6)),
    target("record-10k-64", Goal::Times("redis-100", 5.0)),
    target("record-10k-256", Goal::Times("redis-100", 5.0)),
];

const fn target(work: &'static str, goal: Goal) -> Target {
    Target { work, goal }
}

/// An increment on an idle service may take this many of the disk's own flushes, plus this time.
pub const IDLE_FLUSHES: f64 = 2.0;
pub const IDLE_BEYOND_MS: f64 = 0.3;

/// Time from the start of the process to its first answer.
pub const RESTART_SECONDS: f64 = 2.0;
