//! The meta row, which describes the data. The first node creates it.

use uuid::Uuid;

use super::kv::{self, Kv, ReadError};
use super::rows::{self, FORMAT, Layout};
use crate::etcd::{Error, at_revision, get, put};
use crate::model::Corrupt;
use crate::proto::etcd::etcdserverpb::{Compare, TxnRequest};
use crate::proto::etcd::mvccpb::KeyValue;
use crate::proto::sumd::store::v1::Meta;
use tokio::time::Instant;
use tracing::info;

/// The reason why data in etcd cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// etcd cannot be reached at present.
    #[error("cannot reach etcd: {0}")]
    Unavailable(String),
    /// etcd refuses.
    #[error("cannot use etcd: {0}")]
    Etcd(String),
    /// The data are damaged, incomplete, moved or of another version.
    #[error("{0}")]
    Data(String),
}

impl From<ReadError> for OpenError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Compacted => {
                Self::Unavailable("the read took longer than etcd keeps its history".to_owned())
            }
            ReadError::Unavailable(problem) => Self::Unavailable(problem.to_string()),
            ReadError::Failed(problem) => Self::Etcd(problem.to_string()),
        }
    }
}

/// The layout of the data under a prefix. If there are none they are created, with this number of lanes.
pub(crate) async fn open(kv: &impl Kv, prefix: &str, lanes: u32) -> Result<Layout, OpenError> {
    let new = Meta {
        format: FORMAT,
        lanes,
        // Nobody can guess one: UUIDs are made for that.
        key: Uuid::new_v4().into_bytes().to_vec().into(),
        ..Meta::default()
    };
    loop {
        if let (Some((meta, revision)), _) = read(kv, prefix).await? {
            check_open(prefix, &meta)?;
            return Layout::new(prefix, &meta, revision).map_err(OpenError::Data);
        }
        let make = replace(prefix, &new, 0);
        let deadline = Instant::now() + std::time::Duration::from_secs(2);
        // The outcome does not matter: the row that exists then is read.
        let answer: Result<_, Error> = kv.txn(make, deadline).await;
        if let Err(error) = answer
            && !error.is_passing()
        {
            return Err(OpenError::Etcd(error.to_string()));
        }
    }
}

/// Replaces the row that was last changed at a revision of etcd; 0 stands for no row.
pub(crate) fn replace(prefix: &str, meta: &Meta, revision: i64) -> TxnRequest {
    let key = rows::meta_key(prefix);
    let value = rows::seal(rows::meta_digests(), &key, meta);
    TxnRequest {
        compare: vec![at_revision(key.clone(), revision)],
        success: vec![put(key, value)],
        ..TxnRequest::default()
    }
}

/// The row, if there is one, with the etcd revision of its last change; and the current etcd revision.
pub(crate) async fn read(
    kv: &impl Kv,
    prefix: &str,
) -> Result<(Option<(Meta, i64)>, i64), OpenError> {
    let found = kv::read(kv, vec![get(rows::meta_key(prefix))]).await?;
    let row = found.ranges.first().and_then(|range| range.kvs.first());
    let Some(row) = row else {
        return Ok((None, found.revision));
    };
    let meta = open_row(row).map_err(|Corrupt(problem)| {
        OpenError::Data(format!(
            "{prefix}/meta: {problem}. No row under {prefix} can be read without it: `sumd restore` makes data from a \
             backup under another --etcd-prefix"
        ))
    })?;
    Ok((Some((meta, row.mod_revision)), found.revision))
}

/// Decodes the row.
pub(crate) fn open_row(row: &KeyValue) -> Result<Meta, Corrupt> {
    rows::open(rows::meta_digests(), row)
}

/// Raises the format of the data to the newest one, if `unchanged` holds: it stands for the observation that all nodes
/// know that format. Running nodes adopt it, and their earlier transactions no longer land. A node that does not know
/// the format can no longer start.
///
/// Returns `false` if that does not hold any more, or if there are no data.
///
/// # Errors
/// Returns an error if etcd cannot be asked, if the outcome is unknown, or if the data are sealed.
pub async fn raise_format(
    kv: &impl Kv,
    prefix: &str,
    unchanged: Compare,
) -> Result<bool, OpenError> {
    let (Some((meta, revision)), _) = read(kv, prefix).await? else {
        return Ok(false);
    };
    check_open(prefix, &meta)?;
    if meta.format >= FORMAT {
        return Ok(true);
    }
    let before = meta.format;
    let raised = Meta {
        format: FORMAT,
        ..meta
    };
    let mut request = replace(prefix, &raised, revision);
    request.compare.push(unchanged);
    let deadline = Instant::now() + std::time::Duration::from_secs(2);
    let answer = kv.txn(request, deadline).await;
    let answer = answer.map_err(|error| OpenError::Unavailable(error.to_string()))?;
    if answer.succeeded {
        info!("all nodes know format {FORMAT}: raised the data from format {before}");
    }
    Ok(answer.succeeded)
}

/// Refuses data that were moved elsewhere. A node asks once the other nodes can see it. A move looks for nodes after it
/// has sealed the data, so one of the two finds the other.
///
/// # Errors
/// Returns an error if they were moved, are gone, or cannot be asked.
pub async fn check_not_moved(kv: &impl Kv, prefix: &str) -> Result<(), OpenError> {
    match read(kv, prefix).await?.0 {
        Some((meta, _)) => check_open(prefix, &meta),
        None => Err(OpenError::Data(format!("the data under {prefix} are gone"))),
    }
}

/// Refuses data that nobody may change.
pub(crate) fn check_open(prefix: &str, meta: &Meta) -> Result<(), OpenError> {
    if meta.filling {
        return Err(OpenError::Data(format!(
            "the data under {prefix} are not complete: sumd move or sumd restore is writing them, or was interrupted; \
             run it again"
        )));
    }
    if meta.moved_to.is_empty() {
        return Ok(());
    }
    Err(moved(prefix, meta))
}

/// The error of data that were or are being moved.
pub(crate) fn moved(prefix: &str, meta: &Meta) -> OpenError {
    let to = &meta.moved_to;
    OpenError::Data(if meta.completed_move.is_empty() {
        format!(
            "the data under {prefix} were moved to {to}, and nothing records that the move is complete. If the file \
             exists, serve it; if not, the move was interrupted: run it again. (Older versions recorded nothing: if \
             one of them made the move, and the file has another name now, serve that file, and do not move again)"
        )
    } else {
        format!(
            "the data under {prefix} were moved to {to}, and the move is complete: serve that file, even if it was \
             renamed or moved since. If only {to}.partial exists, run the same move again to give it its name. (Only \
             if the file is lost, or was never served: sumd reopen --force opens these data again, as they were when \
             they were moved)"
        )
    })
}

#[cfg(test)]
mod tests;
