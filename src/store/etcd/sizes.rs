//! How much of what is kept where.

/// What a node keeps before it does something about it. Small sizes show a simulation in seconds what a cluster sees in days;
/// nodes of different sizes understand each other.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// What the head's row may hold of batches, in bytes. It is written with each of them.
    pub open_bytes: usize,
    /// Rows that are brought up to date with one batch.
    pub folded_rows: usize,
    /// Bytes of these. A lane's batch has a MiB at the most, and etcd takes 1.5 MiB in one request.
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

impl Default for Sizes {
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
