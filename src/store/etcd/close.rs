//! Closes data that are moved elsewhere, so that nobody changes them any more.
//!
//! Data that are closed are in one of two states. While their move is under way there is nothing else of use, so that the move
//! may begin anew, or be undone. Once it is complete, which is recorded before the target has its name, the target may have
//! counted on, wherever it is by then: the two states are told apart by this record, and not by the target.

use std::path::Path;

use bytes::Bytes;

use super::Place;
use super::client::prefix;
use super::fill::swap;
use super::rows::{FORMAT_MOVED, Layout};
use super::{OpenError, kv, meta};
use crate::proto::sumd::store::v1::Meta;
use crate::store::tools::ToolError;

/// Closes the data, unless a node is there. If an earlier attempt to move them to the same place has closed them, they stay
/// closed, and it is forgotten that the move was complete: [`completed`] is asked before.
///
/// No node that still runs can change anything then, registered or not: each of its transactions compares the row that is
/// written here.
pub(in crate::store) async fn close(place: &Place, to: &str) -> Result<(), ToolError> {
    let (meta, revision) = read(place).await?;
    let layout = Layout::new(&place.prefix, &meta, revision).map_err(OpenError::Data)?;
    if meta.moved_to == to {
        if meta.completed_move.is_empty() {
            return Ok(());
        }
        let under_way = Meta {
            completed_move: Bytes::new(),
            ..meta
        };
        return swap(place, &under_way, revision).await;
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

/// A move that is complete.
pub(in crate::store) struct Completed {
    /// The id of the file that it has made.
    pub(in crate::store) file: Bytes,
    /// Why it is not made again.
    pub(in crate::store) refusal: ToolError,
}

/// The move to there, if it is complete.
///
/// # Errors
/// Returns an error if nothing records that, although the file is there.
pub(in crate::store) async fn completed(
    place: &Place,
    to: &str,
) -> Result<Option<Completed>, ToolError> {
    let (meta, _) = read(place).await?;
    if meta.moved_to != to {
        return Ok(None);
    }
    if meta.completed_move.is_empty() {
        return refuse_file(&place.prefix, to).map(|()| None);
    }
    Ok(Some(Completed {
        refusal: meta::moved(&place.prefix, &meta).into(),
        file: meta.completed_move,
    }))
}

/// Records that a move is complete, by the id of the file that it has made, which is of use from then on.
pub(in crate::store) async fn complete(
    place: &Place,
    to: &str,
    file: Bytes,
) -> Result<(), ToolError> {
    let (meta, revision) = read(place).await?;
    if meta.moved_to != to || !meta.completed_move.is_empty() {
        let problem = format!(
            "the counters under {} were opened again, or moved by somebody else, meanwhile",
            place.prefix
        );
        return Err(ToolError::Refused(problem));
    }
    let completed = Meta {
        completed_move: file,
        ..meta
    };
    swap(place, &completed, revision).await
}

/// Opens data again that were closed for a move; `force` does so although it is complete. Gives where to they were moved.
pub(in crate::store) async fn undo(place: &Place, force: bool) -> Result<String, ToolError> {
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

/// Refuses to do anything with data that were moved to a file which is there, although nothing records that it is complete.
fn refuse_file(prefix: &str, to: &str) -> Result<(), ToolError> {
    let file = to.strip_prefix("sqlite:").map(Path::new);
    if !file.is_some_and(Path::exists) {
        return Ok(());
    }
    Err(ToolError::Refused(format!(
        "the counters under {prefix} were moved to {to}, which is there: serve that. Nothing records that the move is complete: \
         an older sumd has made it, or the file is another one. Only if nobody has ever served the file, sumd reopen --force \
         opens the counters under {prefix} again"
    )))
}

/// The row that says what the data are, with its revision.
async fn read(place: &Place) -> Result<(Meta, i64), ToolError> {
    let (found, _) = meta::read(&place.client, &place.prefix).await?;
    found.ok_or_else(|| ToolError::Refused(format!("there are no counters under {}", place.prefix)))
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
