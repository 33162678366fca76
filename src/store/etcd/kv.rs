//! The calls of etcd that the store needs, as a trait, so that a model can stand in for etcd.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::hold::Hold;
use crate::etcd::{Client, Error, Outcome, Refusal};
use crate::model::Corrupt;
use crate::proto::etcd::etcdserverpb::response_op::Response;
use crate::proto::etcd::etcdserverpb::{
    RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse,
};
use crate::store::StoreError;

/// How long a reader waits for etcd. An election takes it some seconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// How long one attempt waits. A member that has lost its leader drops requests without an answer.
const ATTEMPT: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(50);

/// Ranges that are read in one transaction.
pub(crate) const MAX_RANGES: usize = 128;

/// The transactions and the history of etcd.
pub trait Kv: Clone + Send + Sync + 'static {
    /// Executes a transaction at most once.
    fn txn(
        &self,
        request: TxnRequest,
        deadline: Instant,
    ) -> impl Future<Output = Result<TxnResponse, Error>> + Send;

    /// Keeps nodes from compacting the history of a prefix from now on, until it is released; `None` if nothing is ever
    /// compacted, as in a model.
    fn hold(&self, prefix: &str) -> impl Future<Output = Result<Option<Hold>, Error>> + Send;
}

impl Kv for Client {
    async fn txn(&self, request: TxnRequest, deadline: Instant) -> Result<TxnResponse, Error> {
        Self::txn(self, request, deadline).await
    }

    async fn hold(&self, prefix: &str) -> Result<Option<Hold>, Error> {
        Hold::take(self, prefix).await.map(Some)
    }
}

/// The result of a read at one revision of etcd.
pub(crate) struct Found {
    pub(crate) revision: i64,
    /// One for each range, in the order of the request.
    pub(crate) ranges: Vec<RangeResponse>,
}

/// The reason why a read failed.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The requested revision is compacted.
    Compacted,
    /// etcd cannot be read at present.
    Unavailable(Arc<str>),
    /// A retry would fail as well.
    Failed(Arc<str>),
}

impl From<ReadError> for StoreError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Compacted => {
                Self::Unavailable("the read took longer than etcd keeps its history".into())
            }
            ReadError::Unavailable(problem) => Self::Unavailable(problem),
            ReadError::Failed(problem) => Self::Failed(problem),
        }
    }
}

impl From<Corrupt> for StoreError {
    fn from(corrupt: Corrupt) -> Self {
        Self::Failed(corrupt.to_string().into())
    }
}

/// Reads ranges at one moment after the call.
pub(crate) async fn read(kv: &impl Kv, ranges: Vec<RangeRequest>) -> Result<Found, ReadError> {
    let request = TxnRequest {
        success: ranges.into_iter().map(RequestOp::from).collect(),
        ..TxnRequest::default()
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let attempt = deadline.min(Instant::now() + ATTEMPT);
        let answer = timeout_at(attempt, kv.txn(request.clone(), attempt)).await;
        let error = match answer {
            Ok(Ok(response)) => return Ok(found(response)),
            Ok(Err(error)) => error,
            Err(_) if Instant::now() < deadline => continue,
            Err(_) => return Err(ReadError::Unavailable("no answer in time".into())),
        };
        let problem = || Arc::from(error.to_string());
        match error.outcome {
            Outcome::Definite(Refusal::Compacted) => return Err(ReadError::Compacted),
            Outcome::Definite(_) if !error.is_passing() => {
                return Err(ReadError::Failed(problem()));
            }
            _ if Instant::now() >= deadline => return Err(ReadError::Unavailable(problem())),
            // Reading twice does no harm.
            _ => sleep(PAUSE).await,
        }
    }
}

fn found(response: TxnResponse) -> Found {
    let range = |response| match response {
        Some(Response::ResponseRange(range)) => range,
        _ => RangeResponse::default(),
    };
    let responses = response.responses.into_iter();
    Found {
        revision: response.header.map_or(0, |header| header.revision),
        ranges: responses.map(|op| range(op.response)).collect(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    pub mod model;

    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::etcd::Doubt;

    /// A model whose first `bad` transactions end in `outcome`, or never if there is none; later ones succeed.
    #[derive(Clone)]
    pub struct Flaky {
        asked: Arc<AtomicU32>,
        bad: u32,
        outcome: Option<Outcome>,
    }

    impl Flaky {
        pub fn new(bad: u32, outcome: Option<Outcome>) -> Self {
            let asked = Arc::default();
            Self {
                asked,
                bad,
                outcome,
            }
        }
    }

    impl Kv for Flaky {
        async fn txn(&self, _: TxnRequest, _: Instant) -> Result<TxnResponse, Error> {
            if self.asked.fetch_add(1, Ordering::Relaxed) >= self.bad {
                return Ok(TxnResponse::default());
            }
            match self.outcome {
                Some(outcome) => Err(Error::new(outcome, "as a test has it".to_owned())),
                None => std::future::pending().await,
            }
        }

        async fn hold(&self, _prefix: &str) -> Result<Option<Hold>, Error> {
            Ok(None)
        }
    }

    /// The end of a read, its duration, and the number of requests.
    async fn read_from(bad: u32, outcome: Option<Outcome>) -> (&'static str, Duration, u32) {
        let kv = Flaky::new(bad, outcome);
        let begun = Instant::now();
        let told = match read(&kv, Vec::new()).await {
            Ok(_) => "found",
            Err(ReadError::Compacted) => "compacted",
            Err(ReadError::Unavailable(_)) => "unavailable",
            Err(ReadError::Failed(_)) => "failed",
        };
        (told, begun.elapsed(), kv.asked.load(Ordering::Relaxed))
    }

    /// A read is retried for a while after any error that may pass.
    #[tokio::test(start_paused = true)]
    async fn reads_are_tried_for_a_while() {
        let away = Some(Outcome::Definite(Refusal::NotConnected));
        let late = Some(Outcome::Unknown(Doubt::Deadline));
        let denied = Some(Outcome::Definite(Refusal::Denied));
        let gone = Some(Outcome::Definite(Refusal::Compacted));
        let always = u32::MAX;

        assert_eq!(read_from(0, None).await, ("found", Duration::ZERO, 1));
        assert_eq!(read_from(2, None).await, ("found", ATTEMPT * 2, 3));
        assert_eq!(read_from(2, away).await, ("found", PAUSE * 2, 3));
        assert_eq!(read_from(2, late).await, ("found", PAUSE * 2, 3));
        assert_eq!(read_from(9, denied).await, ("failed", Duration::ZERO, 1));
        assert_eq!(read_from(9, gone).await, ("compacted", Duration::ZERO, 1));
        let (told, after, asked) = read_from(always, None).await;
        assert_eq!((told, after, asked), ("unavailable", PATIENCE, 5));
        let (told, after, asked) = read_from(always, away).await;
        assert_eq!((told, after, asked), ("unavailable", PATIENCE, 101));
    }
}
