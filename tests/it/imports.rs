//! Imports point down the floors.

use std::fs;
use std::path::{Path, PathBuf};

/// The rooms of `src/`, floor by floor from the ground up. A room may import from floors below its own
/// and from itself; what is not listed here is on no floor, and fails the test.
const FLOORS: [&[&str]; 10] = [
    &["proto", "sum::wire", "model", "notice"],
    &["status", "etcd"],
    &["store"],
    &["grpc", "lane", "maintenance"],
    &["cluster"],
    &["sum", "counter"],
    &["server", "telemetry"],
    &["config"],
    &["cli"],
    &["lib", "main", "app"],
];

/// Crates that a room must not name, though it stands on a floor that may.
const CLOSED_TO: [(&str, &[&str]); 6] = [
    ("sum::wire", &["tonic", "http", "tokio", "hyper", "bytes"]),
    ("model", &["tonic", "http", "tokio", "rusqlite", "std::fs"]),
    ("store", &["tonic", "http"]),
    ("etcd", &["model", "rusqlite"]),
    ("cluster", &["rusqlite"]),
    ("lane", &["tonic", "http", "prost", "rusqlite"]),
];

/// The room that a path such as `sum::wire::Total` leads to.
fn room(path: &str) -> Option<&'static str> {
    let in_room = |room: &&&str| {
        path.strip_prefix(**room)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    let rooms = FLOORS.iter().flat_map(|floor| floor.iter());
    rooms.filter(in_room).max_by_key(|room| room.len()).copied()
}

fn floor(room: &str) -> usize {
    let floor = FLOORS.iter().position(|floor| floor.contains(&room));
    floor.unwrap_or_else(|| panic!("{room} is on no floor"))
}

pub fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// `src/sum/wire/packed.rs` is `sum::wire::packed`.
fn module(file: &Path) -> String {
    let path = file
        .strip_prefix("src")
        .expect("under src")
        .with_extension("");
    let parts: Vec<_> = path
        .iter()
        .map(|part| part.to_str().expect("a name"))
        .collect();
    parts.join("::")
}

/// The modules of this crate that a source names, by their full path.
fn mentioned(module: &str, source: &str) -> Vec<String> {
    let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let mut found = Vec::new();
    for (prefix, base) in [("crate::", ""), ("sumd::", ""), ("super::", parent)] {
        for (at, _) in source.match_indices(prefix) {
            if source[..at].ends_with(is_word) {
                continue;
            }
            let rest = &source[at + prefix.len()..];
            let names = match rest.strip_prefix('{') {
                Some(list) => list.split('}').next().unwrap_or("").split(',').collect(),
                None => vec![rest],
            };
            for name in names {
                let name = name.trim();
                let end = name.find(|c| !is_word(c)).unwrap_or(name.len());
                let path = format!("{base}::{}", &name[..end]);
                found.push(path.trim_matches(':').to_owned());
            }
        }
    }
    found
}

#[test]
fn imports_point_down() {
    let mut files = Vec::new();
    sources(Path::new("src"), &mut files);
    assert!(files.len() > 20, "the sources are here");
    let mut seen = 0;
    for file in files {
        // Tests may look anywhere.
        if file.file_stem().is_some_and(|name| name == "tests") {
            continue;
        }
        let source = fs::read_to_string(&file).expect("a source");
        let source = source.split("#[cfg(test)]").next().unwrap_or("");
        let lines = source.lines();
        let code: Vec<_> = lines
            .filter(|line| !line.trim_start().starts_with("//"))
            .collect();
        let code = code.join("\n");
        let here = module(&file);
        let from = room(&here).unwrap_or_else(|| panic!("{here} is on no floor"));
        for path in mentioned(&here, &code) {
            let Some(to) = room(&path) else { continue };
            seen += usize::from(from != to);
            let inside = from == to || to.starts_with(&format!("{from}::"));
            assert!(
                inside || floor(to) < floor(from),
                "{} imports {path}: {from} is not above {to}",
                file.display()
            );
        }
        for (closed, crates) in CLOSED_TO {
            for name in crates.iter().filter(|_| from == closed) {
                let import = format!("{name}::");
                assert!(!code.contains(&import), "{} imports {name}", file.display());
            }
        }
    }
    assert!(seen > 10, "only {seen} imports between rooms were found");
}

/// The test itself sees what it is there to see.
#[test]
fn names_are_found() {
    let source = "use crate::server::{Address, Limits};\nuse super::wire::Total;\nlet x = crate::status::trailers();";
    let names = mentioned("sum::service", source);
    assert_eq!(names, ["server", "status::trailers", "sum::wire::Total"]);
}
