//! Nodes of sumd in front of etcd, and clients spread over them.

use std::{net::SocketAddr, path::Path, time::Duration};

use ::sumd::etcd::Address;
use anyhow::{Context as _, Result, ensure};
use tokio::task::JoinSet;

use crate::{
    counters::{
        encode::{GROUP_EACH, Layout, Names, ONE_GROUP},
        store::READY_TIMEOUT,
        sumd::{self, Incrementer},
    },
    grpc::Client,
    process::Processes,
    server::{Running, bound_to_us, free_address},
};

const READY_PAUSE: Duration = Duration::from_millis(20);

/// The prefix of all nodes' data.
const PREFIX: &str = "/sumd";

pub struct Nodes {
    running: Vec<Running>,
    /// Number of acknowledged increments, each of them by 1.
    pub acknowledged: u64,
}

impl Nodes {
    /// Starts `count` nodes, with the given number of lanes or the default, and waits until each of them serves
    /// counters.
    pub async fn start(
        program: &Path,
        count: usize,
        etcd: &Address,
        lanes: Option<u32>,
    ) -> Result<Self> {
        let mut running = Vec::new();
        for node in 0..count {
            let address = free_address()?;
            let own = address.to_string();
            let mut command = bound_to_us(program);
            command
                .args(["serve", "--listen", &own, "--advertise", &own])
                .args(["--node-id", &format!("n{node}")])
                .args(["--store", &etcd.to_string(), "--etcd-prefix", PREFIX]);
            if let Some(lanes) = lanes {
                command.args(["--etcd-lanes", &lanes.to_string()]);
            }
            running.push(Running::spawn(command, "sumd-node", address)?);
        }
        for node in &mut running {
            let address = node.address;
            let serves = async || sumd::serves(address).await;
            let ready = node.ready(READY_PAUSE, READY_TIMEOUT, serves).await;
            ready.context("a node does not serve")?;
        }
        Ok(Self {
            running,
            acknowledged: 0,
        })
    }

    pub fn processes(&self) -> impl Iterator<Item = Processes> {
        self.running.iter().map(|node| node.processes)
    }

    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.running.iter().map(|node| node.address)
    }

    /// Memory in use by all of them, in MiB.
    pub fn mib(&self) -> Result<f64> {
        let mut mib = 0.0;
        for processes in self.processes() {
            mib += processes.shared_mib()?;
        }
        Ok(mib)
    }

    /// Clients for `count` concurrent calls of a method, spread evenly over the nodes.
    pub async fn clients(&self, method: &str, count: usize) -> Result<Vec<Client>> {
        let nodes = self.running.len();
        let mut of_nodes = Vec::new();
        for (node, address) in self.addresses().enumerate() {
            let some = (count + nodes - 1 - node) / nodes;
            let clients = sumd::clients(address, method, some).await?;
            of_nodes.push(clients.into_iter());
        }
        let in_turn = (0..count).filter_map(|client| of_nodes[client % nodes].next());
        Ok(in_turn.collect())
    }

    /// Clients that make unary increments of `counters` counters at random.
    pub async fn incrementers(
        &self,
        layout: Layout,
        counters: u32,
        count: usize,
    ) -> Result<Vec<Incrementer>> {
        let clients = self.clients("IncrementCounter", count).await?;
        let clients = clients.into_iter().enumerate();
        clients
            .map(|(number, client)| {
                Incrementer::new(client, Names::random(counters, number), layout)
            })
            .collect()
    }

    /// Compares the sum of all counters, at every node, with the acknowledged increments.
    pub async fn check(&self) -> Result<()> {
        for address in self.addresses() {
            let one_group = sumd::sum(address, ONE_GROUP.before).await?.sum;
            let groups = sumd::sum(address, GROUP_EACH.before).await?.sum;
            let total = one_group + groups;
            ensure!(
                u64::try_from(total)? == self.acknowledged,
                "wrong total at {address}: got {total}, want {}",
                self.acknowledged
            );
        }
        Ok(())
    }

    /// Stops all nodes at the same time, because each drains for a while.
    pub async fn end(self) -> Result<()> {
        let ends = self.running.into_iter().map(Running::end);
        let mut ends: JoinSet<_> = ends.collect();
        while let Some(ended) = ends.join_next().await {
            ended??;
        }
        Ok(())
    }
}
