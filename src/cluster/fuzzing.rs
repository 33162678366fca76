//! The keys of nodes in etcd, which other versions and other programs may write.

// A panic is how a target reports what it found.
#![allow(clippy::missing_panics_doc)]

use super::node::{Node, known_format};
use crate::store::etcd::FORMAT;

/// The value of a node's key: one that is accepted names a node that can be reached, and is the same after another node
/// has written it.
pub fn node(bytes: &[u8]) {
    let _ = known_format(bytes);
    let Ok(node) = Node::from_value(bytes) else {
        return;
    };
    assert_eq!(node.check(), Ok(()));
    let value = node.to_value();
    assert_eq!(Node::from_value(&value), Ok(node));
    assert_eq!(known_format(&value), u64::from(FORMAT));
}
