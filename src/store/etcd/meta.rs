//! The row that says what the data are. Whoever comes first makes it.

use std::fmt;

use uuid::Uuid;

use super::client::{Error, at_revision, get, put};
use super::kv::{self, Kv, ReadError};
use super::rows::{self, FORMAT, LANES, Layout};
use crate::proto::etcd::etcdserverpb::TxnRequest;
use crate::proto::sumd::store::v1::Meta;
use tokio::time::Instant;

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

/// What the data under a prefix are; they are begun where there are none.
pub(super) async fn open(kv: &impl Kv, prefix: &str) -> Result<Layout, OpenError> {
    let key = rows::meta_key(prefix);
    let new = Meta {
        format: FORMAT,
        lanes: LANES,
        key: Uuid::from_u128(random()).into_bytes().to_vec().into(),
        revisions_before: 0,
    };
    let row = rows::seal(rows::meta_digests(), &key, &new);
    loop {
        let found = kv::read(kv, vec![get(key.clone())]).await?;
        let row_now = found.ranges.first().and_then(|range| range.kvs.first());
        if let Some(row) = row_now {
            let meta = rows::open(rows::meta_digests(), row);
            let meta = meta.map_err(|error| OpenError::Data(error.to_string()))?;
            return Layout::new(prefix, &meta).map_err(OpenError::Data);
        }
        let make = TxnRequest {
            compare: vec![at_revision(key.clone(), 0)],
            success: vec![put(key.clone(), row.clone())],
            ..TxnRequest::default()
        };
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

/// A random number that nobody can guess: those of UUIDs are made for that.
fn random() -> u128 {
    Uuid::new_v4().as_u128()
}
