//! Transfers between stores: moves, and backups of etcd, whose files have the format of SQLite databases.
//!
//! A move writes all data, reads both sides again, compares them, and only then makes the target usable in place of the
//! source.
//!
//! - From SQLite: the source is closed when its copy in etcd is complete except for the mark that says so, and the mark
//!   is set last. A crash between the two leaves a closed source, and the move is run again.
//! - From etcd: the data are sealed first, because any number of nodes might start to use them. Then the completion is
//!   recorded in etcd, and the target file gets its name last.
//!
//! At most one side is usable at any time, and no data are lost. A move that is run again towards the same target
//! starts over, or finishes if the target lacks only its name. Such a target is neither overwritten nor does a new
//! database begin beside it.
//!
//! A complete move is neither repeated nor undone, even if its target is gone, since the target may have served
//! increments. In etcd the record tells that the move is complete. A closed file tells it too: its target had data
//! before the file was closed, so an empty target has been lost.

use std::path::{Path, PathBuf};

use crate::maintenance::dump::{Dump, Tally};
use crate::maintenance::etcd::import::{Filling, is_begun};
use crate::maintenance::etcd::seal::{close, closed, complete, undo};
use crate::maintenance::etcd::verify::Survey;
use crate::maintenance::report::{RESTORE_GAP, Report, ToolError};
use crate::maintenance::sqlite::export::{Reading, Source};
use crate::maintenance::sqlite::import::{Filling as File, Written};
use crate::maintenance::sqlite::{check as check_file, reserve};
use crate::store::etcd::{self, Kv, Location};
use crate::store::sqlite::OpenError;

/// Counters per read.
const PAGE: usize = 1000;

/// Checks everything in etcd: the check sum of every row, and whether heads, packs, counters, ids and sessions are
/// consistent. Nodes may be using the data.
///
/// # Errors
/// Returns an error if the data cannot be read. Problems inside them are in the report.
pub async fn check(kv: impl Kv, prefix: &str) -> Result<Report, ToolError> {
    let mut survey = Survey::begin(kv, prefix).await?;
    survey.dump().await?;
    survey.counters(|_| Ok(())).await?;
    if survey.meta.filling {
        let problem = "it is not complete: a move or a restore has not finished; run it again";
        survey.report.problems.push(problem.to_owned());
    }
    Ok(survey.report)
}

/// Like [`check`], with etcd's history held while it is read, so that the check may take long while nodes use the data.
///
/// # Errors
/// Returns an error if [`check`] does, or if etcd cannot be asked to keep its history.
pub async fn check_in_use(place: &Location<impl Kv>) -> Result<Report, ToolError> {
    held(place, check(place.client.clone(), &place.prefix)).await
}

/// Undoes an interrupted move from etcd, so that the data there are usable again. Returns the target of that move.
///
/// # Errors
/// Returns an error if the data were not moved. Without `force`, also returns an error if the move is complete or its
/// target file exists.
pub async fn reopen(place: &Location<impl Kv>, force: bool) -> Result<String, ToolError> {
    undo(place, force).await
}

/// Runs `reading` while nodes compact no history, and lets them compact again however it ends.
async fn held<T>(
    place: &Location<impl Kv>,
    reading: impl Future<Output = Result<T, ToolError>>,
) -> Result<T, ToolError> {
    let hold = place.client.hold(&place.prefix).await;
    let hold = hold.map_err(|error| etcd::OpenError::Etcd(error.to_string()))?;
    let read = reading.await;
    if let Some(hold) = hold {
        hold.release().await;
    }
    read
}

/// Copies the data in etcd, as they are at one moment, to a new SQLite database file. Nodes may be using the data.
///
/// # Errors
/// Returns an error if the file exists already, or the data in etcd are damaged or cannot be read. No file is left
/// under that name then.
pub async fn backup(place: &Location<impl Kv>, to: &Path) -> Result<Report, ToolError> {
    let (file, _) = copy(place, |dump| File::backup(to, dump)).await?;
    let (written, report) = file.complete(|_| Ok(()))?;
    written.publish()?;
    Ok(report)
}

/// Writes a backup to etcd, under an empty prefix. Revisions continue far beyond those of the backup.
///
/// # Errors
/// Returns an error if the backup is damaged, the prefix has data already, or either cannot be read or written.
pub async fn restore(from: &Path, place: &Location<impl Kv>) -> Result<Report, ToolError> {
    let report = check_file(from)?;
    if let Some(problem) = report.problems.first() {
        return Err(ToolError::Data(from.to_owned(), problem.clone()));
    }
    let mut source = Source::open(from)?;
    let reading = source.read()?;
    let dump = reading.dump()?;
    let forgotten = dump.revision.saturating_add(RESTORE_GAP);
    let (filling, _) = fill(&reading, &dump, place, (RESTORE_GAP, forgotten)).await?;
    filling.open().await?;
    check_in_use(place).await
}

/// Moves a database to etcd, under an empty prefix. `force` repeats a complete move whose target is gone.
///
/// # Errors
/// Returns an error if the source or the target is in use, or cannot be read or written.
pub async fn move_to_etcd(
    path: &Path,
    place: &Location<impl Kv>,
    to: &str,
    force: bool,
) -> Result<Tally, ToolError> {
    let mut source = Source::take(path)?;
    let moved_to = source.moved_to()?;
    if let Some(other) = moved_to.as_ref().filter(|before| *before != to) {
        let path = path.to_owned();
        let to = other.clone();
        return Err(OpenError::Migrated { path, to }.into());
    }
    if moved_to.is_some() && !force && !is_begun(place).await? {
        return Err(ToolError::Refused(format!(
            "the data of {} were moved to {to}, which has no data now: bring that etcd back, or restore a backup of \
             it. sumd move --force repeats the move, from the data as they were when they were moved: all increments \
             since then are lost, and count again if they are sent again",
            path.display()
        )));
    }
    let report = check_file(path)?;
    if let Some(problem) = report.problems.first() {
        return Err(ToolError::Data(path.to_owned(), problem.clone()));
    }
    let reading = source.read()?;
    let dump = reading.dump()?;
    let filled = fill(&reading, &dump, place, (0, dump.forgotten)).await;
    drop(reading);
    let (filling, tally) = match (filled, moved_to) {
        // The move is complete already.
        (Err(ToolError::NotEmpty(_)), Some(to)) => {
            let path = path.to_owned();
            return Err(OpenError::Migrated { path, to }.into());
        }
        (filled, _) => filled?,
    };
    source.close(to)?;
    filling.open().await?;
    Ok(tally)
}

/// Moves the data in etcd to a new database file. `force` repeats a complete move.
///
/// # Errors
/// Returns an error if the source or the target is in use, or cannot be read or written.
pub async fn move_to_sqlite(
    place: &Location<impl Kv>,
    path: &Path,
    to: &str,
    force: bool,
) -> Result<Tally, ToolError> {
    if let Some(closed) = closed(place, to).await?
        && let Some(refusal) = closed.refusal(place)
    {
        if let Some(left) = Written::find(path, closed.file())? {
            let tally = count(left.file())?;
            give_name(left)?;
            return Ok(tally);
        }
        if !force {
            return Err(refusal);
        }
    }
    // The target is reserved first, so that nothing is sealed for a target that cannot be made.
    let here = reserve(path)?;
    let closed = close(place, to).await?;
    // Another move to the same target may have completed meanwhile.
    if let Some(refusal) = closed.refusal(place).filter(|_| !force) {
        return Err(refusal);
    }
    let (file, tally) = copy(place, |dump| File::database(path, here, dump)).await?;
    let (mut written, _) = file.complete(|partial| compare(&tally, &count(partial)?))?;
    let id = written.id()?;
    written.keep()?;
    // From here on the file is the authoritative copy: if this attempt cannot name it, the next one does.
    match complete(place, closed, id.into()).await {
        Ok(()) => give_name(written)?,
        Err(refused @ ToolError::Refused(_)) => {
            written.give_up();
            return Err(refused);
        }
        Err(unknown) => {
            return Err(ToolError::Refused(format!(
                "{unknown}. It is unknown whether the move is complete: run it again. If it is, that gives {} its \
                 name; otherwise it makes the file again",
                written.file().display()
            )));
        }
    }
    Ok(tally)
}

/// Gives the file of a complete move its name.
fn give_name(written: Written) -> Result<(), ToolError> {
    let file = written.file().to_owned();
    written.publish().map_err(|error| {
        ToolError::Refused(format!(
            "{error}. The move is complete, and its file is {}: run the same move again to give the file its name",
            file.display()
        ))
    })
}

/// The tally of a file's contents.
fn count(file: &Path) -> Result<Tally, ToolError> {
    let mut source = Source::open(file)?;
    let reading = source.read()?;
    let dump = reading.dump()?;
    let mut found = Tally::new();
    let mut after = None;
    while let Some(rows) = next(&reading, &mut after)? {
        tell(&mut found, &dump, &rows);
    }
    rest(&mut found, &dump)?;
    Ok(found)
}

/// Writes the data in etcd to a file, which then lacks only its completion and its name.
async fn copy(
    place: &Location<impl Kv>,
    begin: impl FnOnce(&Dump) -> Result<File, ToolError>,
) -> Result<(File, Tally), ToolError> {
    let mut tally = Tally::new();
    let reading = async {
        let mut survey = Survey::begin(place.client.clone(), &place.prefix).await?;
        if survey.meta.filling {
            let problem = "the data are not complete: a move or a restore has not finished";
            return Err(ToolError::Refused(problem.to_owned()));
        }
        let dump = survey.dump().await?;
        let file = begin(&dump)?;
        let written = survey.counters(|rows| {
            tell(&mut tally, &dump, rows);
            file.counters(rows)
        });
        written.await?;
        Ok((file, dump, survey.report))
    };
    let (file, dump, report) = held(place, reading).await?;
    rest(&mut tally, &dump)?;
    healthy(&report)?;
    Ok((file, tally))
}

/// Writes the contents of a file to etcd, and compares the two.
async fn fill<K: Kv>(
    reading: &Reading<'_>,
    dump: &Dump,
    place: &Location<K>,
    (gap, forgotten): (i64, i64),
) -> Result<(Filling<K>, Tally), ToolError> {
    let mut filling = Filling::begin(place, dump, gap).await?;
    let mut tally = Tally::new();
    let mut after = None;
    while let Some(rows) = next(reading, &mut after)? {
        tell(&mut tally, dump, &rows);
        filling.counters(&rows).await?;
    }
    rest(&mut tally, dump)?;
    filling.rest(dump, forgotten).await?;

    let mut survey = Survey::begin(place.client.clone(), &place.prefix).await?;
    let written = survey.dump().await?;
    let mut found = Tally::new();
    let read = survey.counters(|rows| {
        tell(&mut found, &written, rows);
        Ok(())
    });
    read.await?;
    rest(&mut found, &written)?;
    healthy(&survey.report)?;
    compare(&tally, &found)?;
    Ok((filling, tally))
}

/// The next counters of a file.
fn next(
    reading: &Reading<'_>,
    after: &mut Option<std::sync::Arc<str>>,
) -> Result<Option<Vec<crate::store::Row>>, ToolError> {
    let rows = reading.counters(after.as_deref(), PAGE)?;
    let Some(last) = rows.last() else {
        return Ok(None);
    };
    *after = Some(last.name.clone());
    Ok(Some(rows))
}

fn tell(tally: &mut Tally, dump: &Dump, rows: &[crate::store::Row]) {
    for row in rows {
        if let Some(value) = row.value {
            tally.counter(dump.hasher, &row.name, value, row.revision);
        }
    }
}

fn rest(tally: &mut Tally, dump: &Dump) -> Result<(), ToolError> {
    tally
        .rest(dump)
        .map_err(|error| ToolError::Refused(error.to_string()))
}

fn healthy(report: &Report) -> Result<(), ToolError> {
    let problem = report.problems.first();
    problem.map_or(Ok(()), |problem| {
        let problem = format!("the data in etcd are damaged: {problem}");
        Err(ToolError::Refused(problem))
    })
}

fn compare(source: &Tally, target: &Tally) -> Result<(), ToolError> {
    if source == target {
        return Ok(());
    }
    Err(ToolError::Refused(format!(
        "the target differs from the source, and is not put to use: {source} became {target}"
    )))
}

/// The absolute form of a path, which names the same file from any working directory.
#[must_use]
pub fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Changes, Commit, Stamp, pack};
    use crate::store::Store as _;
    use crate::store::sqlite::SqliteStore;

    /// Data that are damaged, or became others on their way, are not put to use.
    #[test]
    fn data_that_are_not_the_same_are_refused() {
        let source = Tally::new();
        let target = Tally { sum: 1, ..source };
        compare(&source, &source.clone()).expect("they are the same");
        let told = compare(&source, &target).map_err(|error| error.to_string());
        let told = told.expect_err("they differ");
        assert!(
            told.ends_with(&format!("{source} became {target}")),
            "{told}"
        );
        healthy(&Report::default()).expect("nothing is wrong");
        let problems = vec!["batch 7 is missing".to_owned()];
        let damaged = Report {
            problems,
            ..Report::default()
        };
        let told = healthy(&damaged).map_err(|error| error.to_string());
        let told = told.expect_err("it is damaged");
        assert!(told.ends_with("batch 7 is missing"), "{told}");
    }

    /// All that a file has is counted, ids included.
    #[tokio::test]
    async fn the_contents_of_a_file_are_counted() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sumd.db");
        let store = SqliteStore::open(&path, 1 << 20).expect("a new database");
        let batch = Commit {
            seq: 1,
            time: 0,
            stamp: Stamp::of_time(0),
            horizon: 0,
            session_horizon: 0,
            places: 2,
            ids: pack(&[(1, 1), (2, 2)]).into(),
            forget_before: 1,
            deletions_up_to: 0,
            changes: Changes::default(),
        };
        let committed = store.commit(0, Arc::new(batch)).await;
        committed.expect("there is room");
        drop(store);
        assert_eq!(count(&path).expect("it is whole").ids, 2);
    }
}
