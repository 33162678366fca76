//! A cluster of etcd on this machine, with a folder on disk for each member.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use sumd::etcd::{Address, Client, Host, Member, Options};
use tokio::{process::Command, time::Instant};

use crate::{
    counters::store::{Folder, READY_TIMEOUT},
    process::Processes,
    server::{Running, bound_to_us, free_address},
};

const READY_PAUSE: Duration = Duration::from_millis(20);

/// Maximum time for a member to report its status.
const PATIENCE: Duration = Duration::from_secs(10);

/// Members that share a few processors are late now and then, which should cause no election.
const SLOW: [&str; 4] = ["--heartbeat-interval", "200", "--election-timeout", "2000"];

pub struct Etcd {
    members: Vec<Running>,
    pub address: Address,
    folders: Vec<Folder>,
}

impl Etcd {
    /// Starts `size` new members, and waits until they have a leader.
    pub async fn start(program: &Path, size: usize) -> Result<Self> {
        let mut etcd = Self {
            members: Vec::new(),
            address: Address {
                tls: false,
                hosts: Vec::new(),
            },
            folders: Vec::new(),
        };
        let mut peers = Vec::new();
        for member in 0..size {
            peers.push(format!("m{member}=http://{}", free_address()?));
            etcd.folders.push(Folder::new(&format!("etcd-{member}"))?);
        }
        etcd.folders[0].sync().await?;
        for (peer, folder) in peers.iter().zip(&etcd.folders) {
            let address = free_address()?;
            let command = command(program, folder, &address.to_string(), peer, &peers)?;
            etcd.members.push(Running::spawn(command, "etcd", address)?);
            etcd.address.hosts.push(address.to_string().parse()?);
        }
        etcd.ready().await?;
        Ok(etcd)
    }

    async fn ready(&mut self) -> Result<()> {
        for (running, host) in self.members.iter_mut().zip(&self.address.hosts) {
            let answers = async || {
                let leader = member(host).await?.leader;
                leader.map(drop).context("it has no leader")
            };
            running.ready(READY_PAUSE, READY_TIMEOUT, answers).await?;
        }
        Ok(())
    }

    /// Options of clients that call the leader, which saves the hop through another member.
    pub async fn leader(&self) -> Result<Options> {
        for host in &self.address.hosts {
            let member = member(host).await?;
            if member.leader == Some(member.id) {
                let mut options = Options::new(&self.address);
                options.endpoints = vec![host.clone()];
                return Ok(options);
            }
        }
        bail!("no leader")
    }

    /// The size of the largest member's database; 0 if all members are dead.
    pub async fn database_mib(&self) -> Result<f64> {
        let mut most = 0.0;
        let living = self.members.iter().zip(&self.address.hosts);
        for (_, host) in living {
            #[allow(clippy::cast_precision_loss)]
            let bytes = member(host).await?.database_bytes as f64;
            most = f64::max(most, bytes / f64::from(1 << 20));
        }
        Ok(most)
    }

    pub fn processes(&self) -> impl Iterator<Item = Processes> {
        self.members.iter().map(|member| member.processes)
    }

    /// Kills all members.
    pub async fn kill(&mut self) -> Result<()> {
        for member in self.members.drain(..) {
            member.kill().await?;
        }
        Ok(())
    }
}

/// The status of a member, asked directly.
async fn member(host: &Host) -> Result<Member> {
    let mut options = Options::new(&format!("etcd://{host}").parse()?);
    options.timeouts.connect = PATIENCE;
    let client = Client::new(options)?;
    let mut members = client.members(Instant::now() + PATIENCE).await;
    ensure!(members.len() == 1, "one was asked");
    Ok(members.remove(0).1?)
}

fn command(
    program: &Path,
    folder: &Folder,
    address: &str,
    peer: &str,
    peers: &[String],
) -> Result<Command> {
    let (name, peer_url) = peer.split_once('=').context("a name and a URL")?;
    let url = format!("http://{address}");
    let mut command = bound_to_us(program);
    command
        .args(["--name", name, "--data-dir"])
        .arg(folder.path().join("data"))
        .args(["--logger", "zap", "--log-level", "error"])
        .args(["--listen-client-urls", &url])
        .args(["--advertise-client-urls", &url])
        .args(["--listen-peer-urls", peer_url])
        .args(["--initial-advertise-peer-urls", peer_url])
        .args(["--initial-cluster", &peers.join(",")]);
    if peers.len() > 1 {
        command.args(SLOW);
    }
    Ok(command)
}
