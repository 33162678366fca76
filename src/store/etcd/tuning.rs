//! Sizes: how much is kept, and where.

/// The sizes at which a node acts. Small ones show in a simulation of seconds what a cluster sees in days. Nodes with
/// different sizes understand each other.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Bytes of batches that the head's row may hold. They are written again with each batch.
    pub open_bytes: usize,
    /// Rows that a checkpoint writes with one batch.
    pub folded_rows: usize,
    /// Bytes of these rows. A lane's batch has at most 1 MiB, and etcd accepts 1.5 MiB in one request.
    pub folded_bytes: usize,
    /// Memory for counters whose rows are not up to date, before a checkpoint begins; twice this during it.
    pub recent_bytes: usize,
    /// Sessions whose rows are not up to date, before a checkpoint begins.
    pub recent_sessions: usize,
    /// Packs that are deleted at once: deleting each alone would add an operation to each batch.
    pub pruned_packs: usize,
    /// Packs that are kept although nothing in them is needed: a node in doubt about a batch finds it there.
    pub kept_packs: usize,
    /// Packs that are read at once, each of at most 1 MiB.
    pub packs_page: i64,
    /// Packs that a log may be behind before its lane is loaded again.
    pub packs_behind: usize,
    /// Rows of counters that are read at once.
    pub rows_page: i64,
    /// Bytes of a log's batches that readers keep before they read it anew, without the folded ones.
    pub kept_bytes: usize,
}

/// A node's memory for all logs, once for its lanes and once for its readers. With few lanes each has a share that
/// would be no better if it were larger.
const KEPT_BYTES: usize = 64 << 20;
/// The minimum share of a lane.
const MIN_KEPT_BYTES: usize = 32 << 10;

impl Tuning {
    /// The sizes for a number of lanes.
    pub(super) fn for_lanes(lanes: u32) -> Self {
        let default = Self::default();
        let part = KEPT_BYTES / lanes.max(1) as usize;
        let part = |most: usize, of: usize| (part / of).clamp(MIN_KEPT_BYTES, most);
        Self {
            // During a checkpoint as much again may be added.
            recent_bytes: part(default.recent_bytes, 2),
            kept_bytes: part(default.kept_bytes, 1),
            ..default
        }
    }
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            open_bytes: 1024,
            folded_rows: 48,
            folded_bytes: 256 << 10,
            recent_bytes: 4 << 20,
            recent_sessions: 256,
            pruned_packs: 16,
            kept_packs: 64,
            packs_page: 32,
            packs_behind: 64,
            rows_page: 1000,
            kept_bytes: 8 << 20,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node's memory for logs is bounded for any number of lanes. With few lanes each gets as much as is of use.
    #[test]
    fn what_is_kept_is_bounded_for_all_lanes_together() {
        let of = |lanes| {
            let tuning = Tuning::for_lanes(lanes);
            (tuning.recent_bytes, tuning.kept_bytes)
        };
        assert_eq!(of(1), (4 << 20, 8 << 20));
        assert_eq!(of(8), (4 << 20, 8 << 20));
        assert_eq!(of(256), (128 << 10, 256 << 10));
        for lanes in 1..=4096 {
            let (memtable, kept) = of(lanes);
            let most = KEPT_BYTES.max(2 * lanes as usize * MIN_KEPT_BYTES);
            assert!(2 * memtable * lanes as usize <= most && kept * lanes as usize <= most);
        }
    }
}
