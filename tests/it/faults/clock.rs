//! Wall clocks of servers that differ, by the shim in `tests/clock`.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::shim;

/// The compiled shim.
pub struct Shim {
    path: PathBuf,
    _folder: TempDir,
}

impl Shim {
    pub async fn compile() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self {
            path: shim::compile("clock", folder.path()).await,
            _folder: folder,
        }
    }

    pub fn path(&self) -> PathBuf {
        self.path.clone()
    }
}

/// How far a server's clock is ahead.
pub struct Clock(PathBuf);

impl Clock {
    pub fn new(file: PathBuf) -> Self {
        fs::write(&file, 0_i64.to_ne_bytes()).expect("a file");
        Self(file)
    }

    pub fn file(&self) -> &Path {
        &self.0
    }

    /// Sets it forward or back by this much.
    pub fn set(&self, by: Duration, forward: bool) {
        let millis = i64::try_from(by.as_millis()).expect("a short time");
        let ahead = if forward { millis } else { -millis };
        // Written in place, because the file is mapped.
        let file = File::options().write(true).open(&self.0).expect("a file");
        let written = file.write_all_at(&ahead.to_ne_bytes(), 0);
        written.expect("it is there");
    }
}
