//! How much of what is kept where.

/// What a node keeps before it does something about it. Small sizes show a simulation in seconds what a cluster sees in days;
/// nodes of different sizes understand each other.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// What the head's row may hold of batches, in bytes. It is written with each of them.
    pub open_bytes: usize,
    /// Rows that are brought up to date with one batch.
    pub folded_rows: usize,
    /// Bytes of these. A lane's batch has at most a MiB, and etcd takes 1.5 MiB in one request.
    pub folded_bytes: usize,
    /// Memory for counters whose rows are not up to date, before they are brought so; twice this while they are.
    pub recent_bytes: usize,
    /// Sessions whose rows are not up to date, before they are brought so.
    pub recent_sessions: usize,
    /// Packs that are deleted at once: to delete each by itself would be an operation more with each batch.
    pub pruned_packs: usize,
    /// Packs that are kept although nothing in them is needed: who does not know what became of a batch finds it there.
    pub kept_packs: usize,
    /// Packs that are read at once: each is a MiB at the most.
    pub packs_page: i64,
    /// Packs behind, beyond which a lane is loaded again.
    pub packs_behind: usize,
    /// Rows of counters that are read at once.
    pub rows_page: i64,
    /// What readers keep of a log, in bytes of its batches, before it is read anew without what is folded by then.
    pub kept_bytes: usize,
}

/// Memory of a node for what is kept of all logs, by its lanes and by its readers, in each of the two. Of data that are divided
/// into few lanes each of them has a part that a larger one would not make better.
const KEPT_BYTES: usize = 64 << 20;
/// The least part of a lane.
const MIN_KEPT_BYTES: usize = 32 << 10;

impl Tuning {
    /// Those of data that are divided into so many lanes.
    pub(super) fn for_lanes(lanes: u32) -> Self {
        let default = Self::default();
        let part = KEPT_BYTES / lanes.max(1) as usize;
        let part = |most: usize, of: usize| (part / of).clamp(MIN_KEPT_BYTES, most);
        Self {
            // While they are folded there may be as many again.
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

    /// However many lanes there are, what a node keeps of their logs is bounded; of few lanes it keeps as much as is of use.
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
