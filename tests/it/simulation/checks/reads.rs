//! Reads show the state at the revision that they return.

use std::sync::Arc;

use sumd::store::{Page, Row, Scan};

use super::{Lines, at};
use crate::simulation::history::{CatchUp, History};

pub fn saw_what_was_there(history: &History, lines: &Lines, problems: &mut Vec<String>) {
    for read in &history.reads {
        let revision = read.revision();
        match &read.seen {
            CatchUp::Rows(names, rows) => {
                for (name, row) in names.iter().zip(&rows.rows) {
                    if name.starts_with('n') && *row != expected(lines, name, revision, false) {
                        problems.push(format!("{name} was {row:?} at {revision}"));
                    }
                }
            }
            CatchUp::Page(scan, page) => {
                if let Some(problem) = page_is_wrong(lines, scan, page) {
                    problems.push(problem);
                }
            }
            CatchUp::Sum(prefix, sum) => {
                let of = lines.keys().filter(|name| name.starts_with(&**prefix));
                let values: Vec<_> = of
                    .filter_map(|name| at(lines, name, revision).1)
                    .map(i128::from)
                    .collect();
                let count = i64::try_from(values.len()).expect("few");
                let expected = (values.iter().sum::<i128>(), count);
                if (sum.sum, sum.count) != expected {
                    problems.push(format!("{sum:?} of {prefix} should be {expected:?}"));
                }
            }
        }
    }
}

fn expected(lines: &Lines, name: &str, revision: i64, deleted: bool) -> Option<Row> {
    let (since, value) = at(lines, name, revision);
    (value.is_some() || deleted && since > 0).then(|| Row {
        name: name.into(),
        value,
        revision: since,
    })
}

fn page_is_wrong(lines: &Lines, scan: &Scan, page: &Page) -> Option<String> {
    let after = scan.after.as_deref().unwrap_or("");
    let is_here = |name: &str| {
        let reached = page.next.as_deref().is_none_or(|next| name <= next);
        name.starts_with(&*scan.prefix) && name > after && reached
    };
    let all = lines.keys().filter(|name| is_here(name));
    let rows = all.filter_map(|name| expected(lines, name, page.revision, scan.since > 0));
    let wanted: Vec<_> = rows.filter(|row| row.revision > scan.since).collect();
    // Counters that were deleted long ago may be listed, or not.
    let is_certain = |row: &&Row| row.value.is_some() || row.revision > page.forgotten;
    let certain: Vec<_> = wanted.iter().filter(is_certain).collect();
    let found: Vec<_> = page.rows.iter().filter(is_certain).collect();
    let names = |rows: &[Row]| {
        rows.iter()
            .map(|row| row.name.clone())
            .collect::<Vec<Arc<str>>>()
    };
    let is_known = page.rows.iter().all(|row| wanted.contains(row));
    let is_in_order = names(&page.rows).is_sorted() && page.rows.len() <= scan.limit;
    (certain != found || !is_known || !is_in_order)
        .then(|| format!("{scan:?} gave {page:?}, and not {wanted:?}"))
}
