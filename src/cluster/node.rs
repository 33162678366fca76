//! A node, and its representation in the key that nodes and clients read.
//!
//! The value has the format of etcd's gRPC naming, so that a Go program can dial `etcd:///<prefix>/nodes` with etcd's
//! resolver. `Op`, `Addr` and `Metadata` belong to the resolver, `Node` is sumd's, and the resolver ignores it. sumd's
//! data are not in `Metadata`, because resolvers before etcd 3.6 pass that on to gRPC, which compares it, and comparing
//! two such objects panics in Go.
//!
//! Such a program has to set an authority of its own (`grpc.WithAuthority`). By default it is the target, and the
//! HTTP/2 implementation here refuses an authority with a slash.

use std::fmt;

use http::uri::Authority;
use prost_types::Timestamp;
use serde_json::{Value, json};

use super::ClockState;
use crate::store::etcd::FORMAT;

/// Ids are parts of keys, log lines and tables.
const MAX_ID_BYTES: usize = 128;

/// A node of the cluster, as it describes itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its name, which it keeps across restarts.
    pub id: String,
    /// The address at which clients and other nodes reach it: `host:port`.
    pub address: String,
    /// The version of sumd.
    pub version: String,
    /// The version of the protocol between nodes.
    pub protocol: u32,
    /// Its start time, by its own clock.
    pub started: Timestamp,
    /// Whether it is about to stop, and owns no lanes.
    pub draining: bool,
    /// The state of its clock.
    pub clock: ClockState,
}

/// The reason why a node is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNode {
    /// The id is not allowed in a key.
    #[error("the node's id is {0:?}; expected 1 to {max} letters, digits, dots, dashes and underscores", max = MAX_ID_BYTES)]
    Id(String),
    /// The address cannot be connected to.
    #[error("the node's address is {0:?}; expected host:port, with a port other than 0")]
    Address(String),
}

/// The reason why a value is not that of a node.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotANode {
    /// It is not JSON.
    Json(String),
    /// A member is missing, or has the wrong type.
    Member(&'static str),
}

impl fmt::Display for NotANode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(problem) => f.write_str(problem),
            Self::Member(name) => write!(f, "{name} is missing or invalid"),
        }
    }
}

impl Node {
    /// Checks the id and the address.
    ///
    /// # Errors
    /// Returns an error if other nodes could not find or reach the node.
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

    /// The value for other nodes to read.
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

    /// Reads the value of another node. Unknown members are ignored, since a later version may have added them.
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

/// The newest format of the data in etcd that is known to the node which has written `value`. Values without it are of
/// versions that could not tell it yet.
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

    /// Other versions of sumd, and resolvers in other languages, read this value.
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
