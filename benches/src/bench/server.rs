//! A server under test: started on a core of its own, watched from `/proc`, killed in the end.

use std::{
    ffi::OsStr,
    fs::{self, File},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use fastrand::Rng;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    time::{sleep, timeout},
};

use crate::{
    grpc::Client,
    works::{Protocol, Server, query},
};

/// The server has this core to itself; load and bench share the other.
const SERVER_CORE: &str = "0";
const LOAD_CORE: &str = "1";

const READY_TIMEOUT: Duration = Duration::from_secs(10);
const READY_PAUSE: Duration = Duration::from_millis(20);

/// The unit of times in `/proc/<pid>/stat`: Linux reports them in hundredths on every platform
/// that it runs servers on.
const TICK: Duration = Duration::from_millis(10);

pub struct Running {
    pub address: SocketAddr,
    process: PathBuf,
    child: Child,
}

impl Running {
    /// Starts `server` on a free port, and waits until it answers.
    pub async fn start(server: &Server, program: &Path) -> Result<Self> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let log = program_log(server)?;
        let child = bound_to_us("taskset")
            .args(["-c", SERVER_CORE])
            .arg(program)
            .args(server.arguments)
            .arg(address.to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot run setpriv and taskset (util-linux)")?;
        let pid = child.id().context("a process that has just started")?;
        let mut running = Self {
            address,
            process: PathBuf::from(format!("/proc/{pid}")),
            child,
        };
        timeout(READY_TIMEOUT, running.ready(server.protocol))
            .await
            .context("not ready in time")??;
        Ok(running)
    }

    async fn ready(&mut self, protocol: Protocol) -> Result<()> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("ended at its start with {status}; see its log in the target folder");
            }
            let answered = match protocol {
                Protocol::Grpc => add_once(self.address).await,
                Protocol::NetRpc => TcpStream::connect(self.address)
                    .await
                    .map(drop)
                    .map_err(Into::into),
            };
            if answered.is_ok() {
                return Ok(());
            }
            sleep(READY_PAUSE).await;
        }
    }

    /// CPU time of all its threads so far.
    ///
    /// The scheduler's figures are exact to the nanosecond, but those of a thread go when it ends;
    /// the process's own include ended threads, to the tick. Neither ever says too much.
    pub fn cpu(&self) -> Result<Duration> {
        let threads: u64 = fs::read_dir(self.process.join("task"))?
            .filter_map(|task| fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
            .filter_map(|line| line.split(' ').next()?.parse::<u64>().ok())
            .sum();

        let stat = fs::read_to_string(self.process.join("stat"))?;
        // The name of the program comes first, in brackets, and may hold anything.
        let (_, fields) = stat.rsplit_once(") ").context("stat without a name")?;
        let ticks = |field: usize| -> Result<u32> {
            let field = fields.split(' ').nth(field).context("a short stat")?;
            Ok(field.parse()?)
        };
        let (user, system) = (ticks(11)?, ticks(12)?);

        Ok(Duration::from_nanos(threads).max(TICK * (user + system)))
    }

    /// Memory in use, in MiB.
    pub fn rss_mib(&self) -> Result<f64> {
        self.status_mib("VmRSS:")
    }

    /// The most memory that was in use since the start or the last [`Self::reset_peak`], in MiB.
    pub fn peak_rss_mib(&self) -> Result<f64> {
        self.status_mib("VmHWM:")
    }

    pub fn reset_peak(&self) -> Result<()> {
        fs::write(self.process.join("clear_refs"), "5").context("cannot reset the peak of memory")
    }

    fn status_mib(&self, key: &str) -> Result<f64> {
        let status = fs::read_to_string(self.process.join("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB"));
        Ok(kib.context("no such figure in status")?.parse::<f64>()? / 1024.0)
    }

    pub async fn kill(mut self) -> Result<()> {
        self.child.kill().await.context("cannot kill it")
    }
}

async fn add_once(address: SocketAddr) -> Result<()> {
    let query = query(&mut Rng::with_seed(0), 1, 3, 20);
    Client::connect(address, "Add").await?.add(&query).await
}

fn program_log(server: &Server) -> Result<File> {
    let path = beside_us(&format!("{}.log", server.name))?;
    File::options()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// A path in the folder of this very program, where `run` puts the peers too.
pub fn beside_us(name: &str) -> Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name(name))
}

/// A command that the kernel kills when this process ends, however it ends, and that is killed
/// when it is dropped.
pub fn bound_to_us(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL"])
        .arg(program)
        .kill_on_drop(true);
    command
}

/// Moves this process, and what it starts from now on, to the core of the load.
pub async fn pin_ourselves() -> Result<()> {
    let status = Command::new("taskset")
        .args(["-p", "-c", LOAD_CORE, &std::process::id().to_string()])
        .stdout(Stdio::null())
        .status()
        .await
        .context("cannot run taskset (util-linux)")?;
    if !status.success() {
        bail!("the bench needs two cores: one for the server, one for the load");
    }
    Ok(())
}
