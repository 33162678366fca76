//! The versions of the schema, and the statements that lead from each to the next.

use rusqlite::Connection;

use super::meta::Meta;
use super::rows;

/// `sumd` in ASCII: the file's header says whose it is.
pub(super) const APPLICATION_ID: i32 = 0x7375_6d64;

/// The statements that make each version of the schema from its predecessor.
const MIGRATIONS: [&str; 5] = ["
    CREATE TABLE meta (
        name TEXT PRIMARY KEY NOT NULL,
        value ANY NOT NULL
    ) WITHOUT ROWID, STRICT;

    -- Its key is the database's own, for all digests in it.
    INSERT INTO meta VALUES ('key', randomblob(16));
    -- Of the counters that were deleted up to this revision, some are not in `deleted`.
    INSERT INTO meta VALUES ('forgotten', 0);

    CREATE TABLE counter (
        name TEXT PRIMARY KEY NOT NULL,
        value INTEGER NOT NULL,
        revision INTEGER NOT NULL,  -- of its last change
        digest INTEGER NOT NULL     -- of the row, as in every table
    ) WITHOUT ROWID, STRICT;

    -- Counters that are no more, for those who watch. An index on `counter` in its place would
    -- make each increment cost twice as much.
    CREATE TABLE deleted (
        name TEXT PRIMARY KEY NOT NULL,
        revision INTEGER NOT NULL,
        digest INTEGER NOT NULL
    ) WITHOUT ROWID, STRICT;

    CREATE INDEX deleted_at ON deleted (revision);

    -- The last row is the head. Those before it are there for their ids, and for their log.
    CREATE TABLE batch (
        seq INTEGER PRIMARY KEY NOT NULL,
        base INTEGER NOT NULL,      -- the revision before its first operation
        places INTEGER NOT NULL,    -- how many revisions it has
        time INTEGER NOT NULL,      -- milliseconds since 1970, never less than in the row before
        horizon INTEGER NOT NULL,
        session_horizon INTEGER NOT NULL,
        ids BLOB NOT NULL,
        digest INTEGER NOT NULL
    ) STRICT;

    CREATE TABLE session (
        id TEXT PRIMARY KEY NOT NULL,
        state BLOB NOT NULL,
        digest INTEGER NOT NULL
    ) WITHOUT ROWID, STRICT;
", "
    -- What the batch has changed. The row of a counter may lack what batches after this one have logged:
    INSERT INTO meta VALUES ('folded', 0);
    ALTER TABLE batch ADD COLUMN log BLOB NOT NULL DEFAULT x'';
", "
    -- Where the data were moved to, or are being moved to: nobody changes them any more.
    INSERT INTO meta VALUES ('moved_to', '');
    -- How many lanes the data had where they came from.
    INSERT INTO meta VALUES ('lanes', 1);
", "
    -- Fields that a row may have beside those of its format, each with a tag and its length; of a batch, how old it is.
    ALTER TABLE batch ADD COLUMN extras BLOB NOT NULL DEFAULT x'';
    ALTER TABLE counter ADD COLUMN extras BLOB NOT NULL DEFAULT x'';
", "
    -- All other rows of `meta` have a check sum in its row `check`, which is written after every migration.
"];

/// The schema version that this program writes.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "a handful"
)]
pub(super) const VERSION: i32 = MIGRATIONS.len() as i32;

/// Brings a database from a version to [`VERSION`].
pub(super) fn migrate(connection: &mut Connection, from: i32) -> rows::Result<()> {
    if from == VERSION {
        return Ok(());
    }
    let transaction = connection.transaction()?;
    let done = usize::try_from(from).unwrap_or(0);
    for migration in &MIGRATIONS[done..] {
        transaction.execute_batch(migration)?;
    }
    Meta::read(&transaction)?.write(&transaction)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    Ok(transaction.commit()?)
}
