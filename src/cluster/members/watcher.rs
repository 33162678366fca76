//! Follows the keys of all nodes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::super::{Node, View};
use crate::etcd::{Batch, Client, Error, prefix};
use crate::proto::etcd::mvccpb::KeyValue;
use crate::proto::etcd::mvccpb::event::EventType;

/// Timeout of one read.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two reads.
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// Reads the nodes whose keys begin with `folder`, and publishes every change, until it is dropped.
pub(super) async fn follow(client: Client, folder: String, views: watch::Sender<Arc<View>>) {
    loop {
        match read(&client, &folder).await {
            Ok((mut nodes, revision)) => {
                nodes.publish(revision, &views);
                let mut watch = client.watch(folder.clone(), revision + 1);
                let error = loop {
                    match watch.next().await {
                        Ok(batch) => nodes.take(batch, &views),
                        Err(error) => break error,
                    }
                };
                info!("reading the nodes again: {error}");
            }
            // An earlier view stays; or `Members::join` reports that there is none.
            Err(error) => debug!("cannot read the nodes: {error}"),
        }
        sleep(RETRY_DELAY).await;
    }
}

async fn read(client: &Client, folder: &str) -> Result<(Nodes, i64), Error> {
    let deadline = Instant::now() + READ_TIMEOUT;
    // The nodes are few, so one page holds all.
    let found = client.range(prefix(folder.to_owned(), 0), deadline).await?;
    let mut nodes = Nodes::default();
    for kv in found.kvs {
        nodes.put(kv);
    }
    Ok((nodes, found.header.map_or(0, |header| header.revision)))
}

/// The nodes by key.
#[derive(Default)]
struct Nodes(BTreeMap<Bytes, Node>);

impl Nodes {
    fn put(&mut self, kv: KeyValue) {
        match Node::from_value(&kv.value) {
            Ok(node) if kv.key.ends_with(node.id.as_bytes()) => {
                self.0.insert(kv.key, node);
            }
            Ok(node) => {
                warn!(id = node.id, key = %kv.key.escape_ascii(), "the key does not match the node's id");
                self.0.remove(&kv.key);
            }
            Err(error) => {
                warn!(key = %kv.key.escape_ascii(), %error, "the value of this key is not a node");
                self.0.remove(&kv.key);
            }
        }
    }

    fn take(&mut self, batch: Batch, views: &watch::Sender<Arc<View>>) {
        if batch.events.is_empty() {
            return;
        }
        for event in batch.events {
            let deleted = event.r#type() == EventType::Delete;
            match event.kv {
                Some(kv) if deleted => drop(self.0.remove(&kv.key)),
                Some(kv) => self.put(kv),
                None => {}
            }
        }
        self.publish(batch.revision, views);
    }

    /// Publishes a new view if the nodes have changed.
    fn publish(&self, revision: i64, views: &watch::Sender<Arc<View>>) {
        views.send_if_modified(|view| {
            if view.revision() > 0 && self.0.values().eq(view.nodes()) {
                return false;
            }
            let nodes: Vec<_> = self.0.values().cloned().collect();
            info!(revision, nodes = nodes.len(), "the nodes have changed");
            *view = Arc::new(View::new(revision, nodes, view.lanes()));
            true
        });
    }
}
