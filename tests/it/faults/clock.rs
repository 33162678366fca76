//! Wall clocks of servers that differ, by the shim in `tests/clock`.

use std::env;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Command;

/// The shim, compiled.
pub struct Shim(TempDir);

impl Shim {
    pub async fn compile() -> Self {
        let shim = Self(tempfile::tempdir().expect("a folder"));
        // What has compiled SQLite is there.
        let compiler = env::var_os("CC").unwrap_or_else(|| "cc".into());
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clock/shim.c");
        let done = Command::new(compiler)
            .args(["-shared", "-fPIC", "-Wall", "-Wextra", "-o"])
            .arg(shim.path())
            .args([source.as_os_str(), "-ldl".as_ref()])
            .status();
        assert!(done.await.expect("a C compiler").success());
        shim
    }

    pub fn path(&self) -> PathBuf {
        self.0.path().join("clock.so")
    }
}

/// How much a server's clock is ahead.
pub struct Clock(PathBuf);

impl Clock {
    pub fn new(file: PathBuf) -> Self {
        fs::write(&file, 0_i64.to_ne_bytes()).expect("a file");
        Self(file)
    }

    pub fn file(&self) -> &Path {
        &self.0
    }

    /// Sets it forward by so much, or back.
    pub fn set(&self, by: Duration, forward: bool) {
        let millis = i64::try_from(by.as_millis()).expect("a short time");
        let ahead = if forward { millis } else { -millis };
        // In its place, since it is mapped.
        let file = File::options().write(true).open(&self.0).expect("a file");
        let written = file.write_all_at(&ahead.to_ne_bytes(), 0);
        written.expect("it is there");
    }
}
