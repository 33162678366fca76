//! Seals data that are being moved, so that no node changes them any more.
//!
//! Sealed data are in one of two states. While the move is in progress, no other copy is usable: the move may start
//! again or be undone. Completion is recorded before the target gets its name. After that the target may have served
//! increments, even if it is no longer there. This record decides the state, not the presence of the target.

use std::path::Path;

use bytes::Bytes;

use crate::etcd::prefix;
use crate::maintenance::etcd::import::swap;
use crate::maintenance::report::ToolError;
use crate::proto::sumd::store::v1::Meta;
use crate::store::etcd::Location;
use crate::store::etcd::kv::{self, Kv};
use crate::store::etcd::rows::{FORMAT_MOVED, Layout};
use crate::store::etcd::{OpenError, meta};

/// Data that are sealed for a move.
pub(in crate::maintenance) struct Closed {
    meta: Meta,
    /// The revision at which the `meta` row was last changed. Reopening the data or completing the move changes it.
    revision: i64,
}

impl Closed {
    /// The reason not to repeat the move, if it is complete.
    pub(in crate::maintenance) fn refusal(&self, place: &Location<impl Kv>) -> Option<ToolError> {
        let is_complete = !self.meta.completed_move.is_empty();
        is_complete.then(|| meta::moved(&place.prefix, &self.meta).into())
    }

    /// The id of the file that the move has made, or empty if the move is not complete.
    pub(in crate::maintenance) fn file(&self) -> &[u8] {
        &self.meta.completed_move
    }
}

/// Seals the data, unless nodes are registered. Data that an earlier attempt has sealed for the same target stay as
/// they are, even if that move is complete.
///
/// A running node cannot change anything after that, registered or not: each of its transactions compares the row that
/// this function writes.
pub(in crate::maintenance) async fn close(
    place: &Location<impl Kv>,
    to: &str,
) -> Result<Closed, ToolError> {
    let (meta, revision) = read(place).await?;
    let layout = Layout::new(&place.prefix, &meta, revision).map_err(OpenError::Data)?;
    if meta.moved_to == to {
        return Ok(Closed { meta, revision });
    }
    meta::check_open(&place.prefix, &meta)?;
    // Nothing is sealed yet, so nodes that are found here keep working.
    check_nodes(place, &layout).await?;
    let closed = Meta {
        // Versions that do not know `moved_to` refuse this format.
        format: meta.format.max(FORMAT_MOVED),
        moved_to: to.to_owned(),
        ..meta.clone()
    };
    swap(place, &closed, revision).await?;
    // A node that starts meanwhile either finds the data sealed after it registers, or has registered earlier and is
    // found here.
    if let Err(in_use) = check_nodes(place, &layout).await {
        reopen(place, &closed, &meta).await?;
        return Err(in_use);
    }
    match read(place).await? {
        (meta, revision) if meta == closed => Ok(Closed { meta, revision }),
        _ => Err(changed(place)),
    }
}

/// The data, if they are sealed for a move to `to`.
///
/// # Errors
/// Returns an error if the target file exists but the move is not recorded as complete.
pub(in crate::maintenance) async fn closed(
    place: &Location<impl Kv>,
    to: &str,
) -> Result<Option<Closed>, ToolError> {
    let (meta, revision) = read(place).await?;
    if meta.moved_to != to {
        return Ok(None);
    }
    if meta.completed_move.is_empty() {
        refuse_file(&place.prefix, to)?;
    }
    Ok(Some(Closed { meta, revision }))
}

/// Records that a move is complete, with the id of the file that it has made. The file is usable from then on.
///
/// # Errors
/// Returns [`ToolError::Refused`] if the data were reopened, or another move of them completed, meanwhile: this move is
/// not complete then and will never be. After any other error the outcome is unknown.
pub(in crate::maintenance) async fn complete(
    place: &Location<impl Kv>,
    closed: Closed,
    file: Bytes,
) -> Result<(), ToolError> {
    let completed = Meta {
        completed_move: file,
        ..closed.meta
    };
    let recorded = swap(place, &completed, closed.revision).await;
    recorded.map_err(|error| match error {
        ToolError::Refused(_) => changed(place),
        error => error,
    })
}

fn changed(place: &Location<impl Kv>) -> ToolError {
    ToolError::Refused(format!(
        "the counters under {} were reopened, or moved by another process, in the meantime: this move has made no file",
        place.prefix
    ))
}

/// Reopens data that were sealed for a move, with `force` even if the move is complete. Returns the target of that
/// move.
pub(in crate::maintenance) async fn undo(
    place: &Location<impl Kv>,
    force: bool,
) -> Result<String, ToolError> {
    let prefix = &place.prefix;
    let (meta, revision) = read(place).await?;
    if meta.moved_to.is_empty() {
        let problem =
            format!("the counters under {prefix} were not moved: there is nothing to undo");
        return Err(ToolError::Refused(problem));
    }
    let to = meta.moved_to.clone();
    if !force && !meta.completed_move.is_empty() {
        return Err(meta::moved(prefix, &meta).into());
    }
    if !force {
        refuse_file(prefix, &to)?;
    }
    let open = Meta {
        moved_to: String::new(),
        completed_move: Bytes::new(),
        ..meta
    };
    swap(place, &open, revision).await?;
    Ok(to)
}

/// Refuses if the target file of the move exists, although the move is not recorded as complete.
fn refuse_file(prefix: &str, to: &str) -> Result<(), ToolError> {
    let file = to.strip_prefix("sqlite:").map(Path::new);
    if !file.is_some_and(Path::exists) {
        return Ok(());
    }
    Err(ToolError::Refused(format!(
        "the counters under {prefix} were moved to {to}, which exists: serve that. Nothing records that the move is \
         complete: an older sumd made it, or the file is another one. Only if the file was never served: move it away, \
         and run the move again; or open the counters under {prefix} again by sumd reopen --force"
    )))
}

/// The `meta` row and its revision.
async fn read(place: &Location<impl Kv>) -> Result<(Meta, i64), ToolError> {
    let (found, _) = meta::read(&place.client, &place.prefix).await?;
    found.ok_or_else(|| ToolError::Refused(format!("there are no counters under {}", place.prefix)))
}

async fn reopen(place: &Location<impl Kv>, closed: &Meta, open: &Meta) -> Result<(), ToolError> {
    let (found, _) = meta::read(&place.client, &place.prefix).await?;
    match found {
        Some((meta, revision)) if meta == *closed => swap(place, open, revision).await,
        _ => Ok(()),
    }
}

/// Refuses if nodes are registered.
async fn check_nodes(place: &Location<impl Kv>, layout: &Layout) -> Result<(), ToolError> {
    let nodes = layout.nodes();
    let found = kv::read(&place.client, vec![prefix(nodes.clone(), 10)]).await;
    let found = found.map_err(OpenError::from)?;
    let keys = found.ranges.into_iter().flat_map(|range| range.kvs);
    let name = |key: &[u8]| String::from_utf8_lossy(&key[nodes.len()..]).into_owned();
    let names: Vec<_> = keys.map(|row| name(&row.key)).collect();
    if names.is_empty() {
        return Ok(());
    }
    Err(ToolError::Refused(format!(
        "the counters under {} are in use by {}: stop all nodes first (a node that died is listed for some seconds \
         more)",
        place.prefix,
        names.join(", ")
    )))
}
