//! Makes and reads rows of etcd in sumd's formats, which `proto/sumd/store/v1/etcd.proto` describes.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::FutureExt as _;
use prost::Message;
use sumd::etcd::{Error, put};
use sumd::model::KeyedHasher;
use sumd::proto::etcd::etcdserverpb::request_op::Request;
use sumd::proto::etcd::etcdserverpb::{TxnRequest, TxnResponse};
use sumd::proto::sumd::store::v1::Meta;
use sumd::store::etcd::{EtcdStore, Hold, Kv, Tuning};
use tokio::time::Instant;

use super::etcd::Etcd;

pub const PREFIX: &str = "/sumd";
pub const HEADS: &str = "/sumd/log/head/";
pub const PACKS: &str = "/sumd/log/pack/";
/// The key of all digests. A new store makes a random one, which could not be repeated.
const KEY: [u8; 16] = *b"the same always.";

pub fn hasher() -> KeyedHasher {
    KeyedHasher::new(KEY)
}

/// Creates the data, with a number of lanes. Their format and everything else is as a new store writes it; only the key
/// is this one.
pub fn begin(etcd: &mut Etcd, lanes: u32) {
    let key = Bytes::from(format!("{PREFIX}/meta"));
    let new = Blank::default();
    let opened = EtcdStore::over(new.clone(), PREFIX, 128, Tuning::default());
    let opened = opened.now_or_never().expect("it is answered at once");
    opened.expect("there is nothing yet");
    let value = new.meta(&key);
    let (key, value) = meta(&Meta {
        lanes,
        key: KEY.to_vec().into(),
        ..open(meta_digests(), &key, &value)
    });
    let request = TxnRequest {
        success: vec![put(key, value)],
        ..TxnRequest::default()
    };
    etcd.txn(&request).expect("it is empty");
}

/// A separate etcd, which answers at once and records the transactions.
#[derive(Clone)]
struct Blank(Arc<Mutex<(Etcd, Vec<TxnRequest>)>>);

impl Default for Blank {
    fn default() -> Self {
        Self(Arc::new(Mutex::new((Etcd::new(), Vec::new()))))
    }
}

impl Blank {
    /// The `meta` row.
    fn meta(&self, key: &Bytes) -> Bytes {
        let known = self.0.lock().expect("no panic");
        let all = known.1.iter().flat_map(|request| &request.success);
        let mut puts = all.filter_map(|operation| match &operation.request {
            Some(Request::RequestPut(put)) if put.key == *key => Some(put.value.clone()),
            _ => None,
        });
        puts.next().expect("a new store writes it")
    }
}

impl Kv for Blank {
    async fn txn(&self, request: TxnRequest, _deadline: Instant) -> Result<TxnResponse, Error> {
        let mut known = self.0.lock().expect("no panic");
        let answer = known.0.txn(&request);
        known.1.push(request);
        Ok(answer.expect("it is a request that etcd takes"))
    }

    async fn hold(&self, _prefix: &str) -> Result<Option<Hold>, Error> {
        Ok(None)
    }
}

/// The key and value of the `meta` row.
pub fn meta(meta: &Meta) -> (String, Bytes) {
    let key = format!("{PREFIX}/meta");
    let value = seal(meta_digests(), key.as_bytes(), meta);
    (key, value)
}

/// The hasher for the check sum of that row, which holds the key of the others.
pub fn meta_digests() -> KeyedHasher {
    KeyedHasher::new(*b"sumd's meta rows")
}

pub fn seal(hasher: KeyedHasher, key: &[u8], row: &impl Message) -> Bytes {
    let message = row.encode_to_vec();
    let check = hasher.check(&[key, &message]);
    [&check.to_le_bytes()[..], &message].concat().into()
}

pub fn open<M: Message + Default>(hasher: KeyedHasher, key: &[u8], value: &[u8]) -> M {
    let (check, message) = value.split_first_chunk().expect("a check sum");
    assert_eq!(u32::from_le_bytes(*check), hasher.check(&[key, message]));
    M::decode(message).expect("a row")
}
