//! Requests that are easy to get wrong when written out.

use bytes::Bytes;

use crate::proto::etcd::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::etcd::etcdserverpb::request_op::Request;
use crate::proto::etcd::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};

/// The end of the range of keys with a prefix: the first key after all of them.
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let last = prefix.iter().rposition(|&byte| byte < u8::MAX);
    match last {
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            end.into()
        }
        // No key comes after them: etcd's notation for "to the end".
        None => Bytes::from_static(&[0]),
    }
}

/// Reads one key.
#[must_use]
pub fn get(key: impl Into<Bytes>) -> RangeRequest {
    RangeRequest {
        key: key.into(),
        ..RangeRequest::default()
    }
}

/// Reads keys from `start` up to but not including `end`, in order, at most `limit`.
#[must_use]
pub fn range(start: impl Into<Bytes>, end: impl Into<Bytes>, limit: i64) -> RangeRequest {
    RangeRequest {
        key: start.into(),
        range_end: end.into(),
        limit,
        ..RangeRequest::default()
    }
}

/// Reads keys with a prefix, in order, at most `limit`.
#[must_use]
pub fn prefix(prefix: impl Into<Bytes>, limit: i64) -> RangeRequest {
    let (key, range_end) = prefix_range(prefix.into());
    range(key, range_end, limit)
}

/// Writes a key, in a transaction.
#[must_use]
pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> RequestOp {
    PutRequest {
        key: key.into(),
        value: value.into(),
        ..PutRequest::default()
    }
    .into()
}

/// Deletes a key, in a transaction.
#[must_use]
pub fn delete(key: impl Into<Bytes>) -> RequestOp {
    DeleteRangeRequest {
        key: key.into(),
        ..DeleteRangeRequest::default()
    }
    .into()
}

/// Deletes all keys with a prefix, in a transaction.
#[must_use]
pub fn delete_prefix(prefix: impl Into<Bytes>) -> RequestOp {
    let (key, range_end) = prefix_range(prefix.into());
    DeleteRangeRequest {
        key,
        range_end,
        ..DeleteRangeRequest::default()
    }
    .into()
}

/// The guard that a key was last changed at this revision; 0 if it must not exist.
#[must_use]
pub fn at_revision(key: impl Into<Bytes>, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key: key.into(),
        target_union: Some(TargetUnion::ModRevision(revision)),
        range_end: Bytes::new(),
    }
}

/// The guard that no key with a prefix was written after a revision.
#[must_use]
pub fn not_after(prefix: impl Into<Bytes>, revision: i64) -> Compare {
    let (key, range_end) = prefix_range(prefix.into());
    Compare {
        result: CompareResult::Less.into(),
        target: CompareTarget::Mod.into(),
        key,
        target_union: Some(TargetUnion::ModRevision(revision + 1)),
        range_end,
    }
}

/// The first key with a prefix and the end of their range; all keys if the prefix is empty.
pub(super) fn prefix_range(prefix: Bytes) -> (Bytes, Bytes) {
    let end = prefix_end(&prefix);
    if prefix.is_empty() {
        // No key is empty, and etcd takes an empty one for a mistake.
        return (Bytes::from_static(&[0]), end);
    }
    (prefix, end)
}

impl From<RangeRequest> for RequestOp {
    fn from(request: RangeRequest) -> Self {
        let request = Some(Request::RequestRange(request));
        Self { request }
    }
}

impl From<PutRequest> for RequestOp {
    fn from(request: PutRequest) -> Self {
        let request = Some(Request::RequestPut(request));
        Self { request }
    }
}

impl From<TxnRequest> for RequestOp {
    fn from(request: TxnRequest) -> Self {
        let request = Some(Request::RequestTxn(request));
        Self { request }
    }
}

impl From<DeleteRangeRequest> for RequestOp {
    fn from(request: DeleteRangeRequest) -> Self {
        let request = Some(Request::RequestDeleteRange(request));
        Self { request }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests are limited, since readers expect small answers.
    #[test]
    fn a_range_has_a_limit() {
        assert_eq!(range("a", "b", 7).limit, 7);
        assert_eq!(prefix("a", 7).limit, 7);
    }

    /// A key that was written at the revision itself passes.
    #[test]
    fn a_guard_lets_pass_what_was_written_up_to_a_revision() {
        let guard = not_after("/sumd/nodes/", 7);
        assert_eq!(guard.target_union, Some(TargetUnion::ModRevision(8)));
        assert_eq!(guard.result(), CompareResult::Less);
        assert_eq!(
            (&*guard.key, &*guard.range_end),
            (&b"/sumd/nodes/"[..], &b"/sumd/nodes0"[..])
        );
    }

    #[test]
    fn the_end_of_a_prefix_is_the_next_key_without_it() {
        for (prefix, end) in [
            (&b"a"[..], &b"b"[..]),
            (b"a/", b"a0"),
            (b"a\xff", b"b"),
            (b"a\xff\xff", b"b"),
            (b"\xff", b"\0"),
            (b"", b"\0"),
        ] {
            assert_eq!(prefix_end(prefix), end, "{prefix:?}");
        }
    }
}
