//! The corpus in `fuzz/corpus`: a folder for each target, with an encoding of everything that the target reads, and the
//! bytes of every fault that was found.

mod seeds;

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use super::{answer, batch, bulk, frames, node, page_token, parts, request, row, session, sum};

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 11] = [
    ("answer", answer),
    ("batch", batch),
    ("bulk", bulk),
    ("frames", frames),
    ("node", node),
    ("page_token", page_token),
    ("parts", parts),
    ("request", request),
    ("row", row),
    ("session", session),
    ("sum", sum),
];

fn names(folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let name = |path: &Path| path.file_stem()?.to_str().map(str::to_owned);
    paths.filter_map(|path| name(&path)).collect()
}

/// Each target has a program and a folder of the corpus.
#[test]
fn targets_are_those_of_the_folders() {
    let expected: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names("fuzz/fuzz_targets"), expected);
    assert_eq!(names("fuzz/corpus"), expected);
}

/// Every property holds for the whole corpus.
#[test]
fn the_corpus_passes() {
    for (name, target) in TARGETS {
        let folder = format!("fuzz/corpus/{name}");
        for file in fs::read_dir(folder).expect("a folder") {
            let file = file.expect("an entry").path();
            let bytes = fs::read(&file).expect("a file");
            let passed = catch_unwind(|| target(&bytes));
            assert!(passed.is_ok(), "{}", file.display());
        }
    }
}

/// The corpus has the seeds. With `SUMD_SEEDS=write` the test writes them.
#[test]
fn the_corpus_has_the_seeds() {
    let writes = std::env::var_os("SUMD_SEEDS").is_some_and(|value| value == "write");
    for (target, name, bytes) in seeds::all() {
        let file = format!("fuzz/corpus/{target}/{name}");
        if writes {
            fs::create_dir_all(format!("fuzz/corpus/{target}")).expect("a folder");
            fs::write(&file, &bytes).expect("a file");
        }
        let stored = fs::read(&file).unwrap_or_default();
        assert!(
            stored == bytes,
            "{file}: run this test with SUMD_SEEDS=write"
        );
    }
}
