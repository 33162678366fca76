//! One node of sumd, as a process of its own, with proxies on all its connections.

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

/// Time limit for a start: etcd may have no leader at first.
const PATIENCE: Duration = Duration::from_mins(1);
/// Number of last lines that are shown of a log.
const TOLD: usize = 30;

pub struct Node {
    pub name: String,
    /// The proxy between clients and the node.
    pub clients: Proxy,
    /// The proxy between the other nodes and the node.
    pub peers: Proxy,
    /// The proxies between the node and the members of etcd.
    pub etcd: Vec<Proxy>,
    pub clock: Clock,
    program: PathBuf,
    shim: PathBuf,
    flags: Vec<String>,
    folder: TempDir,
    child: Option<Child>,
}

impl Node {
    /// A node that is not running yet. `hosts` are the members of etcd.
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

    /// Starts it until it listens, again if it ends, as a supervisor does.
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

    /// Its address, unless it ends before it listens.
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

    /// Kills it.
    pub async fn kill(&mut self) {
        self.signal("KILL");
        self.exit().await;
    }

    /// Stops it with SIGTERM, which must succeed.
    pub async fn end(&mut self) {
        self.signal("TERM");
        let exit = self.exit().await;
        assert!(exit.success(), "{} has ended with {exit:?}", self.name);
    }

    /// Sets the program for the next start.
    pub fn replace(&mut self, program: &Path) {
        program.clone_into(&mut self.program);
    }

    /// Stops the process, with all its connections open.
    pub fn stop(&self) {
        self.signal("STOP");
    }

    /// Resumes the process.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// Sets the treatment of all its connections to etcd.
    pub fn set_etcd(&self, way: Way) {
        for proxy in &self.etcd {
            proxy.set(way);
        }
    }

    /// Sets the treatment of all its connections.
    pub fn set_all(&self, way: Way) {
        self.clients.set(way);
        self.peers.set(way);
        self.set_etcd(way);
    }

    /// Fails if it has ended.
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

/// The address in a log of JSON objects.
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
