//! The server that is killed.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::sleep;

use crate::support::ports::free_port;
use crate::support::process::{Process, SUMD, command, run};

pub struct Server {
    process: Process,
    data: PathBuf,
    flags: Vec<String>,
    pub kills: usize,
    /// How often `sumd check` was run.
    pub checks: usize,
}

impl Server {
    /// Starts a server on the data in a folder.
    pub async fn start(data: &Path, flags: &[&str]) -> Self {
        let mut all = vec!["--data-dir".to_owned(), data.display().to_string()];
        all.extend(flags.iter().map(ToString::to_string));
        Self {
            process: serve(&format!("127.0.0.1:{}", free_port()), &all).await,
            data: data.to_owned(),
            flags: all,
            kills: 0,
            checks: 0,
        }
    }

    pub fn address(&self) -> &str {
        &self.process.address
    }

    /// Kills it in one of several ways, and starts it again at the same address.
    pub async fn crash_and_restart(&mut self, rng: &mut Rng) {
        if rng.u8(..8) == 0 {
            // Also while it is shutting down.
            self.process.signal("TERM");
            sleep(Duration::from_micros(rng.u64(..30_000))).await;
        }
        self.process.signal("KILL");
        self.process.exit().await;
        self.kills += 1;
        if rng.u8(..3) == 0 {
            self.check().await;
        }
        // Also while it starts.
        while rng.u8(..4) == 0 {
            let mut child = command(SUMD)
                .args(["serve", "--listen", self.address()])
                .args(&self.flags)
                .stderr(Stdio::null())
                .kill_on_drop(true)
                .spawn()
                .expect("the program is built");
            sleep(Duration::from_micros(rng.u64(..100_000))).await;
            child.kill().await.expect("it runs until then");
            self.kills += 1;
        }
        self.process = serve(self.address(), &self.flags).await;
        if rng.u8(..3) == 0 {
            self.check().await;
        }
    }

    /// Stops it with SIGTERM, and checks the data that it leaves.
    pub async fn stop(&mut self) {
        self.process.signal("TERM");
        let exit = self.process.exit().await;
        assert!(exit.success(), "{exit:?}");
        self.check().await;
    }

    /// `sumd check` finds no problem, whether the server is running or not.
    pub async fn check(&mut self) {
        let data = self.data.display().to_string();
        let found = run(&["check", "--data-dir", &data]).await;
        assert!(found.status.success(), "sumd check: {found:?}");
        self.checks += 1;
    }
}

async fn serve(address: &str, flags: &[String]) -> Process {
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    Process::serve_at(address, &flags).await
}
