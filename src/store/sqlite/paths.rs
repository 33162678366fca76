//! The files of a database.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The path of a file beside another one: that path and a suffix.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}
