//! One sumd of several, as a process of its own, with all its ways to others through proxies.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use futures_util::future::join_all;
use sumd::etcd::{Address, Host};
use tempfile::TempDir;
use tokio::process::Child;
use tokio::time::{sleep, timeout};

use super::clock::{Clock, Shim};
use crate::crash::finding::found;
use crate::etcd::cluster::{PASSWORD, USER};
use crate::etcd::proxy::{Proxy, Way};
use crate::support::process::{SUMD, command, signal};
use crate::support::soon;

/// To start in: etcd may have no leader at first.
const PATIENCE: Duration = Duration::from_mins(1);
/// A log of which the end is told.
const TOLD: usize = 30;

pub struct Node {
    pub name: String,
    /// The clients' way to it.
    pub clients: Proxy,
    /// The other nodes' way to it.
    pub peers: Proxy,
    /// Its ways to the members of etcd.
    pub etcd: Vec<Proxy>,
    pub clock: Clock,
    program: PathBuf,
    shim: PathBuf,
    flags: Vec<String>,
    folder: TempDir,
    child: Option<Child>,
}

impl Node {
    /// A node that is not running yet. The members are found where the `hosts` are.
    pub async fn new(name: String, hosts: &[Host], shim: &Shim, flags: &[String]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let nowhere: Host = "127.0.0.1:9".parse().expect("a host");
        Self {
            name,
            clients: Proxy::start(nowhere.clone()).await,
            peers: Proxy::start(nowhere).await,
            etcd: join_all(hosts.iter().cloned().map(Proxy::start)).await,
            clock: Clock::new(folder.path().join("clock")),
            program: SUMD.into(),
            shim: shim.path(),
            flags: flags.to_vec(),
            folder,
            child: None,
        }
    }

    /// Starts it, again and again where it ends, as a supervisor does, until it listens.
    pub async fn start(&mut self) {
        let started = timeout(PATIENCE, async {
            loop {
                if let Some(address) = self.try_start().await {
                    return address;
                }
                sleep(Duration::from_millis(100)).await;
            }
        });
        let address = started.await;
        let address = address.unwrap_or_else(|_| panic!("{} does not start", self.name));
        self.clients.lead_to(address.clone());
        self.peers.lead_to(address);
    }

    /// Where it listens, if it does not end before.
    async fn try_start(&mut self) -> Option<Host> {
        assert!(self.child.is_none(), "{} runs", self.name);
        let known = self.log().len();
        let log = File::options().create(true).append(true).open(self.path());
        let store = Address {
            tls: false,
            hosts: self.etcd.iter().map(|proxy| proxy.host.clone()).collect(),
        };
        let child = command(&self.program)
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(["--store", &store.to_string()])
            .args(["--advertise", &self.peers.host.to_string()])
            .args(["--node-id", &self.name])
            .args(&self.flags)
            .env("SUMD_ETCD_USER", USER)
            .env("SUMD_ETCD_PASSWORD", PASSWORD)
            .env("LD_PRELOAD", &self.shim)
            .env("CLOCK_FILE", self.clock.file())
            .stdin(Stdio::null())
            .stderr(log.expect("a log"))
            .kill_on_drop(true)
            .spawn();
        let mut child = child.expect("the program is built");
        loop {
            if let Some(address) = listening(&self.log()[known..]) {
                self.child = Some(child);
                return Some(address);
            }
            if child.try_wait().expect("a child").is_some() {
                return None;
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Gives it no time for anything.
    pub async fn kill(&mut self) {
        self.signal("KILL");
        self.exit().await;
    }

    /// Lets it end well.
    pub async fn end(&mut self) {
        self.signal("TERM");
        let exit = self.exit().await;
        assert!(exit.success(), "{} has ended with {exit:?}", self.name);
    }

    /// Takes another program for the next start.
    pub fn replace(&mut self, program: &Path) {
        program.clone_into(&mut self.program);
    }

    /// Keeps it from running, with all its connections open.
    pub fn stop(&self) {
        self.signal("STOP");
    }

    /// Lets it run again.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// Does the same to all its ways to etcd.
    pub fn set_etcd(&self, way: Way) {
        for proxy in &self.etcd {
            proxy.set(way);
        }
    }

    /// Does the same to all ways to it, and to those from it to etcd.
    pub fn set_all(&self, way: Way) {
        self.clients.set(way);
        self.peers.set(way);
        self.set_etcd(way);
    }

    /// Fails where it has ended by itself.
    pub fn assert_runs(&mut self) {
        let ended = self.child.as_mut().and_then(|child| child.try_wait().ok());
        let ended = ended.unwrap_or_else(|| panic!("{} is not known to run", self.name));
        if let Some(status) = ended {
            let log = self.log();
            let last = log.lines().last().unwrap_or_default();
            found(format!(
                "{} has ended by itself, {status}: {last}",
                self.name
            ));
        }
    }

    async fn exit(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        soon(child.wait()).await.expect("a child")
    }

    fn signal(&self, name: &str) {
        signal(self.child.as_ref().expect("it runs"), name);
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path()).unwrap_or_default()
    }
}

/// What a log of JSON objects says of where the server listens.
fn listening(log: &str) -> Option<Host> {
    let (_, rest) = log.split_once("\"listening on ")?;
    let (address, _) = rest.split_once('"')?;
    address.parse().ok()
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(TOLD)..];
            eprintln!("the end of the log of {}:\n{}", self.name, last.join("\n"));
        }
    }
}
