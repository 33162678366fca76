//! Rows of etcd as sumd keeps them, made and read here: `proto/sumd/store/v1/etcd.proto` says how.

use bytes::Bytes;
use prost::Message;
use sumd::model::Digests;
use sumd::proto::etcd::etcdserverpb::TxnRequest;
use sumd::proto::sumd::store::v1::Meta;
use sumd::store::etcd::client::put;

use super::etcd::Etcd;

pub const PREFIX: &str = "/sumd";
pub const HEADS: &str = "/sumd/log/head/";
pub const PACKS: &str = "/sumd/log/pack/";
/// The key of all digests. A new store makes one by chance, which nobody can repeat.
const KEY: [u8; 16] = *b"the same always.";

pub fn digests() -> Digests {
    Digests::new(KEY)
}

/// Begins the data, with so many lanes.
pub fn begin(etcd: &mut Etcd, lanes: u32) {
    let (key, value) = meta(&Meta {
        format: 1,
        lanes,
        key: KEY.to_vec().into(),
        revisions_before: 0,
        ..Meta::default()
    });
    let request = TxnRequest {
        success: vec![put(key, value)],
        ..TxnRequest::default()
    };
    etcd.txn(&request).expect("it is empty");
}

/// The row that says what the data are.
pub fn meta(meta: &Meta) -> (String, Bytes) {
    let key = format!("{PREFIX}/meta");
    let value = seal(meta_digests(), key.as_bytes(), meta);
    (key, value)
}

/// What that row is checked with, which tells the key of the others.
pub fn meta_digests() -> Digests {
    Digests::new(*b"sumd's meta rows")
}

pub fn seal(digests: Digests, key: &[u8], row: &impl Message) -> Bytes {
    let message = row.encode_to_vec();
    let check = digests.check(&[key, &message]);
    [&check.to_le_bytes()[..], &message].concat().into()
}

pub fn open<M: Message + Default>(digests: Digests, key: &[u8], value: &[u8]) -> M {
    let (check, message) = value.split_first_chunk().expect("a check sum");
    assert_eq!(u32::from_le_bytes(*check), digests.check(&[key, message]));
    M::decode(message).expect("a row")
}
