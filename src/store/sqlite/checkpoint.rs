//! The memtable's checkpoint, which brings the rows of counters up to date.

use std::sync::Arc;

use rusqlite::{Connection, params};

use super::meta::Meta;
use super::rows::{self, Result};
use crate::model::KeyedHasher;
use crate::store::memtable::{MergeIter, SortedRun};

/// The progress of a checkpoint.
pub(super) struct Checkpoint {
    /// Once it is done, the rows have the changes of all batches up to this one.
    seq: u64,
    /// The last name that is done.
    name: String,
}

impl Checkpoint {
    pub(super) fn new(seq: u64) -> Self {
        Self {
            seq,
            name: String::new(),
        }
    }

    /// Begins again after its rows were rolled back. Writing a row twice does no harm.
    pub(super) fn begin_again(&mut self) {
        self.name.clear();
    }

    /// Writes the next rows of `runs`, at most `count`. After the last one it records in the database that it is done,
    /// and returns its last batch.
    pub(super) fn put(
        &mut self,
        transaction: &Connection,
        hasher: KeyedHasher,
        runs: &[Arc<SortedRun>],
        count: usize,
    ) -> Result<Option<u64>> {
        let mut put = transaction.prepare_cached(rows::PUT_COUNTER)?;
        let mut undelete = transaction.prepare_cached("DELETE FROM deleted WHERE name = ?1")?;
        let mut delete = transaction.prepare_cached("DELETE FROM counter WHERE name = ?1")?;
        let mut put_deleted = transaction.prepare_cached(rows::PUT_DELETED)?;
        let mut last = None;
        let mut left = count;
        let done = &*self.name;
        for latest in MergeIter::new(runs, done).filter(|latest| latest.name != done) {
            if left == 0 {
                break;
            }
            left -= 1;
            let (name, revision) = (latest.name, latest.revision);
            last = Some(name);
            if let Some(value) = latest.value {
                rows::put_counter(&mut put, hasher, (name, value, revision))?;
                if latest.is_new {
                    undelete.execute(params![name])?;
                }
            } else {
                delete.execute(params![name])?;
                rows::put_deleted(&mut put_deleted, hasher, (name, revision))?;
            }
        }
        self.name = last.unwrap_or_default().to_owned();
        if left == 0 {
            return Ok(None);
        }
        Meta::update(transaction, |meta| meta.folded = self.seq)?;
        Ok(Some(self.seq))
    }
}

#[cfg(test)]
mod tests {
    use super::super::database;
    use super::super::writer::tests::batch;
    use super::*;

    /// Rows that were rolled back are written again.
    #[test]
    fn a_fold_that_was_rolled_back_begins_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut connection, meta) = database::open(&folder.path().join("sumd.db")).expect("new");
        let names = (0..10).map(|i| (format!("{i}"), Some(i)));
        let changes = batch(1, names).changes.counters;
        let runs = [Arc::new(SortedRun::new(&changes, 0))];
        let mut checkpoint = Checkpoint::new(1);
        let mut put = |connection: &Connection, count| {
            let put = checkpoint.put(connection, meta.hasher, &runs, count);
            put.expect("it is well")
        };
        let transaction = connection.transaction().expect("one");
        assert_eq!(put(&transaction, 6), None);
        transaction.rollback().expect("it goes");
        checkpoint.begin_again();
        let mut put = |count| {
            let put = checkpoint.put(&connection, meta.hasher, &runs, count);
            put.expect("it is well")
        };
        assert_eq!(put(6), None);
        assert_eq!(put(6), Some(1));
        let rows = "SELECT count(*) FROM counter";
        let rows = connection.query_row(rows, [], |row| row.get::<_, i64>(0));
        assert_eq!(rows.expect("SQL"), 10);
    }
}
