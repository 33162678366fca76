//! Clusters of etcd, of one member or three.

use std::time::Duration;

use futures_util::future::join_all;
use sumd::store::etcd::client::{Address, Client, Options};
use tokio::time::sleep;

use super::member::{Member, Ports};
use crate::support::soon;

/// Members on free ports, which die with the test.
pub struct Cluster {
    pub members: Vec<Member>,
    tls: bool,
}

impl Cluster {
    /// Starts a cluster and waits until it is well.
    pub async fn start(size: usize, flags: &[&str]) -> Self {
        Self::start_with(size, flags, false).await
    }

    /// The same for clients who speak TLS; how, the flags have to say.
    pub async fn start_with(size: usize, flags: &[&str], tls: bool) -> Self {
        let ports: Vec<_> = (0..size).map(|_| Ports::free()).collect();
        let name = |i: usize| format!("m{i}");
        let peer = |ports: &Ports| format!("http://127.0.0.1:{}", ports.peer);
        let all = ports.iter().enumerate();
        let all: Vec<_> = all
            .map(|(i, ports)| format!("{}={}", name(i), peer(ports)))
            .collect();
        let token = format!("sumd-{:016x}", fastrand::u64(..));
        let scheme = if tls { "https" } else { "http" };
        let members = ports.iter().enumerate().map(|(i, ports)| {
            let client = format!("{scheme}://127.0.0.1:{}", ports.client);
            let pairs = [
                ("--listen-client-urls", client.clone()),
                ("--advertise-client-urls", client),
                ("--listen-peer-urls", peer(ports)),
                ("--initial-advertise-peer-urls", peer(ports)),
                (
                    "--listen-metrics-urls",
                    format!("http://127.0.0.1:{}", ports.health),
                ),
                ("--initial-cluster", all.join(",")),
                ("--initial-cluster-token", token.clone()),
            ];
            let mut flags_of_it: Vec<String> = Vec::new();
            for (flag, value) in pairs {
                flags_of_it.extend([flag.to_owned(), value]);
            }
            if size > 1 {
                // Members that share few processors are late now and then, which is no reason for an election.
                let slow = ["--heartbeat-interval", "200", "--election-timeout", "2000"];
                flags_of_it.extend(slow.map(str::to_owned));
            }
            flags_of_it.extend(flags.iter().map(|flag| (*flag).to_owned()));
            Member::new(name(i), *ports, flags_of_it)
        });
        let mut cluster = Self {
            members: members.collect(),
            tls,
        };
        for member in &mut cluster.members {
            member.start();
        }
        cluster.healthy().await;
        cluster
    }

    /// Waits until all members are well.
    pub async fn healthy(&self) {
        join_all(self.members.iter().map(Member::healthy)).await;
    }

    pub fn address(&self) -> Address {
        Address {
            tls: self.tls,
            hosts: self.members.iter().map(Member::host).collect(),
        }
    }

    pub fn options(&self) -> Options {
        Options::new(&self.address())
    }

    /// A client of all members.
    pub fn client(&self) -> Client {
        Client::new(self.options()).expect("no TLS")
    }

    /// The member that leads, of those that run.
    pub async fn leader(&mut self) -> &mut Member {
        let found = async {
            loop {
                for (i, member) in self.members.iter().enumerate() {
                    if member.runs() && member.leads().await {
                        return i;
                    }
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        let leader = soon(found).await;
        &mut self.members[leader]
    }

    /// The member that a client uses now.
    pub fn used_by(&mut self, client: &Client) -> &mut Member {
        let endpoint = client.endpoint().expect("it is connected");
        let mut members = self.members.iter_mut();
        let used = members.find(|member| member.host() == endpoint);
        used.expect("it is one of these")
    }
}
