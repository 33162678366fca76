//! Measures how long no client was answered.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::nemesis::Event;
use super::pulse::ANY;
use crate::crash::history::{History, Span};
use crate::crash::link::Names;

/// The promised limit, after a fault is mended, or after a process has died that others can take over from.
pub const PROMISED: Duration = Duration::from_secs(5);

/// Durations, reported by their quantiles.
#[derive(Clone, Default)]
pub struct Spread(Vec<Duration>);

impl Spread {
    fn add(&mut self, more: impl IntoIterator<Item = Duration>) {
        self.0.extend(more);
        self.0.sort_unstable();
    }

    fn at(&self, share: f64) -> Duration {
        let last = self.0.len().saturating_sub(1);
        // Exact enough, because there are few of them.
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
        #[allow(clippy::cast_sign_loss)]
        let index = (last as f64 * share).round() as usize;
        self.0.get(index).copied().unwrap_or_default()
    }

    fn max(&self) -> Duration {
        self.at(1.0)
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [median, high, max] = [0.5, 0.99, 1.0].map(|share| self.at(share).as_millis());
        let count = self.0.len();
        write!(f, "p50 {median} ms, p99 {high} ms, max {max} ms of {count}")
    }
}

/// The gaps of one run or several.
#[derive(Clone, Default)]
pub struct Gaps {
    /// By kind of fault: the longest time that an increment took during the fault, if any node may answer it.
    by_kind: BTreeMap<&'static str, Spread>,
    /// Time from mending until each of the nodes has answered.
    mended: Spread,
    /// How long increments took that were requested during a fault that others can take over from.
    increments: Spread,
}

impl Gaps {
    pub fn new(names: &Names, history: &History, events: &[Event]) -> Self {
        let prefix = names.prefix(ANY);
        // With any number after it.
        let prefix = prefix.trim_end_matches('/');
        let changes = history.changes.iter().filter(|change| {
            let mut increments = change.operation.increments().iter();
            increments.any(|add| add.counter.starts_with(prefix))
        });
        let spans: Vec<Span> = changes.map(|change| change.span).collect();
        let mut gaps = Self::default();
        for event in events {
            let meanwhile = |span: &&Span| span.answered > event.begun && span.asked < event.mended;
            // The time before the fault does not count.
            let took = |span: &Span| span.answered.saturating_sub(span.asked.max(event.begun));
            let all: Vec<_> = spans.iter().filter(meanwhile).map(took).collect();
            if event.fault.leaves_service() {
                let of_kind = gaps.by_kind.entry(event.fault.kind()).or_default();
                of_kind.add(all.iter().copied().max());
                gaps.increments.add(all);
            }
            let served = event.served.iter();
            let back = served.map(|served| served.saturating_sub(event.mended));
            gaps.mended.add(back);
        }
        gaps
    }

    pub fn add(&mut self, other: Self) {
        for (kind, spread) in other.by_kind {
            self.by_kind.entry(kind).or_default().add(spread.0);
        }
        self.mended.add(other.mended.0);
        self.increments.add(other.increments.0);
    }

    /// Fails if a gap was longer than `allowance` times the promised limit.
    pub fn check(&self, allowance: u32) {
        let all = self.by_kind.iter().map(|(kind, spread)| (*kind, spread));
        for (kind, spread) in all.chain([("mending", &self.mended)]) {
            assert!(
                spread.max() <= PROMISED * allowance,
                "no service for {spread} after {kind}\n{self}"
            );
        }
    }
}

impl fmt::Display for Gaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, spread) in &self.by_kind {
            writeln!(f, "  {kind}: no increment took longer than: {spread}")?;
        }
        writeln!(f, "  from mending until each node serves: {}", self.mended)?;
        write!(
            f,
            "  increments while something was wrong: {}",
            self.increments
        )
    }
}
