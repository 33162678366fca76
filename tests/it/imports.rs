//! Imports point down the floors, and the modules directly in a room form no circle. A module and its own modules may
//! form one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms of `src/`, floor by floor from the ground up. A room may import from floors below its own and from itself.
/// A module that is not listed here is on no floor, and fails the test.
const FLOORS: [&[&str]; 11] = [
    &[
        "backoff", "proto", "ranged", "sum", "model", "notice", "replies",
    ],
    &["status", "etcd"],
    &["store", "codec"],
    &["lane", "maintenance"],
    &["cluster"],
    &["counters", "layers"],
    &["api"],
    &["server", "telemetry"],
    &["config"],
    &["cli"],
    &["lib", "main", "app", "fuzzing"],
];

/// Crates and rooms that a room must not name, although other rooms on its floor may.
const CLOSED_TO: [(&str, &[&str]); 7] = [
    ("sum", &["tonic", "http", "tokio", "hyper", "bytes"]),
    ("model", &["tonic", "http", "tokio", "rusqlite", "std::fs"]),
    ("store", &["tonic", "http"]),
    ("etcd", &["model", "rusqlite"]),
    ("cluster", &["rusqlite"]),
    ("lane", &["tonic", "http", "prost", "rusqlite"]),
    (
        "counters",
        &["tonic", "tonic_types", "http", "status", "rusqlite"],
    ),
];

/// Rooms within rooms.
const ROOMS_WITHIN: [&str; 6] = [
    "cluster::forward",
    "cluster::members",
    "maintenance::etcd",
    "maintenance::sqlite",
    "store::etcd",
    "store::sqlite",
];

/// The room of a path such as `sum::wire::Total`.
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

/// The module path of a file: `src/sum/wire/packed.rs` is `sum::wire::packed`.
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

/// The paths of this crate that a source names, in full.
fn mentioned(module: &str, source: &str) -> Vec<String> {
    let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
    let grandparent = parent.rsplit_once("::").map_or("", |(parent, _)| parent);
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let mut found = Vec::new();
    for (prefix, base) in [
        ("crate::", ""),
        ("sumd::", ""),
        ("super::super::", grandparent),
        ("super::", parent),
    ] {
        for (at, _) in source.match_indices(prefix) {
            let rest = &source[at + prefix.len()..];
            if source[..at].ends_with(is_word) || rest.starts_with("super::") {
                continue;
            }
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

/// The code of a source, without comments and tests.
fn code_of(file: &Path) -> String {
    let source = fs::read_to_string(file).expect("a source");
    let mut code = String::new();
    let mut is_test = false;
    for line in source.lines() {
        if is_test && line.contains("mod tests") && line.ends_with('{') {
            // Tests come last in a file.
            break;
        }
        let attribute = line.trim() == "#[cfg(test)]";
        if !attribute && !is_test && !line.trim_start().starts_with("//") {
            code += line;
            code.push('\n');
        }
        is_test = attribute;
    }
    code
}

/// Every module with its code.
fn modules() -> BTreeMap<String, String> {
    let mut files = Vec::new();
    sources(Path::new("src"), &mut files);
    assert!(files.len() > 20, "the sources are here");
    // Tests may import from anywhere.
    let is_test = |file: &PathBuf| {
        file.iter()
            .any(|part| part == "tests" || part == "tests.rs")
    };
    files.retain(|file| !is_test(file));
    let with_code = |file: &PathBuf| (module(file), code_of(file));
    files.iter().map(with_code).collect()
}

#[test]
fn imports_point_down() {
    let mut seen = 0;
    for (here, code) in modules() {
        let from = room(&here).unwrap_or_else(|| panic!("{here} is on no floor"));
        for path in mentioned(&here, &code) {
            let Some(to) = room(&path) else { continue };
            seen += usize::from(from != to);
            let inside = from == to || to.starts_with(&format!("{from}::"));
            assert!(
                inside || floor(to) < floor(from),
                "{here} imports {path}: {from} is not above {to}"
            );
        }
        for (closed, crates) in CLOSED_TO {
            for name in crates.iter().filter(|_| from == closed) {
                let import = format!("{name}::");
                assert!(!code.contains(&import), "{here} imports {name}");
            }
        }
    }
    assert!(seen > 10, "only {seen} imports between rooms were found");
}

/// The path of a `use`, if the item is one.
fn used(item: &str) -> Option<&str> {
    let (visibility, path) = item.rsplit_once("use ")?;
    let visibility = visibility.trim();
    let is_use = visibility.is_empty() || visibility.ends_with(')') || visibility.ends_with("pub");
    is_use.then_some(path)
}

/// The names that the head of a room imports from its modules, with those modules.
fn taken(head: &str, code: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for path in code.split(';').filter_map(used) {
        let Some((module, names)) = path.trim().split_once("::") else {
            continue;
        };
        let names = names.trim_matches(['{', '}']);
        for name in names.split(',') {
            let name = name.trim();
            let name = name.rsplit("::").next().unwrap_or(name);
            found.push((name.to_owned(), format!("{head}::{module}")));
        }
    }
    found
}

/// The modules that each module of a room needs. A module counts as one with its own modules.
fn needs(room: &str, modules: &BTreeMap<String, String>) -> BTreeMap<String, BTreeSet<String>> {
    let head = modules.get(room).map_or("", String::as_str);
    let taken = taken(room, head);
    let prefix = format!("{room}::");
    let unit = |path: &str| -> Option<String> {
        let rest = path.strip_prefix(&prefix)?;
        let first = rest.split("::").next()?;
        let name = format!("{prefix}{first}");
        if modules.contains_key(&name) {
            return Some(name);
        }
        // The name is of the head itself, or the head has it from one of its modules.
        let of = taken.iter().find(|(taken, _)| taken == first);
        Some(of.map_or_else(|| room.to_owned(), |(_, module)| module.clone()))
    };
    let mut needs: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for (module, code) in modules {
        let from = if module == room {
            room.to_owned()
        } else if let Some(unit) = unit(module) {
            unit
        } else {
            continue;
        };
        let to = needs.entry(from.clone()).or_default();
        if module == room {
            // The head does not need a name that it only re-exports.
            let items = code.split(';');
            let body: Vec<_> = items.filter(|item| used(item).is_none()).collect();
            let body = body.join(";");
            let is_used = |name: &str| {
                body.split(|c: char| !c.is_alphanumeric() && c != '_')
                    .any(|word| word == name)
            };
            let used = taken
                .iter()
                .filter(|(name, module)| is_used(name) && modules.contains_key(module));
            to.extend(used.map(|(_, module)| module.clone()));
            let modules = modules.keys().filter(|module| {
                let name = module.strip_prefix(&prefix).unwrap_or("::");
                !name.contains("::") && is_called(&body, name)
            });
            to.extend(modules.cloned());
        } else {
            to.extend(mentioned(module, code).iter().filter_map(|path| unit(path)));
        }
        to.remove(&from);
    }
    needs
}

/// Whether code names an item of a module by path.
fn is_called(body: &str, module: &str) -> bool {
    let path = format!("{module}::");
    body.match_indices(&path)
        .any(|(at, _)| !body[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'))
}

/// The modules that need each other.
fn circle(needs: &BTreeMap<String, BTreeSet<String>>) -> Vec<&str> {
    let reached = |from: &str| {
        let mut reached = BTreeSet::new();
        let mut left = vec![from.to_owned()];
        while let Some(next) = left.pop() {
            for to in needs.get(&next).into_iter().flatten() {
                if reached.insert(to.clone()) {
                    left.push(to.clone());
                }
            }
        }
        reached
    };
    let modules = needs.keys().map(String::as_str);
    modules
        .filter(|module| reached(module).contains(*module))
        .collect()
}

/// The modules directly in a room form no circle, so that each can be read after those that it needs. A module counts
/// as one with its own modules.
#[test]
fn rooms_have_no_circles() {
    let modules = modules();
    let rooms = FLOORS
        .iter()
        .flat_map(|floor| floor.iter())
        .chain(&ROOMS_WITHIN);
    for room in rooms {
        let needs = needs(room, &modules);
        let circle = circle(&needs);
        let arrows = circle.iter().map(|module| (module, &needs[*module]));
        assert!(circle.is_empty(), "{:#?}", arrows.collect::<Vec<_>>());
    }
}

#[test]
fn circles_are_found() {
    let source = |module: &str, code: &str| (module.to_owned(), code.to_owned());
    let modules = BTreeMap::from([
        source("a", "pub use b::B;\nuse c::C;\nfn f() -> C {}"),
        source("a::b", "use super::c::C;\nstruct B;"),
        source("a::c", "use crate::a::d::D;"),
        source("a::d", "use super::B;"),
        source("a::e", "use super::{B, f};"),
        source(
            "h",
            "use x::X;\nfn g() { y::call(); \"in use by\" }\nstruct Z(X);",
        ),
        source("h::x", "struct X;"),
        source("h::y", "use super::Z;"),
    ]);
    assert_eq!(circle(&needs("h", &modules)), ["h", "h::y"]);
    let needs = needs("a", &modules);
    assert_eq!(circle(&needs), ["a::b", "a::c", "a::d"]);
    assert!(needs["a"].contains("a::c") && !needs["a"].contains("a::b"));
    assert!(needs["a::e"].contains("a"));
}

/// The test's own parser finds names.
#[test]
fn names_are_found() {
    let source = "use crate::server::{Address, Limits};\nuse super::wire::Total;\nlet x = crate::status::trailers();";
    let names = mentioned("sum::service", source);
    assert_eq!(names, ["server", "status::trailers", "sum::wire::Total"]);
}
