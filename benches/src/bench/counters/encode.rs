//! Requests that are encoded in advance, except for the names, ids and numbers in them.

use std::{
    ops::Range,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use fastrand::Rng;
use tokio::time::Instant;

/// The prefix of all counters of one group.
pub const PREFIX: &str = "bench/";
const DIGITS: usize = 8;

/// A naming scheme for counters. All names have the same length, so that one can replace another in an encoded request.
#[derive(Clone, Copy)]
pub struct Layout {
    pub before: &'static str,
    after: &'static str,
}

/// All counters in one group.
pub const ONE_GROUP: Layout = Layout {
    before: PREFIX,
    after: "",
};

/// Each counter in a group of its own.
pub const GROUP_EACH: Layout = Layout {
    before: "tenant-",
    after: "/calls",
};

impl Layout {
    pub fn name(self, index: u32) -> String {
        let Self { before, after } = self;
        format!("{before}{index:0DIGITS$}{after}")
    }
}

/// The name of a counter of one group.
pub fn name(index: u32) -> String {
    ONE_GROUP.name(index)
}

/// The range of `part` in `whole`.
pub fn find(whole: &[u8], part: &[u8]) -> Result<Range<usize>> {
    let mut parts = whole.windows(part.len());
    let start = parts.position(|candidate| candidate == part);
    let start = start.context("a request that lacks what is to be replaced in it")?;
    Ok(start..start + part.len())
}

/// Consecutive requests of the same length.
pub struct Batch {
    bytes: Vec<u8>,
    /// The length of one request, and the range of the digits of its counter's name.
    one: usize,
    digits: Range<usize>,
}

impl Batch {
    /// `count` copies of the request `one`, which names counter 0.
    pub fn new(one: &[u8], count: usize, layout: Layout) -> Result<Self> {
        let name = find(one, layout.name(0).as_bytes())?;
        let digits = name.start + layout.before.len();
        Ok(Self {
            bytes: one.repeat(count),
            one: one.len(),
            digits: digits..digits + DIGITS,
        })
    }

    /// Sets the names of the next counters.
    pub fn name(&mut self, names: &mut Names) -> &mut [u8] {
        match names {
            // They have the name already.
            Names::Random { counters: 1, .. } => {}
            Names::Random { rng, counters } => self.name_each(|_| rng.u32(..*counters)),
            Names::InTurn { next, step, .. } => {
                self.name_each(|index| *next + index);
                *next += *step;
            }
        }
        &mut self.bytes
    }

    fn name_each(&mut self, mut index: impl FnMut(u32) -> u32) {
        for (request, place) in self.bytes.chunks_exact_mut(self.one).zip(0..) {
            put_digits(&mut request[self.digits.clone()], index(place));
        }
    }
}

/// The counters of the next requests.
pub enum Names {
    /// A random one of `counters`.
    Random { rng: Rng, counters: u32 },
    /// The counters from `next` on, in steps of `step`, before `end`.
    InTurn { next: u32, step: u32, end: u32 },
}

impl Names {
    /// Random counters, in the same order in every run.
    pub fn random(counters: u32, client: usize) -> Self {
        let rng = Rng::with_seed(client as u64);
        Self::Random { rng, counters }
    }

    /// The name of the next counter.
    pub fn next(&mut self) -> String {
        match self {
            Self::Random { rng, counters } => name(rng.u32(..*counters)),
            Self::InTurn { next, step, .. } => {
                *next += *step;
                name(*next - *step)
            }
        }
    }

    /// Whether there are more: until all have been named, or until `end`.
    pub fn more(&self, end: Instant) -> bool {
        match self {
            Self::Random { .. } => Instant::now() < end,
            Self::InTurn { next, end, .. } => next < end,
        }
    }
}

fn put_digits(place: &mut [u8], mut number: u32) {
    for digit in place.iter_mut().rev() {
        *digit = b"0123456789"[(number % 10) as usize];
        number /= 10;
    }
}

pub const ID_BYTES: usize = 36;

/// Unique ids.
#[derive(Default)]
pub struct Ids(Rng);

impl Ids {
    /// A `UUIDv7` with the present time.
    pub fn next(&mut self) -> [u8; ID_BYTES] {
        let time = SystemTime::now().duration_since(UNIX_EPOCH);
        let milliseconds = time.map_or(0, |time| time.as_millis());
        let random = self.0.u128(..);
        let version = 7 << 76;
        let variant = 2 << 62;
        let random_bits = u128::from(u64::MAX >> 2) | 0xfff << 64;
        text(milliseconds << 80 | version | variant | random & random_bits)
    }

    pub fn next_string(&mut self) -> String {
        String::from_utf8_lossy(&self.next()).into_owned()
    }
}

fn text(id: u128) -> [u8; ID_BYTES] {
    let mut text = [b'-'; ID_BYTES];
    let digits = [0..8, 9..13, 14..18, 19..23, 24..36];
    for (place, at) in digits.into_iter().flatten().enumerate() {
        let digit = id >> (124 - 4 * place) & 0xf;
        text[at] = b"0123456789abcdef"[digit as usize];
    }
    text
}
