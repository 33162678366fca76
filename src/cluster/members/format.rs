//! Raises the format of the data, once every node that takes part knows the newest one.
//!
//! In a rolling upgrade that is when the last of the older nodes is gone. One that is there and not found, since its lease has
//! run out, can write nothing any more, whatever it believes: each of its transactions compares the row that is written here.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use super::super::{View, node};
use crate::etcd::{Client, not_after, prefix};
use crate::store::etcd::{FORMAT, OpenError, raise_format};

/// For one answer of etcd's.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// After an answer that was none.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// When the nodes are looked at again although none of them has changed.
const INTERVAL: Duration = Duration::from_mins(1);

/// Ends once the data are of the newest format, or closed.
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
                // Whether something has changed or not, it is looked at again.
                let _ = timeout(INTERVAL, view.changed()).await;
            }
            Err(error) => debug!("the format stays as it is: {error}"),
        }
        sleep(RETRY_DELAY).await;
    }
}

/// `false` if not all nodes know the newest format, or one has come meanwhile.
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
