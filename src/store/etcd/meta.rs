//! The row that says what the data are. Whoever comes first makes it.

use std::fmt;

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

/// Why data in etcd cannot be used.
#[derive(Debug)]
pub enum OpenError {
    /// etcd cannot be reached just now.
    Unavailable(String),
    /// etcd refuses.
    Etcd(String),
    /// The data are not for this version.
    Data(String),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(problem) => write!(f, "cannot reach etcd: {problem}"),
            Self::Etcd(problem) => write!(f, "cannot use etcd: {problem}"),
            Self::Data(problem) => f.write_str(problem),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<ReadError> for OpenError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Compacted => Self::Unavailable("it took too long".to_owned()),
            ReadError::Unavailable(problem) => Self::Unavailable(problem.to_string()),
            ReadError::Failed(problem) => Self::Etcd(problem.to_string()),
        }
    }
}

/// What the data under a prefix are; where there are none they are begun, with so many lanes.
pub(crate) async fn open(kv: &impl Kv, prefix: &str, lanes: u32) -> Result<Layout, OpenError> {
    let new = Meta {
        format: FORMAT,
        lanes,
        key: Uuid::from_u128(random()).into_bytes().to_vec().into(),
        ..Meta::default()
    };
    loop {
        if let (Some((meta, revision)), _) = read(kv, prefix).await? {
            check_open(prefix, &meta)?;
            return Layout::new(prefix, &meta, revision).map_err(OpenError::Data);
        }
        let make = replace(prefix, &new, 0);
        let deadline = Instant::now() + std::time::Duration::from_secs(2);
        // Whatever becomes of it: what is there then is read.
        let answer: Result<_, Error> = kv.txn(make, deadline).await;
        if let Err(error) = answer
            && !error.is_passing()
        {
            return Err(OpenError::Etcd(error.to_string()));
        }
    }
}

/// Puts the row where it was last changed at a revision of etcd; 0 is where there is none.
pub(crate) fn replace(prefix: &str, meta: &Meta, revision: i64) -> TxnRequest {
    let key = rows::meta_key(prefix);
    let value = rows::seal(rows::meta_digests(), &key, meta);
    TxnRequest {
        compare: vec![at_revision(key.clone(), revision)],
        success: vec![put(key, value)],
        ..TxnRequest::default()
    }
}

/// The row, if it is there, with the revision of etcd that it was last changed at; and that of now.
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
            "{prefix}/meta: {problem}. No row under {prefix} can be read without it: `sumd restore` makes data of a backup under \
             another --etcd-prefix"
        ))
    })?;
    Ok((Some((meta, row.mod_revision)), found.revision))
}

/// The content of the row.
pub(crate) fn open_row(row: &KeyValue) -> Result<Meta, Corrupt> {
    rows::open(rows::meta_digests(), row)
}

/// Raises the format of the data to the newest one, unless something has changed that all nodes know it by. Nodes at work take
/// that in, and what they have sent before does not land any more; one that does not know the format can begin no more.
///
/// Gives `false` if that was not to be now.
///
/// # Errors
/// Returns an error if etcd cannot be asked, or nobody knows what became of it, and if the data are closed.
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
        info!("all nodes know format {FORMAT}: the data are raised to it from {before}");
    }
    Ok(answer.succeeded)
}

/// Refuses data that were moved elsewhere. A node asks once it is known to the others: whoever moves the data looks for nodes
/// after having closed them, so that one of the two finds the other.
///
/// # Errors
/// Where they were, or cannot be asked.
pub async fn check_not_moved(kv: &impl Kv, prefix: &str) -> Result<(), OpenError> {
    match read(kv, prefix).await?.0 {
        Some((meta, _)) => check_open(prefix, &meta),
        None => Err(OpenError::Data(format!("the data under {prefix} are gone"))),
    }
}

/// Refuses data that nobody is to change.
pub(crate) fn check_open(prefix: &str, meta: &Meta) -> Result<(), OpenError> {
    if meta.filling {
        return Err(OpenError::Data(format!(
            "the data under {prefix} are not complete: sumd move or sumd restore is writing them, or has not come to its \
             end; run it again"
        )));
    }
    if meta.moved_to.is_empty() {
        return Ok(());
    }
    Err(moved(prefix, meta))
}

/// Why data that were moved, or are being moved, are not to be used.
pub(crate) fn moved(prefix: &str, meta: &Meta) -> OpenError {
    let to = &meta.moved_to;
    OpenError::Data(if meta.completed_move.is_empty() {
        format!(
            "the data under {prefix} were moved to {to}, and nothing records that the move is complete. If the file is there, \
             serve that; if not, the move was interrupted: run it again. (Older versions recorded nothing: if one of them has \
             made the move, and the file has another name by now, serve that, and do not move again)"
        )
    } else {
        format!(
            "the data under {prefix} were moved to {to}, and the move is complete: serve that, whatever name or place the file \
             has now. If it has no name yet, as {to}.partial is there instead, run the same move again, which gives it that. \
             (Only if the file is lost, or nobody has ever served it: sumd reopen --force opens these data again, as they were \
             when they were moved)"
        )
    })
}

/// A random number that nobody can guess: those of UUIDs are made for that.
fn random() -> u128 {
    Uuid::new_v4().as_u128()
}
