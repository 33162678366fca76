//! Rows whose check sum is right: their contents may be of another version, or of a program with a bug.

// A panic is how a target reports what it found.
#![allow(clippy::missing_panics_doc)]

use std::collections::BTreeMap;
use std::fmt::Debug;

use prost::Message;

use super::etcd::rows::{self, Layout};
use super::etcd::sessions::tell;
use super::sqlite::rows::Log;
use crate::model::fuzzing::hasher;
use crate::proto::etcd::mvccpb::KeyValue;
use crate::proto::sumd::store::v1::{Batch, Before, Counter, Head, Meta, Pack, Session};

const KEY: &[u8] = b"sumd/row";

/// A row in etcd, or the log of a batch in SQLite. The first byte chooses the kind of the row.
pub fn row(bytes: &[u8]) {
    let Some((kind, contents)) = bytes.split_first() else {
        return;
    };
    match kind % 7 {
        0 => {
            if let Some(meta) = in_etcd::<Meta>(contents) {
                let _ = Layout::new("sumd", &meta, 1);
            }
        }
        1 => {
            if let Some(head) = in_etcd::<Head>(contents) {
                batches(&head.batches);
            }
        }
        2 => {
            if let Some(pack) = in_etcd::<Pack>(contents) {
                batches(&pack.batches);
            }
        }
        3 => {
            in_etcd::<Counter>(contents);
        }
        4 => {
            in_etcd::<Session>(contents);
        }
        5 => {
            in_etcd::<Before>(contents);
        }
        _ => log(contents),
    }
}

/// Opens a row, if prost decodes its contents. It is the same when it is sealed and opened again.
fn in_etcd<M: Message + Default + PartialEq + Debug>(contents: &[u8]) -> Option<M> {
    let check = hasher().check(&[KEY, contents]).to_le_bytes();
    let value = [&check, contents].concat();
    let row = |value| KeyValue {
        key: KEY.into(),
        value,
        ..KeyValue::default()
    };
    let opened = rows::open::<M>(hasher(), &row(value.into())).ok();
    assert_eq!(opened, M::decode(contents).ok());
    let opened = opened?;
    let sealed = row(rows::seal(hasher(), KEY, &opened));
    assert_eq!(rows::open(hasher(), &sealed).as_ref(), Ok(&opened));
    Some(opened)
}

fn batches(batches: &[Batch]) {
    let mut told = BTreeMap::new();
    for batch in batches {
        let _ = rows::changes(batch);
        let _ = rows::stamp(batch.time, &batch.extras);
        tell(batch, &mut told);
    }
    for session in told.values() {
        let _ = session.session();
    }
}

/// The log of a batch in SQLite: its changes are those of the contents.
fn log(contents: &[u8]) {
    const SEQ: u64 = 7;
    let check = hasher().check(&[&SEQ.to_le_bytes(), contents]);
    let log = [&check.to_le_bytes(), contents].concat();
    let Ok(log_read) = Log::new(hasher(), SEQ, &log) else {
        assert!(contents.len() < size_of::<u64>());
        return;
    };
    assert_eq!(log_read.bytes(), log.len());
    let mut revisions = Vec::new();
    let read = log_read.read(100, |latest| revisions.push(latest.revision));
    if read.is_ok() {
        assert!(revisions.iter().all(|revision| *revision >= 100));
    }
}
