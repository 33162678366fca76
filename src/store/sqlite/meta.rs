//! The table `meta`: values that hold for the whole database. Its rows decide which other rows are valid, so one check
//! sum covers all of them, names included.

use rusqlite::types::{FromSql, ToSql};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::rows::{Error, Result};
use crate::model::KeyedHasher;

/// The first format whose `meta` has a check sum.
const CHECKED: i32 = 5;

#[derive(Clone, Debug)]
pub(crate) struct Meta {
    /// Its key is the database's own.
    pub(crate) hasher: KeyedHasher,
    /// The rows of counters have the changes of all batches up to this one.
    pub(crate) folded: u64,
    /// Some counters that were deleted up to this revision are not in `deleted`.
    pub(crate) forgotten: i64,
    /// The number of lanes in the store that the data came from.
    pub(crate) lanes: u32,
    /// The location that the data were or are being moved to; empty if there is none.
    pub(crate) moved_to: String,
    /// The id of the move that made the file; empty if none did, or once the file was served.
    pub(crate) made_by_move: Vec<u8>,
}

impl Meta {
    /// Reads the table.
    ///
    /// # Errors
    /// Returns an error if the table is damaged or cannot be read.
    pub(crate) fn read(connection: &Connection) -> Result<Self> {
        let get = Get(connection);
        let mut meta = Self {
            hasher: KeyedHasher::new(get.needed("key")?),
            folded: get.needed::<i64>("folded")?.cast_unsigned(),
            forgotten: get.needed("forgotten")?,
            lanes: get.needed("lanes")?,
            moved_to: get.needed("moved_to")?,
            made_by_move: get.optional("made_by_move")?.unwrap_or_default(),
        };
        match get.optional::<u32>("check")? {
            Some(check) if meta.check() == check => {}
            None if version(connection)? < CHECKED => {
                meta.folded = meta.folded.max(without_log(connection)?);
            }
            _ => return Err(damaged("its check sum is wrong")),
        }
        Ok(meta)
    }

    /// Writes the whole table.
    pub(crate) fn write(&self, connection: &Connection) -> Result<()> {
        let sql = "INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)";
        let mut put = connection.prepare_cached(sql)?;
        let rows: [(&str, &dyn ToSql); 7] = [
            ("key", &self.hasher.key()),
            ("folded", &self.folded.cast_signed()),
            ("forgotten", &self.forgotten),
            ("lanes", &self.lanes),
            ("moved_to", &self.moved_to),
            ("made_by_move", &self.made_by_move),
            ("check", &self.check()),
        ];
        for (name, value) in rows {
            put.execute(params![name, value])?;
        }
        Ok(())
    }

    /// Changes the table within the caller's transaction.
    ///
    /// # Errors
    /// Returns an error if the table is damaged, and leaves it so.
    pub(crate) fn update(connection: &Connection, change: impl FnOnce(&mut Self)) -> Result<()> {
        let mut meta = Self::read(connection)?;
        change(&mut meta);
        meta.write(connection)
    }

    fn check(&self) -> u32 {
        self.hasher.check(&[
            &self.hasher.key(),
            &self.folded.to_le_bytes(),
            &self.forgotten.to_le_bytes(),
            &self.lanes.to_le_bytes(),
            self.moved_to.as_bytes(),
            &self.made_by_move,
        ])
    }
}

/// Reads rows by name.
struct Get<'a>(&'a Connection);

impl Get<'_> {
    fn needed<T: FromSql>(&self, name: &str) -> Result<T> {
        let value = self.optional(name)?;
        value.ok_or_else(|| damaged(&format!("it has no row {name:?}")))
    }

    fn optional<T: FromSql>(&self, name: &str) -> Result<Option<T>> {
        let sql = "SELECT value FROM meta WHERE name = ?1";
        let mut statement = self.0.prepare_cached(sql)?;
        let value = statement.query_row([name], |row| row.get(0)).optional();
        value.map_err(|error| unread(name, error))
    }
}

/// Maps an SQL error: a row of another type than was written is damage; an error of SQLite is passed on.
fn unread(name: &str, error: rusqlite::Error) -> Error {
    match error {
        rusqlite::Error::SqliteFailure(..) => error.into(),
        _ => damaged(&format!("its row {name:?} cannot be read")),
    }
}

/// The last batch without a log. Batches of the first format have none: they wrote their changes to the rows at once.
fn without_log(connection: &Connection) -> Result<u64> {
    let sql = "SELECT coalesce(max(seq), 0) FROM batch WHERE log = x''";
    let last: i64 = connection.query_row(sql, [], |row| row.get(0))?;
    Ok(last.cast_unsigned())
}

fn version(connection: &Connection) -> Result<i32> {
    Ok(connection.pragma_query_value(None, "user_version", |row| row.get(0))?)
}

fn damaged(problem: &str) -> Error {
    Error::Corrupt(format!("the table `meta` is damaged: {problem}"))
}

#[cfg(test)]
mod tests {
    use rusqlite::types::Value;

    use super::super::database;
    use super::*;

    /// All values, or names, that differ from one by a single bit.
    fn flipped(value: &Value) -> Vec<Value> {
        let bytes = |bytes: &[u8]| {
            let flip = |bit: usize| {
                let mut bytes = bytes.to_vec();
                bytes[bit / 8] ^= 1 << (bit % 8);
                bytes
            };
            (0..8 * bytes.len()).map(flip).collect::<Vec<_>>()
        };
        match value {
            Value::Integer(number) => (0..64)
                .map(|bit| Value::Integer(number ^ (1 << bit)))
                .collect(),
            Value::Blob(blob) => bytes(blob).into_iter().map(Value::Blob).collect(),
            Value::Text(text) => {
                let flipped = bytes(text.as_bytes()).into_iter().map(String::from_utf8);
                flipped.flatten().map(Value::Text).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    /// Changing any bit of the table, or deleting any row, is detected.
    #[test]
    fn every_bit_is_covered() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sumd.db");
        let (connection, _) = database::open(&path).expect("a new database");
        let change = |meta: &mut Meta| {
            (meta.folded, meta.forgotten, meta.lanes) = (7, -9, 256);
            meta.moved_to = "etcd://there".to_owned();
            meta.made_by_move = vec![1, 2, 3];
        };
        Meta::update(&connection, change).expect("it is whole");
        let all = {
            let mut all = connection
                .prepare("SELECT name, value FROM meta")
                .expect("SQL");
            let rows = all.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
            let rows: rusqlite::Result<Vec<(Value, Value)>> = rows.expect("rows").collect();
            rows.expect("rows")
        };
        assert_eq!(all.len(), 7);
        let assert_damaged = |sql: &str, params: &[&Value]| {
            let transaction = connection.unchecked_transaction().expect("a transaction");
            let params = rusqlite::params_from_iter(params);
            assert_eq!(transaction.execute(sql, params), Ok(1), "{sql}");
            let read = Meta::read(&transaction);
            assert!(matches!(read, Err(Error::Corrupt(_))), "{sql}: {read:?}");
        };
        for (name, value) in &all {
            for other in flipped(value) {
                let sql = "UPDATE meta SET value = ?2 WHERE name = ?1";
                assert_damaged(sql, &[name, &other]);
            }
            for other in flipped(name) {
                let sql = "UPDATE meta SET name = ?2 WHERE name = ?1";
                assert_damaged(sql, &[name, &other]);
            }
            assert_damaged("DELETE FROM meta WHERE name = ?1", &[name]);
        }
        let meta = Meta::read(&connection).expect("it is as it was");
        assert_eq!((meta.folded, meta.forgotten, meta.lanes), (7, -9, 256));
        assert_eq!(meta.moved_to, "etcd://there");
    }

    #[test]
    fn a_row_that_cannot_be_read_is_not_taken_for_damage() {
        let failed = database::tests::failed(rusqlite::ffi::SQLITE_IOERR);
        assert!(matches!(unread("key", failed), Error::Sqlite(_)));
        let damage = unread("key", database::tests::wrong_type());
        assert!(matches!(damage, Error::Corrupt(_)));
    }
}
