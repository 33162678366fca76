//! Every reason of an error is in the tables of the public protos, and every reason in the tables is one that there is.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::imports::sources;

/// Rooms whose errors never leave the process: etcd's codes and SQL are written in the same way.
const WITHOUT_REASONS: [&str; 2] = ["src/store", "src/config"];
/// Reasons of one word, which could be anything else.
const ONE_WORD: [&str; 2] = ["OVERLOADED", "PANIC"];
/// Words that look like a reason: an outcome, and those of the build. Names of variables have a prefix.
const OTHERS: [&str; 3] = ["NOT_APPLIED", "UNKNOWN", "OUT_DIR"];
const PREFIXES: [&str; 4] = ["SUMD_", "CARGO_", "NODE_HEALTH_", "NODE_CLOCK_"];

/// The strings in a source that look like reasons.
fn in_code(source: &str) -> impl Iterator<Item = &str> {
    let code = source.split("#[cfg(test)]").next().unwrap_or("");
    let is_reason = |text: &&str| {
        let has_form = text.chars().all(|c| c.is_ascii_uppercase() || c == '_');
        let is_other = OTHERS.contains(text) || PREFIXES.iter().any(|name| text.starts_with(name));
        has_form && !is_other && (text.contains('_') || ONE_WORD.contains(text))
    };
    code.split('"').skip(1).step_by(2).filter(is_reason)
}

/// The reasons in a proto: the second word of a line in a table, which begins with a code, and what follows "with reason".
fn in_tables(proto: &str) -> impl Iterator<Item = &str> {
    let is_name = |word: &&str| {
        let is_upper = |c: char| c.is_ascii_uppercase() || c == '_';
        word.len() > 3 && word.chars().all(is_upper)
    };
    proto.lines().filter_map(move |line| {
        let comment = line.trim_start().strip_prefix("//")?;
        if let Some((_, after)) = comment.split_once("with reason ") {
            return after.split_whitespace().next();
        }
        let mut words = comment.strip_prefix("   ")?.split_whitespace();
        words.next().filter(is_name)?;
        words.next().filter(is_name)
    })
}

#[test]
fn every_reason_is_in_the_tables() {
    let mut files = Vec::new();
    sources(Path::new("src"), &mut files);
    let mut code = BTreeSet::new();
    for file in files {
        let is_test = file.file_stem().is_some_and(|name| name == "tests");
        let room = file.with_extension("");
        if is_test || WITHOUT_REASONS.iter().any(|name| room.starts_with(name)) {
            continue;
        }
        let source = fs::read_to_string(&file).expect("a source");
        code.extend(in_code(&source).map(str::to_owned));
    }
    let mut tables = BTreeSet::new();
    for name in ["sum", "counter", "cluster"] {
        let proto = fs::read_to_string(format!("proto/sum/v1/{name}.proto")).expect("a proto");
        tables.extend(in_tables(&proto).map(str::to_owned));
    }
    assert!(code.len() > 20, "{code:?}");
    let missing: Vec<_> = code.difference(&tables).collect();
    assert!(missing.is_empty(), "{missing:?} are in no table");
    let unknown: Vec<_> = tables.difference(&code).collect();
    assert!(unknown.is_empty(), "{unknown:?} are in tables only");
}
