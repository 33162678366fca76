//! The files of a database.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The path of a file beside another one: that path and a suffix.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// The write-ahead log of a database: it is beside the file itself, by whatever link that is reached.
pub(crate) fn log(path: &Path) -> PathBuf {
    let real = path.canonicalize();
    beside(real.as_deref().unwrap_or(path), "-wal")
}
