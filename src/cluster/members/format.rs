//! Raises the format of the data once every node knows the newest one.
//!
//! In a rolling upgrade, that is when the last older node has stopped. An older node that is running but not found,
//! because its lease has expired, cannot write any more: each of its transactions compares the row that is written
//! here.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use super::super::{View, node};
use crate::etcd::{Client, not_after, prefix};
use crate::store::etcd::{FORMAT, OpenError, raise_format};

/// Timeout of one answer of etcd.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause between two attempts.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// Interval at which the nodes are checked even if none has changed.
const INTERVAL: Duration = Duration::from_mins(1);

/// Runs until the data have the newest format, or are closed.
pub(super) async fn raise(
    client: Client,
    data: String,
    folder: String,
    mut view: watch::Receiver<Arc<View>>,
) {
    loop {
        match try_raise(&client, &data, &folder).await {
            Ok(true) | Err(OpenError::Data(_)) => return,
            Ok(false) => {
                // After the timeout, the nodes are checked even if none has changed.
                let _ = timeout(INTERVAL, view.changed()).await;
            }
            Err(error) => debug!("cannot raise the format: {error}"),
        }
        sleep(RETRY_DELAY).await;
    }
}

/// Raises the format. Returns `false` if not all nodes know the newest format, or another node has joined meanwhile.
async fn try_raise(client: &Client, data: &str, folder: &str) -> Result<bool, OpenError> {
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    let found = client.range(prefix(folder.to_owned(), 0), deadline).await;
    let found = found.map_err(|error| OpenError::Unavailable(error.to_string()))?;
    let mut nodes = found.kvs.iter();
    if !nodes.all(|row| node::known_format(&row.value) >= FORMAT.into()) {
        return Ok(false);
    }
    let revision = found.header.map_or(0, |header| header.revision);
    raise_format(client, data, not_after(folder.to_owned(), revision)).await
}
