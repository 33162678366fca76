//! A model of etcd: versions of keys, and transactions on them.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use sumd::etcd::Refusal;
use sumd::proto::etcd::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use sumd::proto::etcd::etcdserverpb::request_op::Request;
use sumd::proto::etcd::etcdserverpb::response_op::Response;
use sumd::proto::etcd::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest,
    RangeResponse, RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
};
use sumd::proto::etcd::mvccpb::KeyValue;

/// Bytes that etcd accepts in one request by default (`--max-request-bytes`).
const MAX_REQUEST_BYTES: usize = 3 << 19;

/// The whole state of a cluster.
pub struct Etcd {
    /// Larger requests are refused.
    pub max_request_bytes: usize,
    revision: i64,
    /// Everything before this revision is compacted.
    compacted: i64,
    /// The versions of each key, the oldest first.
    keys: BTreeMap<Bytes, Vec<Version>>,
}

#[derive(Clone)]
struct Version {
    revision: i64,
    created: i64,
    /// The number of versions since the key was created.
    number: i64,
    /// `None` if it was deleted.
    value: Option<Bytes>,
}

/// The operations that a transaction carries out.
struct Path<'a> {
    succeeded: bool,
    steps: Vec<Step<'a>>,
}

enum Step<'a> {
    Operation(&'a RequestOp),
    Inner(Path<'a>),
}

impl<'a> Path<'a> {
    fn operations(&self, all: &mut Vec<&'a RequestOp>) {
        for step in &self.steps {
            match step {
                Step::Operation(operation) => all.push(operation),
                Step::Inner(inner) => inner.operations(all),
            }
        }
    }
}

impl Etcd {
    pub fn new() -> Self {
        Self {
            max_request_bytes: MAX_REQUEST_BYTES,
            revision: 1,
            compacted: 0,
            keys: BTreeMap::new(),
        }
    }

    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Carries out a transaction.
    ///
    /// # Errors
    /// Returns a refusal if etcd would refuse it; nothing is changed then.
    pub fn txn(&mut self, request: &TxnRequest) -> Result<TxnResponse, Refusal> {
        if request.encoded_len() > self.max_request_bytes {
            return Err(Refusal::TooLarge);
        }
        let path = self.path(request);
        let mut operations = Vec::new();
        path.operations(&mut operations);
        self.check(&operations)?;
        let mut changed = false;
        let responses = self.carry_out(&path, &mut changed);
        self.revision += i64::from(changed);
        Ok(TxnResponse {
            header: Some(ResponseHeader {
                revision: self.revision,
                ..ResponseHeader::default()
            }),
            succeeded: path.succeeded,
            responses,
        })
    }

    /// The operations to carry out: all comparisons are made before any of them.
    fn path<'a>(&self, request: &'a TxnRequest) -> Path<'a> {
        let succeeded = request.compare.iter().all(|compare| self.holds(compare));
        let operations = if succeeded {
            &request.success
        } else {
            &request.failure
        };
        let step = |operation: &'a RequestOp| match operation.request.as_ref() {
            Some(Request::RequestTxn(inner)) => Step::Inner(self.path(inner)),
            _ => Step::Operation(operation),
        };
        Path {
            succeeded,
            steps: operations.iter().map(step).collect(),
        }
    }

    fn carry_out(&mut self, path: &Path<'_>, changed: &mut bool) -> Vec<ResponseOp> {
        let next = self.revision + 1;
        let mut responses = Vec::new();
        for step in &path.steps {
            let response = match step {
                Step::Inner(inner) => Response::ResponseTxn(TxnResponse {
                    succeeded: inner.succeeded,
                    responses: self.carry_out(inner, changed),
                    ..TxnResponse::default()
                }),
                Step::Operation(operation) => match operation.request.as_ref() {
                    Some(Request::RequestRange(range)) => {
                        Response::ResponseRange(self.range(range))
                    }
                    Some(Request::RequestPut(put)) => {
                        *changed = true;
                        self.put(put, next);
                        Response::ResponsePut(PutResponse::default())
                    }
                    Some(Request::RequestDeleteRange(delete)) => {
                        let deleted = self.delete(delete, next);
                        *changed |= deleted > 0;
                        Response::ResponseDeleteRange(DeleteRangeResponse {
                            deleted,
                            ..DeleteRangeResponse::default()
                        })
                    }
                    other => panic!("the model has no {other:?}"),
                },
            };
            responses.push(ResponseOp {
                response: Some(response),
            });
        }
        responses
    }

    /// Compacts everything before a revision.
    pub fn compact(&mut self, revision: i64) {
        let revision = revision.min(self.revision);
        self.compacted = self.compacted.max(revision);
        for versions in self.keys.values_mut() {
            let old = versions.partition_point(|version| version.revision <= revision);
            let last_is_dead = old > 0 && versions[old - 1].value.is_none();
            versions.drain(..old.saturating_sub(usize::from(!last_is_dead)));
        }
        self.keys.retain(|_, versions| !versions.is_empty());
    }

    /// The revision of a key's last change, or 0 if the key does not exist.
    pub fn changed(&self, key: &[u8]) -> i64 {
        let last = self.keys.get(key).and_then(|versions| versions.last());
        last.filter(|version| version.value.is_some())
            .map_or(0, |version| version.revision)
    }

    fn holds(&self, compare: &Compare) -> bool {
        assert_eq!(compare.result, i32::from(CompareResult::Equal));
        assert_eq!(compare.target, i32::from(CompareTarget::Mod));
        let Some(TargetUnion::ModRevision(expected)) = compare.target_union else {
            panic!("the model has no {compare:?}");
        };
        self.changed(&compare.key) == expected
    }

    fn check(&self, operations: &[&RequestOp]) -> Result<(), Refusal> {
        let mut written: Vec<&Bytes> = Vec::new();
        let mut deleted: Vec<&DeleteRangeRequest> = Vec::new();
        for operation in operations {
            match operation.request.as_ref() {
                Some(Request::RequestRange(range)) => match range.revision {
                    at if at > self.revision => return Err(Refusal::FutureRevision),
                    at if at > 0 && at < self.compacted => return Err(Refusal::Compacted),
                    _ => {}
                },
                Some(Request::RequestPut(put)) => written.push(&put.key),
                Some(Request::RequestDeleteRange(range)) => deleted.push(range),
                _ => {}
            }
        }
        let count = written.len();
        let covers = |key: &Bytes| {
            deleted
                .iter()
                .any(|range| is_in(key, &range.key, &range.range_end))
        };
        let is_clean = !written.iter().any(|key| covers(key));
        written.sort_unstable();
        written.dedup();
        // etcd's error is "duplicate key given in txn request".
        if !is_clean || written.len() < count {
            return Err(Refusal::Invalid);
        }
        Ok(())
    }

    fn put(&mut self, put: &PutRequest, revision: i64) {
        let versions = self.keys.entry(put.key.clone()).or_default();
        let before = versions.last().filter(|version| version.value.is_some());
        versions.push(Version {
            revision,
            created: before.map_or(revision, |before| before.created),
            number: before.map_or(1, |before| before.number + 1),
            value: Some(put.value.clone()),
        });
    }

    fn delete(&mut self, delete: &DeleteRangeRequest, revision: i64) -> i64 {
        let mut deleted = 0;
        for (key, versions) in self.keys.range_mut(delete.key.clone()..) {
            if !is_in(key, &delete.key, &delete.range_end) {
                break;
            }
            if versions.last().is_some_and(|last| last.value.is_some()) {
                deleted += 1;
                versions.push(Version {
                    revision,
                    created: 0,
                    number: 0,
                    value: None,
                });
            }
        }
        deleted
    }

    fn range(&self, range: &RangeRequest) -> RangeResponse {
        let at = match range.revision {
            0 => i64::MAX,
            revision => revision,
        };
        let mut kvs = Vec::new();
        let mut count = 0;
        for (key, versions) in self.keys.range(range.key.clone()..) {
            if !is_in(key, &range.key, &range.range_end) {
                break;
            }
            let seen = versions.partition_point(|version| version.revision <= at);
            let Some(version) = seen.checked_sub(1).map(|last| &versions[last]) else {
                continue;
            };
            let Some(value) = &version.value else {
                continue;
            };
            count += 1;
            if range.limit == 0 || count <= range.limit {
                kvs.push(KeyValue {
                    key: key.clone(),
                    create_revision: version.created,
                    mod_revision: version.revision,
                    version: version.number,
                    value: value.clone(),
                    lease: 0,
                });
            }
        }
        RangeResponse {
            header: None,
            more: i64::try_from(kvs.len()).is_ok_and(|found| found < count),
            kvs,
            count,
        }
    }
}

/// Whether a key is in a range, in etcd's notation: an empty end means the key alone, and a zero byte means no end.
fn is_in(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    match end {
        [] => key == start,
        [0] => key >= start,
        end => key >= start && key < end,
    }
}
