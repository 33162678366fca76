//! Mistakes that the protocol must not make. Each is made by the model of etcd, by the network or by a wrapper around
//! the store, so that the code under test is the real code; and each has to be found.

pub mod stores;

use prost::Message as _;
use sumd::etcd::Refusal;
use sumd::proto::etcd::etcdserverpb::compare::TargetUnion;
use sumd::proto::etcd::etcdserverpb::request_op::Request;
use sumd::proto::etcd::etcdserverpb::response_op::Response;
use sumd::proto::etcd::etcdserverpb::{
    RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
};
use sumd::proto::sumd::store::v1::{Batch, Head, Pack};

use super::network::Inner;
use super::rows;

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Batches are committed on top of any state.
    NoGuard,
    /// Request ids are not stored.
    NoIds,
    /// Success is answered before anything is stored, and sometimes nothing is.
    EarlyAnswer,
    /// A repeated batch is taken for a new one, and adapted if it does not fit.
    NewAttempt,
    /// An unknown outcome is taken for not applied.
    Guess,
    /// Reads may show an earlier state.
    StaleReads,
    /// A lane that is loaded or reloaded has forgotten most ids, as if they were older than they are.
    ForgetfulLoads,
    /// A lane that is loaded knows no session, although other lanes do.
    LostSessions,
    /// A lane whose catch-up was interrupted considers itself up to date, and commits nothing.
    StuckLanes,
    /// etcd accepts far smaller requests than are sent.
    SmallRequests,
    /// Memory for ids is full, although few are remembered.
    NoRoom,
}

/// The largest request, in bytes, that an etcd accepts which accepts too little.
const SMALL: usize = 1500;

impl Mutant {
    /// Carries out a transaction, with the mistake.
    pub fn carry_out(
        self,
        world: &mut Inner,
        mut request: TxnRequest,
    ) -> Result<TxnResponse, Refusal> {
        match self {
            Self::NoGuard => each_lane(&mut request, |lane| lane.compare.clear()),
            Self::NoIds => each_log(&mut request, |batch| batch.ids.clear()),
            Self::EarlyAnswer if !request.compare.is_empty() && world.rng.u8(..16) == 0 => {
                return Ok(TxnResponse {
                    header: Some(ResponseHeader {
                        revision: world.etcd.revision() + 1,
                        ..ResponseHeader::default()
                    }),
                    succeeded: true,
                    responses: request.success.iter().map(done).collect(),
                });
            }
            Self::NewAttempt => each_lane(&mut request, |lane| {
                let mut sent_before = true;
                each_row(lane, &mut |batch| {
                    sent_before &= !world.attempts.insert(batch.attempt.clone());
                });
                if sent_before {
                    for compare in &mut lane.compare {
                        let now = world.etcd.changed(&compare.key);
                        compare.target_union = Some(TargetUnion::ModRevision(now));
                    }
                }
            }),
            Self::StaleReads if request.compare.is_empty() && world.rng.u8(..4) == 0 => {
                return stale(world, &request);
            }
            Self::SmallRequests if request.encoded_len() > SMALL => {
                return Err(Refusal::TooLarge);
            }
            Self::EarlyAnswer
            | Self::Guess
            | Self::StaleReads
            | Self::ForgetfulLoads
            | Self::LostSessions
            | Self::StuckLanes
            | Self::SmallRequests
            | Self::NoRoom => {}
        }
        world.etcd.txn(&request)
    }
}

fn stale(world: &mut Inner, request: &TxnRequest) -> Result<TxnResponse, Refusal> {
    let now = world.etcd.revision();
    let then = now - world.rng.i64(1..20);
    let mut old = request.clone();
    for operation in &mut old.success {
        if let Some(Request::RequestRange(range)) = &mut operation.request
            && range.revision == 0
        {
            range.revision = then.max(1);
        }
    }
    let Ok(mut response) = world.etcd.txn(&old) else {
        // The earlier state is compacted.
        return world.etcd.txn(request);
    };
    if let Some(header) = &mut response.header {
        header.revision = then.max(1);
    }
    Ok(response)
}

/// The answer of a nested transaction that was carried out.
fn done(_: &RequestOp) -> ResponseOp {
    let inner = TxnResponse {
        succeeded: true,
        ..TxnResponse::default()
    };
    ResponseOp {
        response: Some(Response::ResponseTxn(inner)),
    }
}

/// Changes a transaction's operations for each lane.
fn each_lane(request: &mut TxnRequest, mut change: impl FnMut(&mut TxnRequest)) {
    for operation in &mut request.success {
        if let Some(Request::RequestTxn(lane)) = &mut operation.request {
            change(lane);
        }
    }
}

/// Changes the last batch of each lane in a transaction, for which the transaction is made.
fn each_log(request: &mut TxnRequest, mut change: impl FnMut(&mut Batch)) {
    each_lane(request, |lane| each_row(lane, &mut change));
}

fn each_row(lane: &mut TxnRequest, change: &mut impl FnMut(&mut Batch)) {
    let hasher = rows::hasher();
    for operation in &mut lane.success {
        let Some(Request::RequestPut(put)) = &mut operation.request else {
            continue;
        };
        if put.key.starts_with(rows::HEADS.as_bytes()) {
            let mut head: Head = rows::open(hasher, &put.key, &put.value);
            if let Some(batch) = head.batches.last_mut() {
                change(batch);
            }
            put.value = rows::seal(hasher, &put.key, &head);
        } else if put.key.starts_with(rows::PACKS.as_bytes()) {
            let mut pack: Pack = rows::open(hasher, &put.key, &put.value);
            if let Some(batch) = pack.batches.last_mut() {
                change(batch);
            }
            put.value = rows::seal(hasher, &put.key, &pack);
        }
    }
}
