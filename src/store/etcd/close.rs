//! Closes data that are moved elsewhere, so that nobody changes them any more.

use std::path::Path;

use super::Place;
use super::client::prefix;
use super::fill::swap;
use super::rows::{FORMAT_MOVED, Layout};
use super::{OpenError, kv, meta};
use crate::proto::sumd::store::v1::Meta;
use crate::store::tools::ToolError;

/// Closes the data, unless a node is there. Where an earlier attempt to move them to the same place has done so, they stay
/// closed.
///
/// No node that still runs can change anything then, registered or not: each of its transactions compares the row that is
/// written here.
pub(in crate::store) async fn close(place: &Place, to: &str) -> Result<(), ToolError> {
    let (Some((meta, revision)), _) = meta::read(&place.client, &place.prefix).await? else {
        let problem = format!("there are no counters under {}", place.prefix);
        return Err(ToolError::Refused(problem));
    };
    let layout = Layout::new(&place.prefix, &meta, revision).map_err(OpenError::Data)?;
    if meta.moved_to == to {
        return Ok(());
    }
    meta::check_open(&place.prefix, &meta)?;
    // Those that are found here are not harmed.
    check_nodes(place, &layout).await?;
    let closed = Meta {
        // Versions that do not know of this do not know this format.
        format: meta.format.max(FORMAT_MOVED),
        moved_to: to.to_owned(),
        ..meta.clone()
    };
    swap(place, &closed, revision).await?;
    // One that has come meanwhile finds the data closed once it is registered, and is found here if it is before that.
    if let Err(in_use) = check_nodes(place, &layout).await {
        reopen(place, &closed, &meta).await?;
        return Err(in_use);
    }
    Ok(())
}

/// Opens data again that were closed for a move. Gives where to they were moved.
pub(in crate::store) async fn undo(place: &Place) -> Result<String, ToolError> {
    let Place { client, prefix, .. } = place;
    let (Some((meta, revision)), _) = meta::read(client, prefix).await? else {
        let problem = format!("there are no counters under {prefix}");
        return Err(ToolError::Refused(problem));
    };
    if meta.moved_to.is_empty() {
        let problem =
            format!("the counters under {prefix} were not moved: there is nothing to undo");
        return Err(ToolError::Refused(problem));
    }
    let to = meta.moved_to.clone();
    if let Some(path) = to.strip_prefix("sqlite:").map(Path::new)
        && path.exists()
    {
        return Err(ToolError::Refused(format!(
            "the counters under {prefix} were moved to {to}, which is there: serve that; or, if nobody has served it, move the \
             file away first"
        )));
    }
    let open = Meta {
        moved_to: String::new(),
        ..meta
    };
    swap(place, &open, revision).await?;
    Ok(to)
}

async fn reopen(place: &Place, closed: &Meta, open: &Meta) -> Result<(), ToolError> {
    let (found, _) = meta::read(&place.client, &place.prefix).await?;
    match found {
        Some((meta, revision)) if meta == *closed => swap(place, open, revision).await,
        _ => Ok(()),
    }
}

/// Refuses where nodes are registered.
async fn check_nodes(place: &Place, layout: &Layout) -> Result<(), ToolError> {
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
        "the counters under {} are in use by {}: stop all nodes first (one that has died is gone some seconds after)",
        place.prefix,
        names.join(", ")
    )))
}
