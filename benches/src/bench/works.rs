//! The works, the servers that do them, and the targets.

use bytes::{Bytes, BytesMut};
use fastrand::Rng;
use sumd_benches::{message, put_frame, values};

/// HTTP/2 implementations lock or serialize per connection, so a single connection would measure that.
pub const CONNECTIONS: usize = 8;

/// Messages of an `AddEach` stream in flight at any time.
pub const WINDOW_MESSAGES: usize = 512;

/// Messages of an `AddEach` stream in one DATA frame.
pub const BATCH_MESSAGES: usize = 64;

const SEED: u64 = 1;

pub enum Method {
    Add,
    AddEach,
}

impl Method {
    /// Its path in a request.
    pub const fn path(&self) -> &'static str {
        match self {
            Self::Add => "sum.v1.SumService/Add",
            Self::AddEach => "sum.v1.SumService/AddEach",
        }
    }
}

/// A load for a server.
pub struct Work {
    pub name: &'static str,
    pub title: &'static str,
    pub method: Method,
    /// Values per array.
    pub values: usize,
    /// Size of a value; 7 bits are one byte on the wire.
    pub bits: u32,
    /// Calls in flight on each connection; for `AddEach`, streams.
    pub in_flight: usize,
    /// Number of different requests, which are sent in turn.
    pub distinct: usize,
}

pub const WORKS: [Work; 5] = [
    Work {
        name: "add-3",
        title: "`Add` of 3 values of up to 20 bits, 8 connections × 32 in flight",
        method: Method::Add,
        values: 3,
        bits: 20,
        in_flight: 32,
        distinct: 64,
    },
    Work {
        name: "add-1k",
        title: "`Add` of 1,000 values of up to 20 bits, 8 × 8 in flight",
        method: Method::Add,
        values: 1_000,
        bits: 20,
        in_flight: 8,
        distinct: 64,
    },
    Work {
        name: "add-1m",
        title: "`Add` of 1,000,000 values of up to 31 bits, 8 × 1 in flight",
        method: Method::Add,
        values: 1_000_000,
        bits: 31,
        in_flight: 1,
        distinct: 4,
    },
    Work {
        name: "add-1m-1byte",
        title: "`Add` of 1,000,000 values of 1 byte, 8 × 1 in flight",
        method: Method::Add,
        values: 1_000_000,
        bits: 7,
        in_flight: 1,
        distinct: 4,
    },
    Work {
        name: "each-3",
        title: "`AddEach` of 3 values of up to 20 bits, 8 streams × 512 messages in flight",
        method: Method::AddEach,
        values: 3,
        bits: 20,
        in_flight: 1,
        distinct: 8 * BATCH_MESSAGES,
    },
];

/// A memory measurement of sumd alone.
pub struct MemoryWork {
    pub name: &'static str,
    pub title: &'static str,
    pub at_most_mib: f64,
}

/// The project's target is "a few MiB"; 8 are taken to be few.
pub const MEMORY_STREAM: MemoryWork = MemoryWork {
    name: "memory-stream",
    title: "growth over idle during an `AddAll` of 1 GB in messages of 4 MiB",
    at_most_mib: 8.0,
};

pub const MEMORY_CONNECTIONS: MemoryWork = MemoryWork {
    name: "memory-connections",
    title: "in use with 1,000 idle connections",
    at_most_mib: 100.0,
};

pub const MEMORY_WORKS: [MemoryWork; 2] = [MEMORY_STREAM, MEMORY_CONNECTIONS];

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Grpc,
    NetRpc,
}

pub struct Server {
    pub name: &'static str,
    pub protocol: Protocol,
    /// The arguments before `host:port` on its command line.
    pub arguments: &'static [&'static str],
    /// The answer to every request, if it does not add.
    pub constant: Option<i64>,
}

pub const SUMD: Server = Server {
    name: "sumd",
    protocol: Protocol::Grpc,
    arguments: &["serve", "--listen"],
    constant: None,
};

pub const SERVERS: [Server; 6] = [
    SUMD,
    peer("tonic-stock", Protocol::Grpc),
    peer("grpc-go", Protocol::Grpc),
    peer("grpc-cpp", Protocol::Grpc),
    peer("go-netrpc", Protocol::NetRpc),
    Server {
        constant: Some(1),
        ..peer("hyper-constant", Protocol::Grpc)
    },
];

/// The work of the servers that do not add.
const LIMIT_WORK: &str = "add-3";

const fn peer(name: &'static str, protocol: Protocol) -> Server {
    Server {
        name,
        protocol,
        arguments: &[],
        constant: None,
    }
}

impl Server {
    /// Only sumd serves streams.
    pub fn can(&self, work: &Work) -> bool {
        if self.constant.is_some() {
            return work.name == LIMIT_WORK;
        }
        matches!(work.method, Method::Add) || self.name == SUMD.name
    }

    /// A request, with the answer that this server has to give.
    pub fn expect(&self, mut query: Query) -> Query {
        if let Some(constant) = self.constant {
            query.sums.fill(constant);
        }
        query
    }
}

/// sumd's CPU time for each sum on `work`, at most this many times that of `peer` on `peer_work`.
pub struct Target {
    pub work: &'static str,
    pub peer: &'static str,
    pub peer_work: &'static str,
    pub at_most: f64,
}

pub const TARGETS: [Target; 8] = [
    target("add-3", "grpc-go", 0.50),
    target("add-3", "go-netrpc", 0.55),
    target("add-3", "tonic-stock", 0.80),
    target("add-1k", "grpc-go", 0.35),
    target("add-1m", "tonic-stock", 0.20),
    target("add-1m", "grpc-go", 0.13),
    target("add-1m-1byte", "tonic-stock", 0.06),
    Target {
        work: "each-3",
        peer: "grpc-go",
        peer_work: "add-3",
        at_most: 0.03,
    },
];

const fn target(work: &'static str, peer: &'static str, at_most: f64) -> Target {
    Target {
        work,
        peer,
        peer_work: work,
        at_most,
    }
}

/// An encoded request, and the expected answers.
pub struct Query {
    /// One gRPC frame for each sum.
    pub frames: Bytes,
    pub sums: Vec<i64>,
}

impl Work {
    /// The requests, which are the same in every run and for every server.
    pub fn queries(&self) -> Vec<Query> {
        let mut rng = Rng::with_seed(SEED);
        let messages = match self.method {
            Method::Add => 1,
            Method::AddEach => BATCH_MESSAGES,
        };
        (0..self.distinct / messages)
            .map(|_| query(&mut rng, messages, self.values, self.bits))
            .collect()
    }
}

/// `messages` messages of `count` values each.
pub fn query(rng: &mut Rng, messages: usize, count: usize, bits: u32) -> Query {
    let mut frames = BytesMut::new();
    let sums = (0..messages)
        .map(|_| {
            let values = values(rng, count, bits);
            put_frame(&mut frames, &message(&values));
            values.iter().sum()
        })
        .collect();
    Query {
        frames: frames.freeze(),
        sums,
    }
}
