//! A server under test: started, measured through `/proc`, and killed at the end.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, File},
    iter::repeat_with,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use fastrand::Rng;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    time::{sleep, timeout},
};

use crate::{
    grpc::Client,
    process::Processes,
    works::{Protocol, Server, query},
};

/// A server for sums has this core to itself; load and bench share the other.
const SERVER_CORE: &str = "0";
pub const LOAD_CORE: &str = "1";
/// The cores for works in which servers and load share them.
pub const BOTH_CORES: &str = "0,1";

/// Lower ports belong to well-known programs.
const FIRST_PORT: u16 = 10_000;

const READY_TIMEOUT: Duration = Duration::from_secs(10);
const READY_PAUSE: Duration = Duration::from_millis(20);
const END_TIMEOUT: Duration = Duration::from_secs(20);

pub struct Running {
    pub address: SocketAddr,
    pub processes: Processes,
    child: Child,
}

impl Running {
    /// Starts `server` on a free port, and waits until it answers.
    pub async fn start(server: &Server, program: &Path) -> Result<Self> {
        let address = free_address()?;
        let mut command = bound_to_us("taskset");
        command
            .args(["-c", SERVER_CORE])
            .arg(program)
            .args(server.arguments)
            .arg(address.to_string());
        let mut running = Self::spawn(command, server.name, address)?;
        let answers = async || match server.protocol {
            Protocol::Grpc => add_once(server, address).await,
            Protocol::NetRpc => Ok(TcpStream::connect(address).await.map(drop)?),
        };
        running.ready(READY_PAUSE, READY_TIMEOUT, answers).await?;
        Ok(running)
    }

    /// Runs a command of [`bound_to_us`], with its output in the log with this name.
    pub fn spawn(mut command: Command, log: &str, address: SocketAddr) -> Result<Self> {
        let log = program_log(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot run setpriv and taskset (util-linux)")?;
        let id = child.id().context("a process that has just started")?;
        Ok(Self {
            address,
            processes: Processes::new(id),
            child,
        })
    }

    /// Repeats `answers` until it succeeds.
    pub async fn ready(
        &mut self,
        pause: Duration,
        limit: Duration,
        answers: impl AsyncFn() -> Result<()>,
    ) -> Result<()> {
        let tries = async {
            loop {
                if let Some(status) = self.child.try_wait()? {
                    bail!("ended at its start with {status}; see its log in the target folder");
                }
                if answers().await.is_ok() {
                    return Ok(());
                }
                sleep(pause).await;
            }
        };
        timeout(limit, tries).await.context("not ready in time")?
    }

    pub async fn kill(mut self) -> Result<()> {
        self.child.kill().await.context("cannot kill it")
    }

    /// Stops it with SIGTERM, so that a server with instrumentation writes its profile.
    pub async fn end(self) -> Result<()> {
        self.end_by("TERM").await
    }

    /// Sends it a signal that stops it, and waits for its end.
    pub async fn end_by(mut self, signal: &str) -> Result<()> {
        let id = self.child.id().context("it has ended before")?;
        run(Command::new("sh").args(["-c", &format!("kill -s {signal} {id}")])).await?;
        let ended = timeout(END_TIMEOUT, self.child.wait()).await;
        ended.context("does not end")??;
        Ok(())
    }
}

async fn add_once(server: &Server, address: SocketAddr) -> Result<()> {
    let query = server.expect(query(&mut Rng::with_seed(0), 1, 3, 20));
    Client::connect(address, "sum.v1.SumService/Add")
        .await?
        .add(&query)
        .await
}

/// A free address that is never assigned automatically. Outgoing connections have ports from a range of their own, and
/// must not take that of a server that is about to start.
pub fn free_address() -> Result<SocketAddr> {
    static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    let first = range.split_whitespace().next();
    let first: u16 = first.context("a range of ports")?.parse()?;
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut free = repeat_with(|| fastrand::u16(FIRST_PORT..first.max(2 * FIRST_PORT)))
        .map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
        .filter(|address| TcpListener::bind(address).is_ok())
        .filter(|address| taken.insert(address.port()));
    free.next().context("ports do not end")
}

fn program_log(name: &str) -> Result<File> {
    let path = beside_us(&format!("{name}.log"))?;
    File::options()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// A path in the folder of this program, in which `run` puts the peers too.
pub fn beside_us(name: &str) -> Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name(name))
}

/// A command that the kernel kills when this process ends, however it ends, and that is killed when it is dropped.
pub fn bound_to_us(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL"])
        .arg(program)
        .kill_on_drop(true);
    command
}

/// Runs a command that must succeed, and returns its output.
pub async fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().await;
    let output = output.with_context(|| format!("cannot run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{:?} ended with {}: {}",
        command,
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// Moves this process, and those that it starts from now on, to these cores.
pub async fn pin_ourselves(cores: &str) -> Result<()> {
    let mut taskset = Command::new("taskset");
    taskset.args(["-a", "-p", "-c", cores, &std::process::id().to_string()]);
    run(&mut taskset)
        .await
        .context("the bench needs two cores: one for the server, one for the load")?;
    Ok(())
}
