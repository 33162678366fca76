//! Backup, restore and check, while a node is in use.

use std::time::SystemTime;

use sumd::etcd::{Client, delete, get, prefix, put};
use sumd::model::KeyedHasher;
use sumd::proto::etcd::etcdserverpb::{RequestOp, TxnRequest};
use sumd::proto::etcd::mvccpb::KeyValue;
use sumd::proto::sum::v1::IncrementCounterRequest;
use sumd::proto::sumd::store::v1::{Counter, Head, Meta};
use tonic::Code;

use super::{Places, does_not_serve, fails, sumd};
use crate::etcd::in_time;
use crate::simulation::rows::{open, seal};
use crate::support::reason;

/// Counting goes on during a backup. The copy is of one moment, wherever it is restored.
#[tokio::test]
#[ignore = "make test runs it"]
async fn a_backup_of_live_nodes_is_restored() {
    let places = Places::new().await;
    let there = places.etcd();
    let path = |name: &str| places.path(name).to_str().expect("a path").to_owned();
    let backup = path("backup.db");
    let problem = fails(&["backup", &backup, "--store", &there]).await;
    assert!(problem.contains("there are no counters"), "{problem}");
    let mut node = places.serve(&there).await;
    let now = SystemTime::now();
    for i in 0..50 {
        let counter = format!("group-{i}/a");
        node.increment(&counter, 1, &format!("id-{i}")).await;
    }
    let mut stream = node.session("meter", now).await;
    for sequence in 1..=20 {
        stream.send(sequence, 0, &[("s/a", 1), ("t/a", 1)]).await;
    }
    stream.acknowledged(20).await;
    sumd(&["backup", &backup, "--store", &there]).await;
    let problem = fails(&["backup", &backup, "--store", &there]).await;
    assert!(problem.contains("already exists"), "{problem}");
    let report = sumd(&["check", "--store", &there]).await;
    assert!(
        report.starts_with("counters=52 deleted=0 ids=50 sessions=1"),
        "{report}"
    );
    // No process reads the history any more, so nodes may compact it.
    let holds = prefix("/sumd/holds/".to_owned(), 1);
    let holds = places.etcd.client().range(holds, in_time()).await;
    assert!(holds.expect("it can be read").kvs.is_empty());
    stream.send(21, 20, &[("s/a", 1)]).await;
    stream.acknowledged(21).await;
    let last = node.increment("group-0/a", 1, "").await;
    let problem = fails(&["restore", &backup, "--store", &there]).await;
    assert!(problem.contains("there are data under /sumd"), "{problem}");

    // Restored to etcd under another prefix, and to a file.
    let prefix = "--etcd-prefix=/other";
    let report = sumd(&["restore", &backup, "--store", &there, prefix]).await;
    assert!(
        report.starts_with("counters=52 deleted=0 ids=50 sessions=1"),
        "{report}"
    );
    let file = places.file("restored.db");
    sumd(&["restore", &backup, "--store", &file]).await;
    let other = places.serve_with(&there, &[prefix]).await;
    for mut restored in [other, places.serve(&file).await] {
        assert_eq!(restored.sum("").await, 90);
        let again = restored.increment("group-7/a", 1, "id-7").await;
        assert_eq!((again.value, again.replayed), (1, true));
        let new = restored.increment("group-0/a", 1, "").await;
        assert_eq!(new.value, 2);
        assert!(new.revision > last.revision, "none is given twice");
        let mut ahead = restored.session("meter", now).await;
        ahead.send(22, 21, &[("s/a", 1)]).await;
        let problem = ahead.next().await.expect_err("message 21 is not there");
        assert_eq!(reason(&problem).0, "SESSION_LOST");
        let mut stream = restored.session("meter", now).await;
        stream.send(20, 19, &[("s/a", 1), ("t/a", 1)]).await;
        stream.send(21, 20, &[("s/a", 1)]).await;
        stream.acknowledged(21).await;
        assert_eq!(restored.sum("s/").await, 21);
    }
}

/// A row of etcd that the test changes.
struct Row {
    client: Client,
    row: KeyValue,
}

impl Row {
    async fn first(client: &Client, of: &str) -> Self {
        let found = client.range(prefix(of.to_owned(), 1), in_time()).await;
        let row = found.expect("it can be read").kvs.into_iter().next();
        Self {
            client: client.clone(),
            row: row.expect("there is one"),
        }
    }

    async fn write(&self, operation: RequestOp) {
        let request = TxnRequest {
            success: vec![operation],
            ..TxnRequest::default()
        };
        let written = self.client.txn(request, in_time()).await;
        written.expect("it is written");
    }

    async fn restore(&self) {
        self.write(put(self.row.key.clone(), self.row.value.clone()))
            .await;
    }
}

/// Check and backup of changing data see one consistent moment.
#[tokio::test]
#[ignore = "make test runs it"]
async fn what_changes_meanwhile_does_no_harm() {
    let places = Places::new().await;
    let there = places.etcd();
    let node = places.serve(&there).await;
    let mut clients = tokio::task::JoinSet::new();
    for i in 0..4 {
        let mut client = node.client.clone();
        clients.spawn(async move {
            for n in 0.. {
                let request = IncrementCounterRequest {
                    counter: format!("group-{}/a", n % 7),
                    delta: 1,
                    request_id: format!("{i}-{n}"),
                    ..IncrementCounterRequest::default()
                };
                client.increment_counter(request).await.expect("a value");
            }
        });
    }
    let mut before = 0;
    for round in 0..5 {
        sumd(&["check", "--store", &there]).await;
        let backup = places.path(&format!("{round}.db"));
        let backup = backup.to_str().expect("a path");
        sumd(&["backup", backup, "--store", &there]).await;
        let connection = rusqlite::Connection::open(backup).expect("a database");
        let sum = "SELECT sum(value) FROM counter";
        let sum = connection.query_row(sum, [], |row| row.get(0));
        let sum: i64 = sum.expect("a sum");
        assert!(sum > before, "{sum} after {before}");
        before = sum;
        let report = sumd(&["check", "--store", &format!("sqlite:{backup}")]).await;
        let ids = format!(" ids={sum} ");
        assert!(report.contains(&ids), "as many as increments: {report}");
    }
}

/// A log that lacks a pack is found.
#[tokio::test]
#[ignore = "make test runs it"]
async fn a_log_with_a_gap_is_found() {
    let places = Places::new().await;
    let there = places.etcd();
    let mut node = places.serve(&there).await;
    for i in 0..300 {
        node.increment("acme/a", 1, &format!("id-{i}")).await;
    }
    node.stop().await;
    sumd(&["check", "--store", &there]).await;
    let client = places.etcd.client();
    let packs = prefix("/sumd/log/pack/".to_owned(), 0);
    let packs = client.range(packs, in_time()).await.expect("packs").kvs;
    assert!(packs.len() >= 3, "{} packs", packs.len());
    for (at, problem) in [
        (0, "its log is from batch"),
        (1, "a batch is missing"),
        (packs.len() - 1, "a batch is missing"),
    ] {
        let pack = Row {
            client: client.clone(),
            row: packs[at].clone(),
        };
        pack.write(delete(pack.row.key.clone())).await;
        let found = fails(&["check", "--store", &there]).await;
        assert!(found.contains(problem), "{found}");
        pack.restore().await;
    }
    // The pack was written again, so its batches are not of the row's revision any more, and they do not record their
    // own.
    let found = fails(&["check", "--store", &there]).await;
    assert!(found.contains("cannot follow"), "{found}");
}

/// All damage is found, and damaged data are neither copied nor served.
#[tokio::test]
#[ignore = "make test runs it"]
async fn damage_is_found() {
    let places = Places::new().await;
    let there = places.etcd();
    let mut node = places.serve(&there).await;
    for i in 0..5 {
        node.increment("acme/a", 1, &format!("id-{i}")).await;
    }
    let begun = SystemTime::now();
    let mut stream = node.session("meter", begun).await;
    stream.send(1, 0, &[("later/a", 1)]).await;
    stream.acknowledged(1).await;
    drop(stream);
    node.stop().await;
    // Moved data have rows of each kind.
    let here = places.file("a.db");
    super::moves(&there, &here).await;
    let other = ["--store", &there, "--etcd-prefix=/other"];
    let moved = [&["move", "--from", &here, "--to", &there], &other[2..]].concat();
    sumd(&moved).await;
    let client = places.etcd.client();
    let meta = Row::first(&client, "/other/meta").await;
    let hasher = KeyedHasher::new(*b"sumd's meta rows");
    let told: Meta = open(hasher, &meta.row.key, &meta.row.value);
    let hasher = KeyedHasher::new((&*told.key).try_into().expect("a key"));

    let check = [&["check"], &other[..]].concat();
    sumd(&check).await;
    for kind in ["meta", "log/head/", "counters/", "before/", "sessions/"] {
        let row = Row::first(&client, &format!("/other/{kind}")).await;
        let mut value = row.row.value.to_vec();
        *value.last_mut().expect("bytes") ^= 1;
        row.write(put(row.row.key.clone(), value)).await;
        let problem = fails(&check).await;
        let key = String::from_utf8_lossy(&row.row.key).into_owned();
        assert!(
            problem.contains(&key) && problem.contains("check sum"),
            "{problem}"
        );
        assert!(!problem.contains("missing"), "it is there: {problem}");
        let backup = places.path("backup.db");
        let backup = backup.to_str().expect("a path");
        fails(&[&["backup", backup], &other[..]].concat()).await;
        row.restore().await;
    }

    let row = Row::first(&client, "/other/counters/").await;
    let mut counter: Counter = open(hasher, &row.row.key, &row.row.value);
    counter.value += 1;
    let value = seal(hasher, &row.row.key, &counter);
    row.write(put(row.row.key.clone(), value)).await;
    let problem = fails(&check).await;
    assert!(
        problem.contains("does not have the value that revision"),
        "{problem}"
    );
    row.restore().await;

    let row = Row::first(&client, "/other/log/head/").await;
    let mut head: Head = open(hasher, &row.row.key, &row.row.value);
    head.seq += 1;
    let value = seal(hasher, &row.row.key, &head);
    row.write(put(row.row.key.clone(), value)).await;
    let problem = fails(&check).await;
    assert!(
        problem.contains("its log is from batch 1 to 1"),
        "{problem}"
    );
    // Violates one of the conditions on a head at a time.
    let changes: [fn(&mut Head); 6] = [
        |head| head.folded = head.seq + 1,
        |head| head.forget_before = head.seq + 2,
        |head| head.horizon = head.time + 48 * 3_600_000,
        |head| head.log_from = head.open_from + 1,
        |head| (head.log_from, head.open_from) = (1, head.seq + 2),
        |head| head.forgotten = i64::MAX,
    ];
    for change in changes {
        let mut head: Head = open(hasher, &row.row.key, &row.row.value);
        change(&mut head);
        let value = seal(hasher, &row.row.key, &head);
        row.write(put(row.row.key.clone(), value)).await;
        let problem = fails(&check).await;
        assert!(problem.contains("contradicts itself"), "{problem}");
    }
    row.restore().await;
    sumd(&check).await;

    let meta = Row::first(&client, "/other/meta").await;
    meta.write(delete(meta.row.key.clone())).await;
    let problem = fails(&check).await;
    assert!(problem.contains("there are no counters"), "{problem}");
    let gone = client.range(get("/other/meta"), in_time()).await;
    assert!(gone.expect("it can be read").kvs.is_empty());
    assert!(does_not_serve(&here).await.contains("were moved to"));
}

/// Messages of a session are refused if its row is damaged in any lane. Other sessions and counters of that lane are
/// served.
#[tokio::test]
#[ignore = "make test runs it"]
async fn a_damaged_session_is_refused_and_no_other_is() {
    let places = Places::new().await;
    let (here, there) = (places.file("a.db"), places.etcd());
    let mut server = places.serve(&here).await;
    let begun = SystemTime::now();
    // The session's lane is that of the counter.
    let mut stream = server.session("acme", begun).await;
    stream.send(1, 0, &[("acme/a", 1)]).await;
    stream.acknowledged(1).await;
    drop(stream);
    server.stop().await;
    super::moves(&here, &there).await;
    let row = Row::first(&places.etcd.client(), "/sumd/sessions/").await;
    row.write(put(row.row.key.clone(), "no row")).await;

    let mut node = places.serve(&there).await;
    let told = r#"the row of session "acme" is damaged"#;
    assert_eq!(node.increment("acme/a", 1, "").await.value, 2);
    node.process.logged(told).await;
    for sequence in [0, 1, 2] {
        let increments = [("acme/a", 1)];
        let increments = &increments[..usize::from(sequence > 0)];
        let mut stream = node.session("acme", begun).await;
        stream.send(sequence, 0, increments).await;
        let refused = stream.next().await.expect_err("it is damaged");
        let (why, metadata) = reason(&refused);
        assert_eq!(
            (refused.code(), &*why, &*metadata["outcome"]),
            (Code::DataLoss, "SESSION_DAMAGED", "UNKNOWN")
        );
    }
    let mut stream = node.session("other", begun).await;
    stream.send(1, 0, &[("acme/a", 1)]).await;
    stream.acknowledged(1).await;
    drop(stream);
    assert_eq!(node.increment("acme/a", 1, "").await.value, 4);
    node.process.signal("TERM");
    let later = node.process.rest_of_log().await;
    let messages = later.iter().filter_map(|line| line["message"].as_str());
    let again = messages.filter(|message| message.starts_with(told)).count();
    assert_eq!(
        again, 0,
        "it is told when the lane is loaded, and not by streams"
    );
    assert!(node.process.exit().await.success());
    let problem = fails(&["check", "--store", &there]).await;
    let key = String::from_utf8_lossy(&row.row.key).into_owned();
    assert!(problem.contains(&key), "{problem}");
    let backup = places.path("backup.db");
    let backup = backup.to_str().expect("a path");
    let problem = fails(&["backup", backup, "--store", &there]).await;
    assert!(problem.contains(&key), "{problem}");
    assert!(!places.path("backup.db").exists());
}
