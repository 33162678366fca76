//! Counters of which the log tells newer values than their rows, read in pages of two.

use super::*;
use crate::etcd::put;
use crate::model::CounterChange;
use crate::proto::etcd::etcdserverpb::request_op::Request;
use crate::store::Store as _;
use crate::store::etcd::kv::tests::model::Model;
use crate::store::etcd::log::tests::commit;
use crate::store::etcd::{EtcdStore, Tuning};

async fn data() -> (Model, EtcdStore<Model>) {
    let kv = Model::default();
    let tuning = Tuning {
        rows_page: 2,
        ..Tuning::default()
    };
    let store = EtcdStore::over(kv.clone(), "/sumd", 128, tuning).await;
    let store = store.expect("it is empty");
    let layout = &store.0.layout;
    for (name, value) in [
        ("f/x", 512),
        ("g/a", 1),
        ("g/b", 2),
        ("g/c", 4),
        ("g/d", 8),
        ("g/e", 16),
        ("h/x", 1024),
    ] {
        let key = layout.counter(name);
        let row = stored::Counter { value, revision: 1 };
        kv.write(vec![put(key.clone(), layout.seal(&key, &row))]);
    }
    let change = |(name, value, place): (&str, _, _)| CounterChange {
        name: name.into(),
        value,
        place,
        is_new: false,
    };
    let mut next = commit(1);
    next.places = 4;
    next.changes.counters = [
        ("g/b", Some(32), 1),
        ("g/bb", Some(64), 2),
        ("g/d", None, 3),
        ("g/f", Some(128), 4),
    ]
    .map(change)
    .into();
    let lane = layout.hasher.lane("g", layout.lanes);
    store.load(lane).await.expect("it is empty");
    let committed = store.commit(lane, Arc::new(next)).await;
    committed.expect("it is well");
    (kv, store)
}

/// Each counter is in a sum once, with its newest value, and in the sum of its prefix only.
#[tokio::test]
async fn a_sum_has_each_counter_once() {
    let (_, store) = data().await;
    for (prefix, sum, count) in [("g/", 245, 6), ("g/b", 96, 2), ("", 1781, 8), ("x", 0, 0)] {
        let found = store.sum(prefix.into()).await.expect("it is well");
        assert_eq!((found.sum, found.count), (sum, count), "{prefix}");
    }
}

/// Page by page, each counter comes once, in the order of the names, whether it is in the rows, the log, or both.
#[tokio::test]
async fn a_scan_has_each_counter_once() {
    let (_, store) = data().await;
    for limit in [1, 2, 3, 100] {
        let mut scan = Scan {
            prefix: "g/".into(),
            limit,
            ..Scan::default()
        };
        let mut found = Vec::new();
        for pages in 0.. {
            assert!(pages < 20, "no end");
            let page = store.scan(scan.clone()).await.expect("it is well");
            assert!(page.rows.len() <= limit);
            found.extend(page.rows.into_iter().map(|row| (row.name, row.value)));
            scan.after = page.next;
            if scan.after.is_none() {
                break;
            }
        }
        let found: Vec<_> = found
            .iter()
            .map(|(name, value)| (&**name, *value))
            .collect();
        assert_eq!(
            found,
            [
                ("g/a", Some(1)),
                ("g/b", Some(32)),
                ("g/bb", Some(64)),
                ("g/c", Some(4)),
                ("g/e", Some(16)),
                ("g/f", Some(128)),
            ]
        );
        // Rows before the prefix are not read.
        scan.after = Some("a".into());
        let page = store.scan(scan).await.expect("it is well");
        assert_eq!(&*page.rows[0].name, "g/a");
    }
}

/// The rows of a session are read as they were when the heads were: the log tells what was added until then.
#[tokio::test]
async fn a_session_is_read_at_one_moment() {
    let (kv, store) = data().await;
    kv.requests();
    let found = store.session("meter-7".into()).await.expect("it is well");
    assert!(found.lanes.is_empty());
    let requests = kv
        .requests()
        .into_iter()
        .flat_map(|request| request.success);
    let read_at = requests.filter_map(|operation| match operation.request? {
        Request::RequestRange(range) if range.key.ends_with(b"/meter-7") => Some(range.revision),
        _ => None,
    });
    let read_at: Vec<_> = read_at.collect();
    assert!(!read_at.is_empty() && read_at.iter().all(|revision| *revision > 0));
}
