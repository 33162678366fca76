//! Folding: rows of counters and sessions are brought up to date with what the log has of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message as _;

use super::Log;
use crate::etcd::{delete, put};
use crate::model::{self, SessionId};
use crate::proto::etcd::etcdserverpb::RequestOp;
use crate::proto::sumd::store::v1::{Counter, Session};
use crate::store::memtable::{Lookup, MergeIter};

/// Bytes that are tried with a batch however little etcd takes, beside at least one row.
pub(super) const MIN_FOLD_BYTES: usize = 1024;

/// The row of a session that is damaged, and that the log has changes of. It opens for nobody. These changes are in no row once
/// they are folded, and the old row may be damaged on one member of etcd only: read by another member, it would be a session
/// without them, and their messages would count again.
const DAMAGED_ROW: &[u8] = b"";

/// What is being brought up to date.
#[derive(Clone)]
pub(super) struct CheckpointProgress {
    /// When it is done, all batches up to this one are folded.
    pub(super) up_to: u64,
    /// It is done up to this name.
    name: String,
    /// What is left of these.
    pub(super) sessions: BTreeMap<SessionId, Option<Arc<model::Session>>>,
    /// The revision of the last deletion among them.
    pub(super) forgotten: i64,
}

/// Room for rows that are folded along with a batch: that is optional, and must not make the batch more than etcd takes.
struct CheckpointRoom<'a> {
    rows: usize,
    bytes: usize,
    operations: &'a mut Vec<RequestOp>,
}

impl CheckpointRoom<'_> {
    /// Takes a row in; `false` if there is no room for it. The first one always has some.
    fn take(&mut self, operation: RequestOp) -> bool {
        let bytes = operation.encoded_len();
        let is_first = self.operations.is_empty();
        if !is_first && (self.operations.len() >= self.rows || bytes > self.bytes) {
            return false;
        }
        self.bytes = self.bytes.saturating_sub(bytes);
        self.operations.push(operation);
        true
    }
}

impl Log {
    /// A batch with what is folded along with it was more than etcd takes: less is folded with those that follow.
    pub(in crate::store::etcd) fn fold_less(&mut self) {
        self.fold_bytes = (self.fold_bytes / 2).max(MIN_FOLD_BYTES);
    }

    pub(super) fn begin_fold(&mut self) {
        self.memtable.freeze();
        self.checkpointing = Some(CheckpointProgress {
            up_to: self.head.seq,
            name: String::new(),
            sessions: std::mem::take(&mut self.sessions),
            forgotten: 0,
        });
    }

    /// Brings the next rows up to date; `true` where these are the last.
    ///
    /// They are written as they are now, not as they were when this fold began: another node may have begun one later, and
    /// written the same rows already. A row that was put back to what it had been would be taken for up to date once that
    /// fold is done.
    pub(super) fn checkpoint(
        &self,
        checkpointing: &mut CheckpointProgress,
        operations: &mut Vec<RequestOp>,
    ) -> bool {
        let mut room = CheckpointRoom {
            rows: self.layout.tuning.folded_rows,
            bytes: self.fold_bytes,
            operations,
        };
        let done = checkpointing.name.clone();
        let runs = self.memtable.frozen();
        let now = self.memtable.view(0).runs;
        let mut now = Lookup::new(&now);
        for old in MergeIter::new(runs, &done).filter(|old| old.name != done) {
            let latest = now.find(old.name).unwrap_or(old);
            let key = self.layout.counter(latest.name);
            let operation = if let Some(value) = latest.value {
                let row = Counter {
                    value,
                    revision: latest.revision,
                };
                put(key.clone(), self.layout.seal(&key, &row))
            } else {
                delete(key)
            };
            if !room.take(operation) {
                return false;
            }
            if latest.value.is_none() {
                checkpointing.forgotten = checkpointing.forgotten.max(latest.revision);
            }
            latest.name.clone_into(&mut checkpointing.name);
        }
        while let Some(next) = checkpointing.sessions.first_entry() {
            let (id, old) = (next.key(), next.get());
            let state = self.sessions.get(id).unwrap_or(old);
            let key = self.layout.session(self.lane, id);
            let operation = match state {
                Some(session) if session.is_damaged() => put(key, DAMAGED_ROW),
                Some(session) => {
                    let state = self.layout.encode(session);
                    put(key.clone(), self.layout.seal(&key, &Session { state }))
                }
                None => delete(key),
            };
            if !room.take(operation) {
                return false;
            }
            next.remove();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows are taken as long as there is room, by their number and by their bytes. The first one always has some.
    #[test]
    fn rows_are_folded_as_far_as_there_is_room() {
        let row = |bytes: usize| put("key", vec![0; bytes]);
        let bytes = row(100).encoded_len();
        let taken = |rows, room, tried: &[usize]| {
            let mut operations = Vec::new();
            let mut room = CheckpointRoom {
                rows,
                bytes: room,
                operations: &mut operations,
            };
            tried.iter().filter(|bytes| room.take(row(**bytes))).count()
        };
        assert_eq!(taken(3, 1 << 20, &[100; 5]), 3);
        assert_eq!(taken(10, 3 * bytes, &[100; 5]), 3);
        assert_eq!(taken(10, 3 * bytes - 1, &[100; 5]), 2);
        assert_eq!(taken(10, 0, &[100; 5]), 1);
        // A smaller one may have room where a larger one has none.
        assert_eq!(taken(10, 2 * bytes, &[100, 200, 50]), 2);
    }
}
