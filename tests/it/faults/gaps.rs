//! For how long nobody was answered.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::nemesis::Event;
use super::pulse::ANY;
use crate::crash::history::{History, Span};
use crate::crash::link::Names;

/// What was promised, once what was wrong is mended, or one that others can stand in for has died.
pub const PROMISED: Duration = Duration::from_secs(5);

/// Durations, of which the middle and the ends are of interest.
#[derive(Clone, Default)]
pub struct Spread(Vec<Duration>);

impl Spread {
    fn add(&mut self, more: impl IntoIterator<Item = Duration>) {
        self.0.extend(more);
        self.0.sort_unstable();
    }

    fn at(&self, share: f64) -> Duration {
        let last = self.0.len().saturating_sub(1);
        // As exact as it need be, for there are not that many.
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

/// What a run, or several, had of them.
#[derive(Clone, Default)]
pub struct Gaps {
    /// By the kind of what went wrong: the longest that it took, from then on, until an increment was made that any node
    /// was asked for.
    by_kind: BTreeMap<&'static str, Spread>,
    /// From mending until each of the nodes has answered.
    mended: Spread,
    /// Increments that were asked for while something was wrong that others could stand in for: how long each took.
    increments: Spread,
}

impl Gaps {
    pub fn new(names: &Names, history: &History, events: &[Event]) -> Self {
        let prefix = names.prefix(ANY);
        // With any number behind it.
        let prefix = prefix.trim_end_matches('/');
        let changes = history.changes.iter().filter(|change| {
            let mut increments = change.operation.increments().iter();
            increments.any(|add| add.counter.starts_with(prefix))
        });
        let spans: Vec<Span> = changes.map(|change| change.span).collect();
        let mut gaps = Self::default();
        for event in events {
            let meanwhile = |span: &&Span| span.answered > event.begun && span.asked < event.mended;
            // What was before is no fault of this.
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
        for (kind, split_by_lane) in other.by_kind {
            self.by_kind.entry(kind).or_default().add(split_by_lane.0);
        }
        self.mended.add(other.mended.0);
        self.increments.add(other.increments.0);
    }

    /// Fails where it took longer than so many times what was promised.
    pub fn check(&self, allowance: u32) {
        let all = self
            .by_kind
            .iter()
            .map(|(kind, split_by_lane)| (*kind, split_by_lane));
        for (kind, split_by_lane) in all.chain([("mending", &self.mended)]) {
            assert!(
                split_by_lane.max() <= PROMISED * allowance,
                "no service for {split_by_lane} after {kind}\n{self}"
            );
        }
    }
}

impl fmt::Display for Gaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, split_by_lane) in &self.by_kind {
            writeln!(
                f,
                "  {kind}: no increment took longer than: {split_by_lane}"
            )?;
        }
        writeln!(f, "  from mending until each node serves: {}", self.mended)?;
        write!(
            f,
            "  increments while something was wrong: {}",
            self.increments
        )
    }
}
