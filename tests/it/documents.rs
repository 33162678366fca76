//! The targets of the documents' links exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The folders with the documents.
const FOLDERS: [&str; 10] = [
    ".",
    "docs",
    "docs/decisions",
    "deploy",
    "benches",
    "clients/go",
    "clients/python",
    "clients/node",
    "clients/java",
    "clients/rust",
];

fn documents() -> Vec<PathBuf> {
    let files = FOLDERS.iter().flat_map(|folder| {
        let entries = fs::read_dir(folder).expect("a folder");
        entries.map(|entry| entry.expect("an entry").path())
    });
    files
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect()
}

/// The text of a document without its code blocks.
fn prose(text: &str) -> String {
    let mut is_code = false;
    let is_prose = |line: &&str| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    };
    let lines: Vec<_> = text.lines().filter(is_prose).collect();
    lines.join("\n")
}

/// The targets of a document's links.
fn links(text: &str) -> Vec<String> {
    let targets = text.match_indices("](").map(|(at, _)| &text[at + 2..]);
    targets
        .filter_map(|rest| Some(rest[..rest.find(')')?].to_owned()))
        .collect()
}

/// The anchor that GitHub gives a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept.chars().filter_map(|c| match c {
        ' ' => Some('-'),
        '-' | '_' => Some(c),
        c => c.is_alphanumeric().then_some(c),
    });
    kept.collect()
}

fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| anchor(line.trim_start_matches('#')))
        .collect()
}

#[test]
fn links_lead_somewhere() {
    let mut seen = 0;
    for document in documents() {
        let text = prose(&fs::read_to_string(&document).expect("a document"));
        for link in links(&text) {
            if link.starts_with("http") {
                continue;
            }
            let (path, fragment) = link.split_once('#').unwrap_or((&link, ""));
            let folder = document.parent().unwrap_or(Path::new("."));
            let target = if path.is_empty() {
                document.clone()
            } else {
                folder.join(path)
            };
            let name = document.display();
            assert!(target.exists(), "{name} links to {link}");
            if !fragment.is_empty() {
                let there = prose(&fs::read_to_string(&target).expect("a document"));
                assert!(anchors(&there).contains(fragment), "{name} links to {link}");
            }
            seen += 1;
        }
    }
    assert!(seen > 60, "only {seen} links were found");
}

/// Every wait in the table is of an existing function.
#[test]
fn waits_are_in_the_code() {
    let text = fs::read_to_string("docs/waits.md").expect("a document");
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let mut seen = 0;
    for row in rows {
        let first = row.split('|').nth(1).unwrap_or("");
        let mut source = String::new();
        for name in first.split('`').skip(1).step_by(2) {
            let path = Path::new("src").join(name);
            if path.extension().is_some_and(|extension| extension == "rs") {
                source = fs::read_to_string(path).unwrap_or_else(|_| panic!("{name}: {row}"));
                continue;
            }
            let name = name.rsplit("::").next().unwrap_or(name);
            if !name.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
                continue;
            }
            let is_there = [format!("fn {name}("), format!("fn {name}<")];
            let is_there = is_there.iter().any(|name| source.contains(name));
            assert!(source.is_empty() || is_there, "{name}: {row}");
            seen += 1;
        }
    }
    assert!(seen > 60, "only {seen} functions were found");
}

/// Each line of the benchmarks' history has the columns of the bench, with numbers where they belong.
#[test]
fn the_history_is_a_table() {
    let text = fs::read_to_string("benches/history.csv").expect("a table");
    let mut lines = text.lines();
    let header = "date,version,commit,machine,runs,work,cpu_us,per_second,peer,ratio";
    assert_eq!(lines.next(), Some(header));
    let bench = fs::read_to_string("benches/src/bench/history.rs").expect("a source");
    assert!(bench.contains(header), "the bench writes other columns");
    for line in lines {
        let columns: Vec<_> = line.split(',').collect();
        let [_, _, _, _, runs, _, cpu_us, per_second, peer, ratio] = columns[..] else {
            panic!("{line} has {} columns", columns.len());
        };
        for number in [runs, cpu_us, per_second] {
            let number: f64 = number.parse().expect(line);
            assert!(number > 0.0, "{line}");
        }
        assert_eq!(peer.is_empty(), ratio.is_empty(), "{line}");
        assert!(ratio.is_empty() || ratio.parse::<f64>().is_ok(), "{line}");
    }
}

/// The test's own parser finds links and anchors.
#[test]
fn links_are_found() {
    let text = prose("[a](b.md#c)\n```\n[no](code)\n```\n## What's in `x_y`?\n");
    assert_eq!(links(&text), ["b.md#c"]);
    assert!(anchors(&text).contains("whats-in-x_y"));
}
