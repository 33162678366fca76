//! Data that are written to a model of etcd, and read there.

mod seal;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use prost::Message as _;
use tokio::time::Instant;

use super::import::{Filling, is_begun, swap};
use super::verify::Survey;
use crate::etcd::{Error, delete, put};
use crate::maintenance::dump::Dump;
use crate::maintenance::report::ToolError;
use crate::model::{
    Applied, Changes, Commit, CounterChange, Effect, KeyedHasher, Millis, Session, Stamp, pack,
    pack_of,
};
use crate::proto::etcd::etcdserverpb::request_op::Request;
use crate::proto::etcd::etcdserverpb::{TxnRequest, TxnResponse};
use crate::proto::sumd::store::v1::{Counter, Meta};
use crate::store::etcd::kv::tests::model::Model;
use crate::store::etcd::rows::{FORMAT, Layout};
use crate::store::etcd::{EtcdStore, Hold, Kv, Location, Tuning, meta};
use crate::store::{Remembered, Row, Store as _};

const PREFIX: &str = "/sumd";
const TIME: Millis = 1_700_000_000_000;
const TWO_DAYS: Millis = 48 * 3_600_000;

fn place<K>(client: K, lanes: u32) -> Location<K> {
    Location {
        client,
        prefix: PREFIX.to_owned(),
        max_operations: 16,
        lanes,
    }
}

fn meta() -> Meta {
    Meta {
        format: FORMAT,
        lanes: 1,
        key: vec![7; 16].into(),
        ..Meta::default()
    }
}

fn describe(kv: &Model, meta: &Meta) {
    kv.write(meta::replace(PREFIX, meta, 0).success);
}

async fn described(kv: &Model) -> Meta {
    let (found, _) = meta::read(kv, PREFIX).await.expect("an answer");
    found.expect("it is there").0
}

/// An etcd on which something happens after a transaction that compares something.
#[derive(Clone)]
struct Raced {
    kv: Model,
    compared: Arc<AtomicU32>,
    after: u32,
    happens: fn(&Model),
}

impl Raced {
    fn new(kv: &Model, after: u32, happens: fn(&Model)) -> Self {
        Self {
            kv: kv.clone(),
            compared: Arc::default(),
            after,
            happens,
        }
    }
}

impl Kv for Raced {
    async fn txn(&self, request: TxnRequest, deadline: Instant) -> Result<TxnResponse, Error> {
        let compares = !request.compare.is_empty();
        let answer = self.kv.txn(request, deadline).await;
        if compares && self.compared.fetch_add(1, Ordering::Relaxed) + 1 == self.after {
            (self.happens)(&self.kv);
        }
        answer
    }

    async fn hold(&self, _prefix: &str) -> Result<Option<Hold>, Error> {
        Ok(None)
    }
}

fn remembered(time: Millis, base: i64, ids: Vec<u8>) -> Remembered {
    Remembered {
        time,
        newest: Some(time),
        base,
        places: 1,
        ids: ids.into(),
    }
}

fn dump(packs: Vec<Remembered>) -> Dump {
    Dump {
        hasher: KeyedHasher::new([7; 16]),
        lanes: 1,
        revision: 1000,
        forgotten: 10,
        time: TIME,
        horizon: TIME - 7,
        session_horizon: TIME - 9,
        packs,
        sessions: vec![("meter-7".into(), Session::damaged(TIME))],
    }
}

fn counter(name: &str, value: Option<i64>, revision: i64) -> Row {
    Row {
        name: name.into(),
        value,
        revision,
    }
}

async fn write(kv: &Model, lanes: u32, dump: &Dump, rows: &[Row]) -> Filling<Model> {
    let place = place(kv.clone(), lanes);
    let filling = Filling::begin(&place, dump, 5).await;
    let mut filling = filling.expect("there is nothing else");
    filling.counters(rows).await.expect("it is written");
    let rest = filling.rest(dump, dump.forgotten);
    rest.await.expect("it is written");
    filling
}

/// The survey once all is read, the contents but for the counters, and the counters.
async fn read(kv: &Model) -> (Survey<Model>, Dump, Vec<Row>) {
    let survey = Survey::begin(kv.clone(), PREFIX).await;
    let mut survey = survey.expect("it is there");
    let dump = survey.dump().await.expect("an answer");
    let mut counters = Vec::new();
    let all = survey.counters(|rows| {
        counters.extend_from_slice(rows);
        Ok(())
    });
    all.await.expect("an answer");
    (survey, dump, counters)
}

/// The revisions of etcd that ranges were read at.
fn read_at(kv: &Model) -> Vec<i64> {
    let requests = kv.requests();
    let operations = requests.iter().flat_map(|request| &request.success);
    let meta = format!("{PREFIX}/meta");
    let revision = operations.filter_map(|operation| match operation.request.as_ref()? {
        Request::RequestRange(range) if range.key != *meta => Some(range.revision),
        _ => None,
    });
    revision.collect()
}

/// Everything that a store held is there again once it is written, in transactions that etcd takes and that land only while nobody
/// else writes. Ids that are not needed any more are left out.
#[tokio::test]
async fn what_is_written_is_read() {
    const IDS: u64 = 12_000;
    let kv = Model::default();
    let large = |first: u64| {
        let ids: Vec<_> = (first..first + IDS).map(|number| (number, 1)).collect();
        pack(&ids)
    };
    let old = remembered(TIME - 7 - TWO_DAYS, 100, large(0));
    let new = (1..4).map(|at| remembered(TIME - 5 + at, 100 + at, large(at.cast_unsigned() * IDS)));
    let dumped = dump(std::iter::once(old).chain(new).collect());
    let rows = [
        counter("a", Some(1), 500),
        counter("b", None, 600),
        counter("c", Some(3), 700),
    ];
    let filling = write(&kv, 2, &dumped, &rows).await;
    let writes = kv.requests().into_iter();
    let writes = writes.filter(|request| !request.compare.is_empty());
    let meta = Layout::new(PREFIX, &described(&kv).await, 0).expect("a format that is known");
    for request in writes.clone().skip(2) {
        assert_eq!(request.compare[0].key, meta.meta());
        assert!(request.encoded_len() < 600 << 10);
    }
    assert!(writes.count() > 5);
    // Of data that nobody changes no history is needed.
    read(&kv).await;
    assert!(read_at(&kv).iter().all(|revision| *revision == 0));

    filling.open().await.expect("it is complete");
    kv.requests();
    let (survey, found, counters) = read(&kv).await;
    assert!(read_at(&kv).iter().all(|revision| *revision > 0));
    let report = survey.report;
    assert_eq!(report.problems, [""; 0]);
    assert_eq!((report.counters, report.sessions), (2, 1));
    assert_eq!(report.ids, 3 * IDS);
    let bases: Vec<_> = found.packs.iter().map(|pack| pack.base).collect();
    assert_eq!(bases, [101, 102, 103]);
    assert_eq!((found.time, found.horizon), (TIME, TIME - 7));
    assert_eq!((found.session_horizon, found.forgotten), (TIME - 9, 600));
    let sessions: Vec<_> = found.sessions.iter().map(|(id, _)| &**id).collect();
    assert_eq!(sessions, ["meter-7"]);
    let counters = counters
        .iter()
        .map(|row| (&*row.name, row.value, row.revision));
    let counters: Vec<_> = counters.collect();
    assert_eq!(counters, [("a", Some(1), 500), ("c", Some(3), 700)]);

    kv.write(vec![delete(meta.before(3))]);
    let problems = read(&kv).await.0.report.problems;
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0].contains("its last rows are missing"),
        "{problems:?}"
    );
}

/// A counter is compared with what the change at its revision was answered, although that was in another store.
#[tokio::test]
async fn answers_from_elsewhere_tell_of_damage() {
    let added = Effect::Incremented(Applied {
        value: 2,
        applied: 2,
    });
    let ids = pack_of(&[(1, 1, added)]);
    for (value, is_damaged) in [(2, false), (1, true)] {
        let kv = Model::default();
        let dumped = dump(vec![remembered(TIME, 499, ids.clone())]);
        write(&kv, 1, &dumped, &[counter("a", Some(value), 500)]).await;
        let problems = read(&kv).await.0.report.problems;
        assert_eq!(!problems.is_empty(), is_damaged, "{problems:?}");
    }
}

/// Data are written only to a prefix that is empty or has the rest of an earlier attempt, which is deleted, and by one writer
/// at a time.
#[tokio::test]
async fn nothing_is_overwritten() {
    let kv = Model::default();
    let dumped = dump(vec![remembered(TIME, 1, pack(&[(1, 1)]))]);
    assert!(!is_begun(&place(kv.clone(), 1)).await.expect("an answer"));
    let filling = Filling::begin(&place(kv.clone(), 1), &dumped, 0).await;
    filling.expect("it is empty");
    assert!(is_begun(&place(kv.clone(), 1)).await.expect("an answer"));
    // Its rows of ids are still to come.
    assert_eq!(read(&kv).await.0.report.problems, [""; 0]);

    write(&kv, 8, &dumped, &[counter("a", Some(1), 5)]).await;
    let other = Dump {
        hasher: KeyedHasher::new([8; 16]),
        ..dump(Vec::new())
    };
    let refused = Filling::begin(&place(kv.clone(), 1), &other, 0).await;
    assert!(matches!(refused, Err(ToolError::NotEmpty(_))));
    let filling = write(&kv, 2, &dumped, &[counter("b", Some(1), 5)]).await;
    filling.open().await.expect("it is complete");
    let (survey, _, counters) = read(&kv).await;
    assert_eq!(survey.report.problems, [""; 0]);
    assert_eq!((counters.len(), &*counters[0].name), (1, "b"));
    let refused = Filling::begin(&place(kv.clone(), 2), &dumped, 0).await;
    assert!(matches!(refused, Err(ToolError::NotEmpty(_))));

    // Somebody else begins right after the row is put right.
    let kv = Model::default();
    let late = Raced::new(&kv, 2, |kv| {
        let filling = Meta {
            filling: true,
            ..meta()
        };
        describe(kv, &filling);
    });
    let refused = Filling::begin(&place(late, 1), &dumped, 0).await;
    assert!(matches!(refused, Err(ToolError::NotEmpty(_))));
}

/// Parts of a message that are applied in some lanes are known by these lanes only.
#[tokio::test]
async fn a_message_that_is_applied_in_part_keeps_its_lanes() {
    // In one lane it has the first message, which has two parts.
    let row = [&[2, 2, 1, 0, 1, 1, 2][..], &[7; 8]].concat();
    let row = Session::decode(&row).expect("a session");
    let session = Session::merge_shards(&[(0, row)], 2, TIME);
    assert_eq!(session.partially_applied(), Some(2));
    let dumped = Dump {
        sessions: vec![("meter-7".into(), session)],
        ..dump(Vec::new())
    };
    let begin = async |lanes| Filling::begin(&place(Model::default(), lanes), &dumped, 0).await;
    let refused = begin(8).await.err().expect("there are others").to_string();
    assert!(refused.contains("--etcd-lanes"), "{refused}");
    assert!(begin(2).await.is_ok());
}

/// The first row is replaced if it is as it was, or is by now as it is to be: an earlier copy may have landed.
#[tokio::test]
async fn the_first_row_is_replaced_once() {
    let kv = Model::default();
    describe(&kv, &meta());
    let place = place(kv.clone(), 1);
    let other = Meta {
        format: FORMAT - 1,
        ..meta()
    };
    swap(&place, &meta(), 99).await.expect("it is there");
    let refused = swap(&place, &other, 99).await;
    assert!(matches!(refused, Err(ToolError::Refused(_))));
    assert_eq!(described(&kv).await, meta());
}

/// Counters are what the log says of them, or what their rows say if the log has nothing newer. A row that is newer than the log is
/// damage.
#[tokio::test]
async fn counters_are_what_rows_and_the_log_say() {
    let kv = Model::default();
    describe(&kv, &meta());
    let store = EtcdStore::over(kv.clone(), PREFIX, 128, Tuning::default()).await;
    let store = store.expect("data");
    store.load(0).await.expect("it is empty");
    let change = |(name, value, place): (&str, _, _)| CounterChange {
        name: name.into(),
        value,
        place,
        is_new: false,
    };
    let counters = [
        ("b", Some(2), 1),
        ("c", Some(3), 2),
        ("d", Some(4), 3),
        ("f", None, 4),
        ("g", Some(7), 5),
        ("i", Some(9), 6),
    ];
    let commit = Commit {
        seq: 1,
        time: TIME,
        stamp: Stamp::of_time(TIME),
        horizon: 0,
        session_horizon: 0,
        places: 6,
        ids: [].into(),
        forget_before: 1,
        deletions_up_to: 0,
        changes: Changes {
            counters: counters.map(change).into(),
            sessions: Vec::new(),
        },
    };
    let base = store
        .commit(0, Arc::new(commit))
        .await
        .expect("it is well")
        .base;
    let layout = Layout::new(PREFIX, &meta(), 1).expect("a format that is known");
    for (name, value, revision) in [
        ("a", 1, 1),
        ("b", 0, 1),
        ("c", 3, base + 2),
        ("e", 5, 1),
        ("f", 6, 1),
        ("g", 0, base + 6),
        ("h", 8, 1),
    ] {
        let key = layout.counter(name);
        let row = layout.seal(&key, &Counter { value, revision });
        kv.write(vec![put(key, row)]);
    }
    let (survey, _, found) = read(&kv).await;
    let found: Vec<_> = found.iter().map(|row| (&*row.name, row.value)).collect();
    assert_eq!(
        found,
        [
            ("a", Some(1)),
            ("b", Some(2)),
            ("c", Some(3)),
            ("d", Some(4)),
            ("e", Some(5)),
            ("f", None),
            ("h", Some(8)),
            ("i", Some(9)),
        ]
    );
    let problems = survey.report.problems;
    assert_eq!(problems, [r#"counter "g" is ahead of its lane's log"#]);
}
