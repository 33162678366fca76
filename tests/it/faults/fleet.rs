//! Three members of etcd and three nodes of sumd, with a proxy between any two of them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sumd::etcd::{Client, Doubt, Outcome, get, prefix_end};
use sumd::proto::etcd::etcdserverpb::DeleteRangeRequest;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::clock::Shim;
use super::mutants::{Mutant, Mutator};
use super::node::Node;
use crate::crash::link::Servers;
use crate::etcd::cluster::{Cluster, QUICK_LOGIN};
use crate::etcd::proxy::Way;
use crate::etcd::quota::{self, insist};
use crate::etcd::{in_time, put_request};

/// Number of members, and of nodes.
pub const SIZE: usize = 3;

/// The deadlines of clients: some give up early, and others outlast every deadline of a node.
const DEADLINES: [Duration; 6] = [
    Duration::from_secs(1),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(20),
];
/// The longest time without any answer, on a busy machine.
const OUTAGE: Duration = Duration::from_mins(1);

/// The members' quota: all that a run writes between two compactions, with much to spare.
const QUOTA: u64 = 64 << 20;
/// Interval of compactions. Readers at an earlier revision must cope with them.
const COMPACTION: Duration = Duration::from_secs(2);

/// Prefix of the keys that fill etcd up.
const JUNK: &str = "junk/";

pub struct Fleet {
    pub cluster: Cluster,
    pub nodes: Vec<Node>,
    /// The program that a node is upgraded to.
    pub upgrade_to: Option<PathBuf>,
    /// A client without a proxy, which no fault reaches.
    client: Client,
    _mutators: Vec<Mutator>,
    _janitor: JoinSet<()>,
    _shim: Shim,
}

impl Fleet {
    pub async fn start(flags: &[String], mutant: Option<Mutant>) -> Self {
        let quota = QUOTA.to_string();
        let flags_of_etcd = [&QUICK_LOGIN[..], &["--quota-backend-bytes", &quota]].concat();
        let cluster = Cluster::start_apart(SIZE, &flags_of_etcd).await;
        let cluster = cluster.with_users().await;
        let mut hosts = cluster.address().hosts;
        let mut mutators = Vec::new();
        if let Some(mutant) = mutant {
            for host in &mut hosts {
                let mutator = Mutator::start(mutant, host, &cluster.root()).await;
                *host = mutator.host.clone();
                mutators.push(mutator);
            }
        }
        let shim = Shim::compile().await;
        let mut nodes = Vec::new();
        for i in 0..SIZE {
            let mut node = Node::new(format!("n{i}"), &hosts, &shim, flags).await;
            node.start().await;
            nodes.push(node);
        }
        let client = cluster.root();
        let mut janitor = JoinSet::new();
        janitor.spawn(compact(client.clone()));
        Self {
            cluster,
            nodes,
            upgrade_to: std::env::var_os("SUMD_UPGRADE_TO").map(PathBuf::from),
            client,
            _mutators: mutators,
            _janitor: janitor,
            _shim: shim,
        }
    }

    /// The nodes' addresses, as clients see them.
    pub fn servers(&self) -> Servers {
        let hosts = self.nodes.iter().map(|node| &node.clients.host);
        let addresses: Vec<Arc<str>> = hosts.map(|host| host.to_string().into()).collect();
        Servers {
            addresses: addresses.into(),
            deadlines: &DEADLINES,
            outage: OUTAGE,
            one_lane: false,
            guesses: false,
        }
    }

    /// Sets the treatment of all connections between nodes.
    pub fn set_peers(&self, way: Way) {
        for node in &self.nodes {
            node.peers.set(way);
        }
    }

    /// The index of the leader, or of a member that does not lead.
    pub async fn member(&mut self, leads: bool) -> usize {
        let name = self.cluster.leader().await.name.clone();
        let mut members = self.cluster.members.iter();
        let found = members.position(|member| (member.name == name) == leads);
        found.expect("there are several")
    }

    /// Sets the treatment of the connections between a member and the others, in both directions.
    pub async fn set_apart(&mut self, member: usize, way: Way) {
        let client = &self.client;
        let ids = insist(async || {
            let members = client.members(in_time()).await.into_iter();
            members.map(|(_, member)| Ok(member?.id)).collect()
        });
        let ids: Vec<u64> = ids.await;
        for (i, id) in ids.into_iter().enumerate() {
            if i == member {
                for other in (0..SIZE).filter(|other| *other != member) {
                    self.cluster.peers[other].set_for(id, way);
                }
            } else {
                self.cluster.peers[member].set_for(id, way);
            }
        }
    }

    /// Connects the members again.
    pub fn join(&self) {
        for proxy in &self.cluster.peers {
            proxy.set(Way::Open);
        }
    }

    /// Writes until etcd accepts no more.
    pub async fn fill(&self) {
        for i in 0.. {
            let mut request = put_request(&format!("{JUNK}{i}"), "");
            request.value = vec![0; 1 << 20].into();
            match self.client.put(request, in_time()).await {
                Err(error) if error.outcome == Outcome::Unknown(Doubt::NoSpace) => return,
                Err(error) => assert!(error.is_passing(), "{error}"),
                Ok(_) => {}
            }
        }
    }

    /// Makes space, as an operator does.
    pub async fn make_room(&self) {
        let junk = DeleteRangeRequest {
            key: JUNK.into(),
            range_end: prefix_end(JUNK.as_bytes()),
            ..DeleteRangeRequest::default()
        };
        let client = &self.client;
        let done = insist(|| client.delete_range(junk.clone(), in_time())).await;
        let revision = done.header.expect("a header").revision;
        quota::make_room(&self.cluster, client, revision, QUOTA / 2).await;
    }
}

/// Compacts etcd's history at an interval.
async fn compact(client: Client) {
    loop {
        sleep(COMPACTION).await;
        let deadline = Instant::now() + COMPACTION;
        if let Ok(found) = client.range(get("none"), deadline).await {
            let revision = found.header.expect("a header").revision;
            // The next compaction will do as well.
            let _ = client.compact(revision, deadline).await;
        }
    }
}
