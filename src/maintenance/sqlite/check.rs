//! The check of a database file.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::Path;

use rusqlite::Connection;

use crate::maintenance::report::{Answers, Report, Times, ToolError};
use crate::model::{KeyedHasher, PackEntry};
use crate::store::sqlite::meta::Meta;
use crate::store::sqlite::reader::{Snapshot, Walk};
use crate::store::sqlite::rows::{self, Error};
use crate::store::sqlite::{database, reader};

/// Checks everything in a database: its pages, the check sum of every row, and whether counters, batches and remembered
/// ids are consistent.
///
/// # Errors
/// Returns an error if the database cannot be opened. Problems inside it are in the report.
pub fn check(path: &Path) -> Result<Report, ToolError> {
    let mut reader = database::open_reader(path)?;
    let mut report = Report::default();
    if let Err(error) = check_all(&mut reader.connection, &mut report) {
        report.problems.push(error.to_string());
    }
    Ok(report)
}

fn check_all(connection: &mut Connection, report: &mut Report) -> rows::Result<()> {
    let problems = &mut report.problems;
    let snapshot = Snapshot::of_file(connection, |damage| {
        note(Err::<(), _>(damage), problems);
        Ok(())
    })?;
    let connection = snapshot.connection();
    let hasher = Meta::read(connection)?.hasher;
    let mut statement = connection.prepare("PRAGMA integrity_check(20)")?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let line: String = row.get(0)?;
        if line != "ok" {
            report.problems.push(line);
        }
    }
    report.revision = snapshot.revision();
    let answers = check_batches(connection, hasher, report)?;
    // Batches are read twice, once for their changes and once for their ids, so problems may be listed twice.
    let mut told = HashSet::new();
    let problems = &mut report.problems;
    problems.retain(|problem| told.insert(problem.clone()));
    check_counters(&snapshot, &answers, report)?;
    let mut statement = connection.prepare(rows::SESSION)?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        if let Some((_, session)) = note(rows::session(hasher, row), &mut report.problems) {
            report.times.take(Times {
                session: session.used(),
                ..Times::default()
            });
        }
        report.sessions += 1;
    }
    Ok(())
}

/// The times of day in a batch.
pub(super) fn times(batch: &rows::BatchRow) -> Times {
    let rows::BatchRow { head, pack } = batch;
    Times {
        last: head.time,
        id_horizon: head.horizon,
        session_horizon: head.session_horizon,
        id: pack.stamp.newest.unwrap_or(0),
        session: 0,
    }
}

fn note<T>(row: rows::Result<T>, problems: &mut Vec<String>) -> Option<T> {
    row.map_err(|error: Error| problems.push(error.to_string()))
        .ok()
}

/// Checks the remembered batches and ids, and returns the answers by revision.
fn check_batches(
    connection: &Connection,
    hasher: KeyedHasher,
    report: &mut Report,
) -> rows::Result<Answers> {
    let mut answers = Answers::new();
    let mut ids = HashSet::new();
    let (mut revision, mut time) = (0, i64::MIN);
    reader::each_batch(connection, hasher, |batch| {
        let Some(batch) = note(batch, &mut report.problems) else {
            return Ok(());
        };
        let (seq, head) = (batch.pack.seq, batch.head);
        if batch.pack.base < revision || head.time < time {
            let problem =
                format!("batch {seq} has an earlier revision or time than the one before it");
            report.problems.push(problem);
        }
        (revision, time) = (head.revision, head.time);
        report.times.take(times(&batch));
        let entries = PackEntry::read_all(&batch.pack.ids);
        let entries = entries.map_err(|error| Error::Corrupt(format!("batch {seq}: {error}")));
        for entry in note(entries, &mut report.problems).unwrap_or_default() {
            let at = batch.pack.base + i64::from(entry.place);
            if at > head.revision || !ids.insert(entry.digest) {
                let problem = format!("batch {seq} has a duplicate or misplaced id");
                report.problems.push(problem);
            }
            answers.insert(at, entry.done);
        }
        Ok(())
    })?;
    report.ids = ids.len() as u64;
    Ok(answers)
}

/// Checks each counter against the remembered answer of the operation that changed it last.
fn check_counters(
    snapshot: &Snapshot<'_>,
    answers: &Answers,
    report: &mut Report,
) -> rows::Result<()> {
    snapshot.walk("", Walk::All, |latest| {
        if let Some(latest) = note(latest, &mut report.problems) {
            report.take(answers, latest.name, latest.value, latest.revision);
        }
        ControlFlow::Continue(())
    })
}
