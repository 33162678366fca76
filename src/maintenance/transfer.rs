//! From one store to another: backups of etcd, which are files like those of SQLite, and moves.
//!
//! A move writes all of it, reads both sides again and compares them, and only then has one of them be of use in place of the
//! other. On SQLite the source is closed when its copy in etcd is complete but for a mark, which is put right last: a crash
//! between the two leaves a source that is closed, and the move is run again. In etcd the source is closed first, since any
//! number of nodes might begin to use it; then that the move is complete is recorded there; the target has its name last. At no
//! time are both of use, and at no time is anything lost: run again towards the same target, a move begins anew, or finishes if
//! its target lacks nothing but its name. Nobody begins other data beside such a target, or overwrites it.
//!
//! A move that is complete is not made again, nor undone, wherever its target is by then, since that may have counted on. In
//! etcd the record tells. A file that is closed tells by itself: something is at its target from before it was closed, so that
//! a target where nothing is has been lost.

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

/// Counters that are read at once.
const PAGE: usize = 1000;

/// Looks at everything that is in etcd: every row's check sum, and whether heads, packs, counters, ids and sessions fit
/// together. Nodes may be using it.
///
/// # Errors
/// Where it cannot be read. What is wrong inside is in the report.
pub async fn check(kv: impl Kv, prefix: &str) -> Result<Report, ToolError> {
    let mut survey = Survey::begin(kv, prefix).await?;
    survey.dump().await?;
    survey.counters(|_| Ok(())).await?;
    if survey.meta.filling {
        let problem =
            "it is not complete: a move or a restore has not come to its end; run it again";
        survey.report.problems.push(problem.to_owned());
    }
    Ok(survey.report)
}

/// The same while nodes may be using it, however long it takes.
///
/// # Errors
/// The same, and if etcd cannot be asked to keep its history for so long.
pub async fn check_in_use(place: &Location<impl Kv>) -> Result<Report, ToolError> {
    held(place, check(place.client.clone(), &place.prefix)).await
}

/// Undoes a move from etcd that was broken off: what is there is of use again. Gives where to it was to be moved.
///
/// # Errors
/// Returns an error if it was not moved and, unless `force`, if the move is complete or the file that it was moved to is there.
pub async fn reopen(place: &Location<impl Kv>, force: bool) -> Result<String, ToolError> {
    undo(place, force).await
}

/// Reads, while nodes forget nothing, and lets them however it ends.
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

/// Copies what is in etcd, as it is at one moment, to a new file, which is an SQLite database. Nodes may be using it.
///
/// # Errors
/// Returns an error if the file is there already, or what is in etcd is damaged or cannot be read. Nothing is left under the
/// file's name then.
pub async fn backup(place: &Location<impl Kv>, to: &Path) -> Result<Report, ToolError> {
    let (file, _) = copy(place, |dump| File::backup(to, dump)).await?;
    let (written, report) = file.complete(|_| Ok(()))?;
    written.publish()?;
    Ok(report)
}

/// Writes a backup to etcd, under a prefix that is empty. Revisions go on far beyond the backup's.
///
/// # Errors
/// Where the backup is damaged, or there are data already.
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

/// Moves a database to etcd, under a prefix that is empty. `force` makes a move again whose target is gone.
///
/// # Errors
/// Where either is in use, or cannot be read or written.
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
            "the data of {} were moved to {to}, and there is nothing now: bring that etcd back, or restore a backup of it. sumd \
             move --force makes the move again, from the data as they were when they were moved: all that was counted since \
             then is lost, and counts again if it is sent again",
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
        // That is done.
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

/// Moves what is in etcd to a new database file. `force` makes a move again that is complete.
///
/// # Errors
/// Where either is in use, or cannot be read or written.
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
    // Nothing is closed for a target that cannot be.
    let here = reserve(path)?;
    let closed = close(place, to).await?;
    // Another move to there may have been completed meanwhile.
    if let Some(refusal) = closed.refusal(place).filter(|_| !force) {
        return Err(refusal);
    }
    let (file, tally) = copy(place, |dump| File::database(path, here, dump)).await?;
    let (mut written, _) = file.complete(|partial| compare(&tally, &count(partial)?))?;
    let id = written.id()?;
    written.keep()?;
    // From here on the file is what counts: if it has no name yet, the next attempt gives it that.
    match complete(place, closed, id.into()).await {
        Ok(()) => give_name(written)?,
        Err(refused @ ToolError::Refused(_)) => {
            written.give_up();
            return Err(refused);
        }
        Err(unknown) => {
            return Err(ToolError::Refused(format!(
                "{unknown}. Nobody knows whether the move is complete: run it again, which gives {} its name if so, or makes it \
                 anew",
                written.file().display()
            )));
        }
    }
    Ok(tally)
}

/// Gives the file of a move that is complete its name.
fn give_name(written: Written) -> Result<(), ToolError> {
    let file = written.file().to_owned();
    written.publish().map_err(|error| {
        ToolError::Refused(format!(
            "{error}. The move is complete, and its file is {}: run the same move again, which gives it its name",
            file.display()
        ))
    })
}

/// Counts the contents of a file.
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

/// Writes what is in etcd to a file, which is complete but for its name.
async fn copy(
    place: &Location<impl Kv>,
    begin: impl FnOnce(&Dump) -> Result<File, ToolError>,
) -> Result<(File, Tally), ToolError> {
    let mut tally = Tally::new();
    let reading = async {
        let mut survey = Survey::begin(place.client.clone(), &place.prefix).await?;
        if survey.meta.filling {
            let problem =
                "what is there is not complete: a move or a restore has not come to its end";
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

/// Writes what is in a file to etcd, and compares the two.
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
        let problem = format!("what is in etcd is damaged: {problem}");
        Err(ToolError::Refused(problem))
    })
}

fn compare(source: &Tally, target: &Tally) -> Result<(), ToolError> {
    if source == target {
        return Ok(());
    }
    Err(ToolError::Refused(format!(
        "the target is not what the source is, and is not put to use: {source} became {target}"
    )))
}

/// Where a file is, from wherever it is asked.
#[must_use]
pub fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
