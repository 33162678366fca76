//! The faults, one at a time, and how they are mended.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;

use super::fleet::{Fleet, SIZE};
use crate::etcd::proxy::Way;

/// A fault, and the node or member that it happens to.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// A node is killed with -9.
    NodeDies(usize),
    /// A node is stopped for a while.
    NodeHangs(usize),
    /// A node's clock is set forward or back.
    ClockJumps(usize, Duration, bool),
    /// Each node is replaced by another program, one after the other.
    Upgrade,
    /// The connections between a node and its clients are cut.
    ClientsCut(usize, Way),
    /// The connections between a node and all of etcd are cut.
    StoreCut(usize, Way),
    /// The connection between a node and the member that it may be using is cut.
    LinkCut(usize, usize, Way),
    /// The calls of other nodes to a node are cut.
    PeersCut(usize, Way),
    /// The connections between all nodes are cut.
    NodesApart(Way),
    /// All connections of a node are cut.
    NodeAlone(usize, Way),
    /// A node is cut off from all of etcd, while no node gets answers from others, although calls arrive: for longer
    /// than a node waits.
    NodeIsolated(usize, Way),
    /// All connections of a node are slow.
    Slow(usize, Duration),
    /// A member is killed with -9.
    MemberDies { leads: bool },
    /// A member is stopped for a while.
    MemberHangs { leads: bool },
    /// The connections of all nodes to a member are cut.
    MemberCut { leads: bool, way: Way },
    /// The leader is cut off from its followers.
    LeaderApart(Way),
    /// etcd is full.
    Full,
    /// All nodes are killed at once.
    NodesDie,
    /// All members are killed at once.
    MembersDie,
    /// A node and a member are killed at once.
    BothDie { node: usize, leads: bool },
    /// A node is stopped while a member is cut off from the others.
    HangsApart { node: usize, leads: bool, way: Way },
}

/// Ways to cut a connection.
const CUTS: [Way; 4] = [Way::Closed, Way::Silent, Way::Mute, Way::Deaf];

impl Fault {
    /// One fault of each kind, in random order.
    pub fn all(rng: &mut Rng, jump: Duration) -> Vec<Self> {
        let node = |rng: &mut Rng| rng.usize(..SIZE);
        let way = |rng: &mut Rng| CUTS[rng.usize(..CUTS.len())];
        let mut all = vec![
            Self::NodeDies(node(rng)),
            Self::NodeHangs(node(rng)),
            Self::ClockJumps(node(rng), jump.mul_f64(rng.f64()), rng.bool()),
            Self::Upgrade,
            Self::ClientsCut(node(rng), way(rng)),
            Self::StoreCut(node(rng), way(rng)),
            Self::LinkCut(node(rng), rng.usize(..SIZE), way(rng)),
            Self::PeersCut(node(rng), way(rng)),
            Self::NodesApart(way(rng)),
            Self::NodeAlone(node(rng), way(rng)),
            Self::NodeIsolated(node(rng), way(rng)),
            Self::Slow(node(rng), Duration::from_millis(rng.u64(5..100))),
            Self::MemberDies { leads: true },
            Self::MemberDies { leads: false },
            Self::MemberHangs { leads: true },
            Self::MemberHangs { leads: false },
            Self::MemberCut {
                leads: rng.bool(),
                way: way(rng),
            },
            Self::LeaderApart(if rng.bool() { Way::Closed } else { Way::Silent }),
            Self::Full,
        ];
        rng.shuffle(&mut all);
        all
    }

    /// Faults of several processes at once, in random order.
    pub fn severe(rng: &mut Rng) -> Vec<Self> {
        let way = if rng.bool() { Way::Closed } else { Way::Silent };
        let mut all = vec![
            Self::NodesDie,
            Self::MembersDie,
            Self::BothDie {
                node: rng.usize(..SIZE),
                leads: rng.bool(),
            },
            Self::HangsApart {
                node: rng.usize(..SIZE),
                leads: rng.bool(),
                way,
            },
        ];
        rng.shuffle(&mut all);
        all
    }

    /// The name of its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NodeDies(_) => "a node dies",
            Self::NodeHangs(_) => "a node hangs",
            Self::ClockJumps(..) => "a clock jumps",
            Self::Upgrade => "an upgrade",
            Self::ClientsCut(..) => "clients cut off",
            Self::StoreCut(..) => "a node cut off from etcd",
            Self::LinkCut(..) => "a node cut off from a member",
            Self::PeersCut(..) => "a node cut off from another",
            Self::NodesApart(_) => "nodes cut off from each other",
            Self::NodeAlone(..) => "a node cut off from everything",
            Self::NodeIsolated(..) => "a node cut off from all but clients",
            Self::Slow(..) => "a node's ways are slow",
            Self::MemberDies { leads: true } => "the leader dies",
            Self::MemberDies { leads: false } => "a follower dies",
            Self::MemberHangs { leads: true } => "the leader hangs",
            Self::MemberHangs { leads: false } => "a follower hangs",
            Self::MemberCut { .. } => "a member cut off from all nodes",
            Self::LeaderApart(_) => "the leader cut off from its followers",
            Self::Full => "etcd is full",
            Self::NodesDie => "all nodes die",
            Self::MembersDie => "all members die",
            Self::BothDie { .. } => "a node and a member die",
            Self::HangsApart { .. } => "a node hangs and a member is cut off",
        }
    }

    /// Whether increments can be served meanwhile, because other processes can take over from a single faulty one.
    pub fn leaves_service(&self) -> bool {
        !matches!(
            self,
            Self::Full
                | Self::NodesDie
                | Self::MembersDie
                | Self::BothDie { .. }
                | Self::HangsApart { .. }
        )
    }

    /// Its minimum duration, so that reactions of a node that come late are seen.
    pub fn lasts(&self) -> Duration {
        match self {
            Self::NodeIsolated(..) => Duration::from_secs(10),
            _ => Duration::ZERO,
        }
    }

    /// Makes it happen, and returns what is needed to mend it.
    pub async fn begin(self, fleet: &mut Fleet) -> Wound {
        let member = match self {
            Self::MemberDies { leads }
            | Self::MemberHangs { leads }
            | Self::BothDie { leads, .. }
            | Self::HangsApart { leads, .. }
            | Self::MemberCut { leads, .. } => fleet.member(leads).await,
            Self::LeaderApart(_) => fleet.member(true).await,
            _ => usize::MAX,
        };
        match self {
            Self::NodeDies(node) => fleet.nodes[node].kill().await,
            Self::NodeHangs(node) => fleet.nodes[node].stop(),
            Self::ClockJumps(node, by, forward) => fleet.nodes[node].clock.set(by, forward),
            Self::Upgrade => {
                for node in &mut fleet.nodes {
                    node.end().await;
                    if let Some(program) = &fleet.upgrade_to {
                        node.replace(program);
                    }
                    node.start().await;
                }
            }
            Self::ClientsCut(node, way) => fleet.nodes[node].clients.set(way),
            Self::StoreCut(node, way) => fleet.nodes[node].set_etcd(way),
            Self::LinkCut(node, member, way) => fleet.nodes[node].etcd[member].set(way),
            Self::PeersCut(node, way) => fleet.nodes[node].peers.set(way),
            Self::NodesApart(way) => fleet.set_peers(way),
            Self::NodeAlone(node, way) => fleet.nodes[node].set_all(way),
            Self::NodeIsolated(node, way) => {
                fleet.set_peers(Way::Mute);
                fleet.nodes[node].set_etcd(way);
            }
            Self::Slow(node, delay) => fleet.nodes[node].set_all(Way::Slow(delay)),
            Self::MemberDies { .. } => fleet.cluster.members[member].kill().await,
            Self::MemberHangs { .. } => fleet.cluster.members[member].stop(),
            Self::MemberCut { way, .. } => {
                for node in &fleet.nodes {
                    node.etcd[member].set(way);
                }
            }
            Self::LeaderApart(way) => fleet.set_apart(member, way).await,
            Self::Full => fleet.fill().await,
            Self::NodesDie => {
                for node in &mut fleet.nodes {
                    node.kill().await;
                }
            }
            Self::MembersDie => {
                for member in &mut fleet.cluster.members {
                    member.kill().await;
                }
            }
            Self::BothDie { node, .. } => {
                fleet.nodes[node].kill().await;
                fleet.cluster.members[member].kill().await;
            }
            Self::HangsApart { node, way, .. } => {
                fleet.nodes[node].stop();
                fleet.set_apart(member, way).await;
            }
        }
        Wound {
            fault: self,
            member,
        }
    }
}

/// A fault to be mended.
pub struct Wound {
    pub fault: Fault,
    /// The member that it happened to, if any.
    member: usize,
}

impl Wound {
    pub async fn mend(&self, fleet: &mut Fleet) {
        match self.fault {
            Fault::NodeDies(node) => fleet.nodes[node].start().await,
            Fault::NodeHangs(node) => fleet.nodes[node].resume(),
            Fault::ClockJumps(node, ..) => fleet.nodes[node].clock.set(Duration::ZERO, true),
            Fault::Upgrade => {}
            Fault::ClientsCut(node, _) => fleet.nodes[node].clients.set(Way::Open),
            Fault::StoreCut(node, _) => fleet.nodes[node].set_etcd(Way::Open),
            Fault::LinkCut(node, member, _) => fleet.nodes[node].etcd[member].set(Way::Open),
            Fault::PeersCut(node, _) => fleet.nodes[node].peers.set(Way::Open),
            Fault::NodesApart(_) => fleet.set_peers(Way::Open),
            Fault::NodeAlone(node, _) | Fault::Slow(node, _) => {
                fleet.nodes[node].set_all(Way::Open);
            }
            Fault::NodeIsolated(node, _) => {
                fleet.nodes[node].set_etcd(Way::Open);
                fleet.set_peers(Way::Open);
            }
            Fault::MemberDies { .. } => fleet.cluster.members[self.member].start(),
            Fault::MemberHangs { .. } => fleet.cluster.members[self.member].resume(),
            Fault::MemberCut { .. } => {
                for node in &fleet.nodes {
                    node.etcd[self.member].set(Way::Open);
                }
            }
            Fault::LeaderApart(_) => fleet.join(),
            Fault::Full => fleet.make_room().await,
            Fault::NodesDie => {
                for node in &mut fleet.nodes {
                    node.start().await;
                }
            }
            Fault::MembersDie => {
                for member in &mut fleet.cluster.members {
                    member.start();
                }
            }
            Fault::BothDie { node, .. } => {
                fleet.cluster.members[self.member].start();
                fleet.nodes[node].start().await;
            }
            Fault::HangsApart { node, .. } => {
                fleet.nodes[node].resume();
                fleet.join();
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}
