//! The checkpoint of a log, which brings the rows of counters and sessions up to date.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message as _;

use super::Log;
use crate::etcd::{delete, put};
use crate::model::{self, SessionId};
use crate::proto::etcd::etcdserverpb::RequestOp;
use crate::proto::sumd::store::v1::{Counter, Session};
use crate::store::memtable::{Lookup, MergeIter};

/// Bytes of rows that are tried with a batch, however little etcd accepts. One row is always tried.
pub(super) const MIN_FOLD_BYTES: usize = 1024;

/// The row of a damaged session with changes in the log, which no reader can open. After the checkpoint no row has
/// those changes, and the old row may be damaged on one member of etcd only. Read from another member, it would be a
/// session without them, and their messages would count again.
const DAMAGED_ROW: &[u8] = b"";

/// The progress of a checkpoint.
#[derive(Clone)]
pub(super) struct CheckpointProgress {
    /// Once it is done, all batches up to this one are folded.
    pub(super) up_to: u64,
    /// The last name that is done.
    name: String,
    /// The sessions that are left.
    pub(super) sessions: BTreeMap<SessionId, Option<Arc<model::Session>>>,
    /// The revision of the last deletion among the written rows.
    pub(super) forgotten: i64,
}

/// The capacity for a checkpoint's rows in a batch. They are optional and must not make the batch more than etcd
/// accepts.
struct CheckpointRoom<'a> {
    rows: usize,
    bytes: usize,
    operations: &'a mut Vec<RequestOp>,
}

impl CheckpointRoom<'_> {
    /// Takes a row; `false` if it does not fit. The first row always fits.
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
    /// Makes later checkpoints smaller, after a batch with its rows was more than etcd accepts.
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

    /// Writes the next rows; `true` if they are the last.
    ///
    /// Rows are written as they are now, not as they were when this checkpoint began: another node may have begun a
    /// later one and written the same rows already. Once that one is done, a row that was set back would count as up to
    /// date.
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

    /// Rows are taken while there is room, by number and by bytes. The first one always fits.
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
        // A smaller row may fit where a larger one does not.
        assert_eq!(taken(10, 2 * bytes, &[100, 200, 50]), 2);
    }
}
