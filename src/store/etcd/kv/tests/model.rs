//! A model of etcd for tests: keys as they are now, without a history, and transactions on them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::time::Instant;

use super::super::Kv;
use crate::etcd::{Doubt, Error, Outcome};
use crate::proto::etcd::etcdserverpb::compare::TargetUnion;
use crate::proto::etcd::etcdserverpb::request_op::Request;
use crate::proto::etcd::etcdserverpb::response_op::Response;
use crate::proto::etcd::etcdserverpb::{
    Compare, DeleteRangeResponse, PutResponse, RangeRequest, RangeResponse, RequestOp,
    ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
};
use crate::proto::etcd::mvccpb::KeyValue;
use crate::store::etcd::Hold;

/// Clones share the keys.
#[derive(Clone, Default)]
pub struct Model(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    revision: i64,
    keys: BTreeMap<Bytes, KeyValue>,
    requests: Vec<TxnRequest>,
}

impl Model {
    /// Writes keys in one transaction. Gives its revision.
    pub fn write(&self, operations: Vec<RequestOp>) -> i64 {
        let request = TxnRequest {
            success: operations,
            ..TxnRequest::default()
        };
        let answer = self.0.lock().expect("no panic").txn(&request);
        answer.header.expect("it has one").revision
    }

    /// The keys with a prefix.
    pub fn keys(&self, prefix: &[u8]) -> Vec<Bytes> {
        let inner = self.0.lock().expect("no panic");
        let keys = inner.keys.keys().filter(|key| key.starts_with(prefix));
        keys.cloned().collect()
    }

    /// The transactions since this was last asked.
    pub fn requests(&self) -> Vec<TxnRequest> {
        std::mem::take(&mut self.0.lock().expect("no panic").requests)
    }
}

impl Kv for Model {
    async fn txn(&self, request: TxnRequest, deadline: Instant) -> Result<TxnResponse, Error> {
        if deadline <= Instant::now() {
            let late = Outcome::Unknown(Doubt::Deadline);
            return Err(Error::new(late, "its time has passed".to_owned()));
        }
        let mut inner = self.0.lock().expect("no panic");
        let answer = inner.txn(&request);
        inner.requests.push(request);
        Ok(answer)
    }

    async fn hold(&self, _prefix: &str) -> Result<Option<Hold>, Error> {
        Ok(None)
    }
}

impl Inner {
    fn txn(&mut self, request: &TxnRequest) -> TxnResponse {
        let next = self.revision + 1;
        let answer = self.carry_out(request, next);
        let is_changed = self.keys.values().any(|row| row.mod_revision == next);
        if is_changed || answer.responses.iter().any(has_deleted) {
            self.revision = next;
        }
        TxnResponse {
            header: Some(ResponseHeader {
                revision: self.revision,
                ..ResponseHeader::default()
            }),
            ..answer
        }
    }

    fn carry_out(&mut self, request: &TxnRequest, next: i64) -> TxnResponse {
        let succeeded = request.compare.iter().all(|compare| self.holds(compare));
        let operations = if succeeded {
            &request.success
        } else {
            &request.failure
        };
        let responses = operations.iter().map(|operation| {
            let response = match operation.request.as_ref().expect("an operation") {
                Request::RequestRange(range) => Response::ResponseRange(self.range(range)),
                Request::RequestPut(put) => {
                    let version = self.keys.get(&put.key).map_or(0, |row| row.version);
                    let row = KeyValue {
                        key: put.key.clone(),
                        value: put.value.clone(),
                        mod_revision: next,
                        version: version + 1,
                        ..KeyValue::default()
                    };
                    self.keys.insert(put.key.clone(), row);
                    Response::ResponsePut(PutResponse::default())
                }
                Request::RequestDeleteRange(range) => {
                    let before = self.keys.len();
                    self.keys
                        .retain(|key, _| !is_in(key, &range.key, &range.range_end));
                    Response::ResponseDeleteRange(DeleteRangeResponse {
                        deleted: i64::try_from(before - self.keys.len()).expect("few"),
                        ..DeleteRangeResponse::default()
                    })
                }
                Request::RequestTxn(inner) => Response::ResponseTxn(self.carry_out(inner, next)),
            };
            ResponseOp {
                response: Some(response),
            }
        });
        TxnResponse {
            succeeded,
            responses: responses.collect(),
            ..TxnResponse::default()
        }
    }

    /// Keys are compared by the revision of their last change only.
    fn holds(&self, compare: &Compare) -> bool {
        let found = self
            .keys
            .get(&compare.key)
            .map_or(0, |row| row.mod_revision);
        compare.target_union == Some(TargetUnion::ModRevision(found))
    }

    fn range(&self, range: &RangeRequest) -> RangeResponse {
        let is_now = range.revision == 0 || range.revision == self.revision;
        assert!(is_now, "the model has no history");
        let found = self.keys.values();
        let found = found.filter(|row| is_in(&row.key, &range.key, &range.range_end));
        let mut kvs: Vec<_> = found.cloned().collect();
        let limit = match range.limit {
            0 => kvs.len(),
            limit => usize::try_from(limit).expect("a positive number"),
        };
        let more = kvs.len() > limit;
        kvs.truncate(limit);
        RangeResponse {
            kvs,
            more,
            ..RangeResponse::default()
        }
    }
}

fn has_deleted(response: &ResponseOp) -> bool {
    match &response.response {
        Some(Response::ResponseDeleteRange(range)) => range.deleted > 0,
        Some(Response::ResponseTxn(inner)) => inner.responses.iter().any(has_deleted),
        _ => false,
    }
}

/// Whether a key is in a range. Without an end that is one key alone.
fn is_in(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    match end {
        [] => key == start,
        end => key >= start && key < end,
    }
}
