//! The reasons of errors are the same in the code, in the tables of the public protos and in the documentation.

use std::collections::BTreeMap;
use std::fs;

use sumd::status::{Outcome, Reason};

fn is_name(word: &str) -> bool {
    let is_upper = |c: char| c.is_ascii_uppercase() || c == '_';
    word.len() > 3 && word.chars().all(is_upper)
}

/// The code of a reason as the protocol writes it, and its outcome: `either` if each error has its own.
fn words(reason: Reason) -> (String, &'static str) {
    let code = format!("{:?}", reason.code());
    let mut name = String::new();
    for c in code.chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    (name, reason.outcome().map_or("either", Outcome::name))
}

/// A row of a table in a proto: a code, a reason, and the outcome if the table has outcomes.
#[derive(Debug, PartialEq, Eq)]
struct Row<'a> {
    code: &'a str,
    reason: &'a str,
    outcome: Option<&'a str>,
}

/// The rows of the tables in a proto, and the codes and reasons around "with reason". In a table with outcomes, each
/// row has one, even an invalid one.
fn rows(proto: &str) -> impl Iterator<Item = Row<'_>> {
    let mut has_outcomes = false;
    proto.lines().filter_map(move |line| {
        let comment = line.trim_start().strip_prefix("//")?;
        if let Some((before, after)) = comment.split_once(" with reason ") {
            let (code, reason) = (before.split(' ').next_back()?, after.split(' ').next()?);
            return Some(Row {
                code,
                reason,
                outcome: None,
            });
        }
        let mut words = comment.strip_prefix("   ")?.split_whitespace();
        let code = words.next()?;
        if code == "code" {
            has_outcomes = comment.contains(" outcome ");
        }
        if !is_name(code) {
            return None;
        }
        let reason = words.next().filter(|word| is_name(word))?;
        let outcome = words.next().filter(|_| has_outcomes);
        Some(Row {
            code,
            reason,
            outcome,
        })
    })
}

#[test]
fn every_reason_is_in_the_tables_of_the_protos() {
    let mut missing: BTreeMap<_, _> = Reason::ALL.iter().map(|r| (r.name(), *r)).collect();
    assert_eq!(missing.len(), Reason::ALL.len(), "a name is given twice");
    let known = missing.clone();
    let mut with_outcome = 0;
    for name in ["sum", "counter", "cluster"] {
        let proto = fs::read_to_string(format!("proto/sum/v1/{name}.proto")).expect("a proto");
        for row in rows(&proto) {
            let reason = *known
                .get(row.reason)
                .unwrap_or_else(|| panic!("{name}.proto: {row:?} is not declared"));
            let (code, outcome) = words(reason);
            assert_eq!(row.code, code, "{name}.proto: {row:?}");
            // Sums change nothing, so their table has no outcomes; those of streams are in the text above their table.
            if let Some(told) = row.outcome {
                assert_eq!(told, outcome, "{name}.proto: {row:?}");
                with_outcome += 1;
            }
            missing.remove(row.reason);
        }
    }
    assert!(missing.is_empty(), "{:?} are in no table", missing.keys());
    assert!(
        with_outcome > 10,
        "only {with_outcome} rows have an outcome"
    );
}

#[test]
fn every_reason_has_a_section_in_the_documentation() {
    let page = fs::read_to_string("docs/errors.md").expect("the page of errors");
    let sections = page.split("\n### ").skip(1);
    let mut sections: BTreeMap<_, _> = sections
        .map(|section| {
            let (name, text) = section.split_once('\n').expect("a text");
            (name, text.split("\n## ").next().unwrap_or(""))
        })
        .collect();
    assert_eq!(
        sections.len(),
        page.matches("\n### ").count(),
        "one has two"
    );
    for &reason in Reason::ALL {
        let text = sections.remove(reason.name());
        let text = text.unwrap_or_else(|| panic!("{} has no section", reason.name()));
        let (head, advice) = text.split_once("\n\n").expect("a line, and advice");
        let (code, outcome) = words(reason);
        let declared = format!("{code} · {outcome} · retry: {}", reason.retry().name());
        assert_eq!(head, declared, "{}", reason.name());
        assert!(advice.len() > 40, "{} has no advice", reason.name());
    }
    assert!(
        sections.is_empty(),
        "{:?} are not declared",
        sections.keys()
    );
}

/// The test's own parser finds rows.
#[test]
fn rows_are_found() {
    let proto = "//   UNAVAILABLE  OVERLOADED  either  too much\n// OUT_OF_RANGE with reason SUM_OUT_OF_RANGE where\n//   code  reason";
    let found: Vec<_> = rows(proto).map(|row| (row.code, row.reason)).collect();
    let expected = [
        ("UNAVAILABLE", "OVERLOADED"),
        ("OUT_OF_RANGE", "SUM_OUT_OF_RANGE"),
    ];
    assert_eq!(found, expected);
}
