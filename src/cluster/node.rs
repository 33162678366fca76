//! A node, and how it is written down where all nodes and clients find it.
//!
//! The value is etcd's own for gRPC's naming, so that a Go program can dial `etcd:///<prefix>/nodes` with etcd's
//! resolver: `Op`, `Addr` and `Metadata` are the resolver's, `Node` is ours, and the resolver passes over it. What is ours
//! does not stand in `Metadata`: resolvers before etcd 3.6 hand that on to gRPC, which compares it, and in Go to compare
//! two objects ends the program.
//!
//! Such a program has to name an authority of its own (`grpc.WithAuthority`): by default it is the target, and HTTP/2 as it
//! is spoken here refuses one with a slash.

use std::fmt;

use http::uri::Authority;
use prost_types::Timestamp;
use serde_json::{Value, json};

use super::ClockState;
use crate::store::etcd::FORMAT;

/// Ids stand in keys, logs and tables.
const MAX_ID_BYTES: usize = 128;

/// A node of the cluster, as it tells of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its name, which it keeps when it is started again.
    pub id: String,
    /// Where others reach it, clients as well as nodes: `host:port`.
    pub address: String,
    /// The version of sumd.
    pub version: String,
    /// The version of what nodes say to each other.
    pub protocol: u32,
    /// When it was started, by its own clock.
    pub started: Timestamp,
    /// It is about to stop, and owns no lanes.
    pub draining: bool,
    /// The state of its clock.
    pub clock: ClockState,
}

/// What a node tells of itself cannot be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InvalidNode {
    /// The id cannot stand in a key.
    Id(String),
    /// Nobody can connect to the address.
    Address(String),
}

impl fmt::Display for InvalidNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(
                f,
                "the node's id is {id:?}; it takes 1 to {MAX_ID_BYTES} letters, digits, dots, dashes and underscores"
            ),
            Self::Address(address) => write!(
                f,
                "the node's address is {address:?}; others need host:port, with a port that is not 0"
            ),
        }
    }
}

impl std::error::Error for InvalidNode {}

/// The value of a key is no node's.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotANode {
    /// It is no JSON.
    Json(String),
    /// A member is missing, or of another kind.
    Member(&'static str),
}

impl fmt::Display for NotANode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(problem) => f.write_str(problem),
            Self::Member(name) => write!(f, "{name} is not what it should be"),
        }
    }
}

impl Node {
    /// # Errors
    /// Where others could not find or reach it.
    pub fn check(&self) -> Result<(), InvalidNode> {
        let may_stand = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if !(1..=MAX_ID_BYTES).contains(&self.id.len()) || !self.id.chars().all(may_stand) {
            return Err(InvalidNode::Id(self.id.clone()));
        }
        let authority = self.address.parse::<Authority>().ok();
        let port = authority.filter(|authority| !authority.host().is_empty());
        match port.and_then(|authority| authority.port_u16()) {
            Some(1..) => Ok(()),
            _ => Err(InvalidNode::Address(self.address.clone())),
        }
    }

    /// What others read.
    pub(super) fn to_value(&self) -> Vec<u8> {
        let mut value = json!({
            "Op": 0,
            "Addr": self.address,
            "Metadata": null,
            "Node": {
                "id": self.id,
                "version": self.version,
                "protocol": self.protocol,
                "started": self.started.to_string(),
                "draining": self.draining,
                "format": FORMAT,
            },
        });
        if let Some(clock) = self.clock.name() {
            value["Node"]["clock"] = clock.into();
        }
        value.to_string().into_bytes()
    }

    /// What another one has written. Members that we do not know may have come with a later version.
    pub(super) fn from_value(value: &[u8]) -> Result<Self, NotANode> {
        let value: Value =
            serde_json::from_slice(value).map_err(|error| NotANode::Json(error.to_string()))?;
        let node = &value["Node"];
        let text = |value: &Value, name| {
            let text = value.as_str().map(str::to_owned);
            text.ok_or(NotANode::Member(name))
        };
        let protocol = node["protocol"].as_u64();
        let protocol = protocol.and_then(|version| u32::try_from(version).ok());
        let started = text(&node["started"], "Node.started")?;
        let node = Self {
            id: text(&node["id"], "Node.id")?,
            address: text(&value["Addr"], "Addr")?,
            version: text(&node["version"], "Node.version")?,
            protocol: protocol.ok_or(NotANode::Member("Node.protocol"))?,
            started: started
                .parse()
                .map_err(|_| NotANode::Member("Node.started"))?,
            draining: node["draining"]
                .as_bool()
                .ok_or(NotANode::Member("Node.draining"))?,
            clock: ClockState::from_name(node["clock"].as_str()),
        };
        match node.check() {
            Ok(()) => Ok(node),
            Err(InvalidNode::Id(_)) => Err(NotANode::Member("Node.id")),
            Err(InvalidNode::Address(_)) => Err(NotANode::Member("Addr")),
        }
    }
}

/// The newest format of the data in etcd that the node knows which has written this. Those that do not say so are older than
/// that they could.
pub(super) fn known_format(value: &[u8]) -> u64 {
    let value: Option<Value> = serde_json::from_slice(value).ok();
    let format = value.and_then(|value| value["Node"]["format"].as_u64());
    format.unwrap_or(0)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn node(id: &str) -> Node {
        Node {
            id: id.to_owned(),
            address: format!("{id}.example:8080"),
            version: "0.1.0".to_owned(),
            protocol: 1,
            started: Timestamp {
                seconds: 1_795_000_000,
                nanos: 0,
            },
            draining: false,
            clock: ClockState::Unknown,
        }
    }

    #[test]
    fn nodes_read_back_as_they_are_written() {
        let mut node = node("sumd-0");
        for draining in [false, true] {
            node.draining = draining;
            assert_eq!(Node::from_value(&node.to_value()), Ok(node.clone()));
            node.clock = ClockState::Off;
        }
    }

    /// Other versions of sumd, and resolvers of other languages, read this.
    #[test]
    fn the_value_is_what_it_always_was() {
        let expected = json!({
            "Op": 0,
            "Addr": "sumd-0.example:8080",
            "Metadata": null,
            "Node": {
                "id": "sumd-0",
                "version": "0.1.0",
                "protocol": 1,
                "started": "2026-11-18T11:06:40Z",
                "draining": false,
                "format": 4,
            },
        });
        let value = node("sumd-0").to_value();
        assert_eq!(
            serde_json::from_slice::<Value>(&value).expect("JSON"),
            expected
        );
    }

    #[test]
    fn what_others_cannot_use_is_refused() {
        for id in ["", "a/b", "ä", "a b", &"x".repeat(MAX_ID_BYTES + 1)] {
            let mut node = node("a");
            id.clone_into(&mut node.id);
            assert_eq!(node.check(), Err(InvalidNode::Id(id.to_owned())));
        }
        for address in ["", "a", "a:0", ":8080", "http://a:1", "a:65536", "unix:/a"] {
            let mut node = node("a");
            address.clone_into(&mut node.address);
            assert_eq!(node.check(), Err(InvalidNode::Address(address.to_owned())));
            assert!(Node::from_value(&node.to_value()).is_err());
        }
        for address in ["a:1", "10.0.0.1:8080", "[::1]:8080"] {
            let mut node = node("a");
            address.clone_into(&mut node.address);
            assert_eq!(node.check(), Ok(()));
        }
        assert!(Node::from_value(b"{}").is_err());
        assert!(Node::from_value(b"x").is_err());
    }
}
