//! Libraries that are loaded before those of the system, to make it fail.

use std::env;
use std::path::{Path, PathBuf};

use tokio::process::Command;

/// Compiles `tests/NAME/shim.c` into a folder.
pub async fn compile(name: &str, folder: &Path) -> PathBuf {
    // A C compiler exists, because SQLite was compiled.
    let compiler = env::var_os("CC").unwrap_or_else(|| "cc".into());
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/{name}/shim.c"));
    let shim = folder.join(format!("{name}.so"));
    let done = Command::new(compiler)
        .args(["-shared", "-fPIC", "-Wall", "-Wextra", "-o"])
        .arg(&shim)
        .args([source.as_os_str(), "-ldl".as_ref()])
        .status();
    assert!(done.await.expect("a C compiler").success());
    shim
}
