//! Moves without faults.

use std::time::{Duration, Instant, SystemTime};

use sumd::proto::sum::v1::{DeleteCounterRequest, WatchCountersRequest};
use tonic::Code;

use super::{Places, Server, does_not_move, does_not_serve, fails, moves, sumd};
use crate::support::{reason, soon};

/// Everything remembered on one side is remembered on the other, and at most one side serves at any time.
#[tokio::test]
#[ignore = "make test runs it"]
async fn what_was_remembered_goes_there_and_back() {
    let places = Places::new().await;
    let (here, there, back) = (places.file("a.db"), places.etcd(), places.file("b.db"));
    let begun = SystemTime::now() - Duration::from_secs(5);

    let mut server = places.serve(&here).await;
    let first = server.increment("acme/a", 5, "one").await;
    server.increment("acme/a", 1, "").await;
    server.increment("gone/a", 1, "").await;
    let delete = DeleteCounterRequest {
        counter: "gone/a".to_owned(),
        ..DeleteCounterRequest::default()
    };
    let deleted = soon(server.client.delete_counter(delete)).await;
    let last = deleted.expect("an answer").into_inner().revision;
    let mut stream = server.session("meter", begun).await;
    stream.send(1, 0, &[("s/a", 1), ("t/a", 2)]).await;
    stream.send(2, 0, &[("s/a", i64::MAX), ("u/a", 3)]).await;
    assert_eq!(stream.acknowledged(2).await, [(2, 0)]);
    let problem = does_not_move(&here, &there).await;
    assert!(problem.contains("in use by another process"), "{problem}");
    drop(stream);
    server.stop().await;

    let told = moves(&here, &there).await;
    assert!(
        told.starts_with("counters=4 sum=12 ids=1 sessions=1 check="),
        "{told}"
    );
    let problem = does_not_serve(&here).await;
    assert!(
        problem.contains(&format!("were moved to {there}")),
        "{problem}"
    );
    let problem = does_not_move(&here, &there).await;
    assert!(problem.contains("were moved to"), "{problem}");
    sumd(&["check", "--store", &here]).await;
    let copy = places.path("copy.db");
    sumd(&["backup", copy.to_str().expect("a path"), "--store", &here]).await;
    sumd(&["check", "--store", &there]).await;

    let mut node = places.serve(&there).await;
    remembers(&mut node, first.revision).await;
    let after = node.increment("acme/a", 10, "two").await;
    assert!(after.revision > last, "{} after {last}", after.revision);
    assert_eq!(after.value, 16);
    let mut stream = node.session("meter", begun).await;
    stream.send(2, 0, &[("s/a", i64::MAX), ("u/a", 3)]).await;
    assert_eq!(stream.acknowledged(2).await, [(2, 0)], "told again");
    stream.send(1, 0, &[("s/a", 1), ("t/a", 2)]).await;
    stream
        .send(3, 0, &[("s/a", 1), ("v/a", 4), ("w/a", 5)])
        .await;
    stream.acknowledged(3).await;
    let mut other = node.session("meter", begun).await;
    other.send(0, 0, &[]).await;
    other.send(2, 0, &[("s/a", 7)]).await;
    other.next().await.expect("what is acknowledged so far");
    let problem = other.next().await.expect_err("it was another message");
    assert_eq!(problem.code(), Code::AlreadyExists, "{problem}");
    stream.send(4, 3, &[("u/a", 1)]).await;
    stream.acknowledged(4).await;
    assert_eq!(node.sum("").await, 16 + 1 + 2 + 3 + 1 + 4 + 5 + 1);
    let problem = does_not_move(&there, &back).await;
    assert!(problem.contains("are in use by a"), "{problem}");
    node.increment("acme/a", 0, "").await;
    drop((stream, other));
    node.stop().await;

    moves(&there, &back).await;
    let problem = does_not_serve(&there).await;
    assert!(problem.contains("were moved to sqlite:/"), "{problem}");
    let other = places.file("c.db");
    let problem = does_not_move(&there, &other).await;
    assert!(problem.contains("were moved to sqlite:/"), "{problem}");
    sumd(&["check", "--store", &there]).await;
    let copy = places.path("other.db");
    sumd(&["backup", copy.to_str().expect("a path"), "--store", &there]).await;
    sumd(&["check", "--store", &back]).await;
    let mut server = places.serve(&back).await;
    remembers(&mut server, first.revision).await;
    let again = server.increment("acme/a", 10, "two").await;
    assert_eq!((again.revision, again.replayed), (after.revision, true));
    let next = server.increment("acme/a", 1, "").await;
    assert!(next.revision > after.revision);
    let mut stream = server.session("meter", begun).await;
    stream.send(4, 3, &[("u/a", 1)]).await;
    stream.send(5, 4, &[("s/a", 1), ("u/a", 1)]).await;
    stream.acknowledged(5).await;
    assert_eq!(server.sum("").await, 17 + 1 + 2 + 3 + 1 + 4 + 5 + 1 + 2);
}

/// The first increment gets its first answer, and no other request with its id does.
async fn remembers(server: &mut Server, revision: i64) {
    let again = server.increment("acme/a", 5, "one").await;
    assert_eq!((again.value, again.replayed), (5, true));
    assert_eq!(again.revision, revision);
    let other = server.try_increment("acme/a", 6, "one").await;
    let problem = other.expect_err("the id is another's");
    assert_eq!(problem.code(), Code::AlreadyExists);
}

/// A watcher resumes, or starts afresh if a counter that it knows may be gone.
#[tokio::test]
#[ignore = "make test runs it"]
async fn who_watches_goes_on() {
    let places = Places::new().await;
    let (here, there) = (places.file("a.db"), places.etcd());
    let mut server = places.serve(&here).await;
    let early = server.increment("gone/a", 1, "").await.revision;
    let delete = DeleteCounterRequest {
        counter: "gone/a".to_owned(),
        ..DeleteCounterRequest::default()
    };
    soon(server.client.delete_counter(delete))
        .await
        .expect("an answer");
    let late = server.increment("acme/a", 1, "").await.revision;
    server.increment("acme/b", 1, "").await;
    server.stop().await;
    moves(&here, &there).await;
    let mut node = places.serve(&there).await;
    for (from_revision, restarted, names) in [
        (early, true, &["acme/a", "acme/b"][..]),
        (late, false, &["acme/b"]),
    ] {
        let request = WatchCountersRequest {
            from_revision,
            ..WatchCountersRequest::default()
        };
        let answers = soon(node.client.watch_counters(request)).await;
        let mut answers = answers.expect("a stream").into_inner();
        let answer = soon(answers.message()).await.expect("an answer");
        let answer = answer.expect("it has no end");
        assert_eq!(answer.restarted, restarted);
        let found: Vec<_> = answer
            .counters
            .iter()
            .map(|counter| &*counter.name)
            .collect();
        assert_eq!(found, names);
        assert!(answer.revision >= late);
    }
}

/// A target has to be empty, whatever is in it.
#[tokio::test]
#[ignore = "make test runs it"]
async fn a_target_that_is_not_empty_is_refused() {
    let places = Places::new().await;
    let (here, there) = (places.file("a.db"), places.etcd());
    places.serve(&here).await.stop().await;
    places.serve(&there).await.stop().await;
    let problem = does_not_move(&here, &there).await;
    assert!(problem.contains("there are data under /sumd"), "{problem}");
    let problem = does_not_move(&there, &here).await;
    assert!(problem.contains("already exists"), "{problem}");
    let nowhere = places.file("none.db");
    let problem = does_not_move(&nowhere, &there).await;
    assert!(problem.contains("there is no database"), "{problem}");
    let args = [
        "move",
        "--from",
        &there,
        "--to",
        &nowhere,
        "--etcd-prefix",
        "/none",
    ];
    let problem = fails(&args).await;
    assert!(
        problem.contains("there are no counters under /none"),
        "{problem}"
    );
    let problem = does_not_move(&there, "sqlite:/proc/nowhere/a.db").await;
    assert!(problem.contains("cannot write /proc/nowhere"), "{problem}");
    // Neither side is closed by that.
    places.serve(&here).await.stop().await;
    let mut node = places.serve(&there).await;
    node.increment("acme/a", 1, "").await;
}

/// A session that began before the horizon continues as long as it is used, even in lanes that are new to it.
#[tokio::test]
#[ignore = "make test runs it"]
async fn an_old_session_goes_on_in_all_lanes() {
    let places = Places::new().await;
    let (here, there) = (places.file("a.db"), places.etcd());
    let flags = ["--session-horizon=4s", "--id-horizon=4s"];
    let mut server = places.serve_with(&here, &flags).await;
    let begun = SystemTime::now();
    let mut stream = server.session("meter", begun).await;
    let mut sequence = 0;
    while begun
        .elapsed()
        .is_ok_and(|age| age < Duration::from_secs(5))
    {
        sequence += 1;
        stream.send(sequence, sequence - 1, &[("a/a", 1)]).await;
        stream.acknowledged(sequence).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(stream);
    server.stop().await;
    moves(&here, &there).await;
    let mut node = places.serve_with(&there, &flags).await;
    let groups: Vec<_> = (0..20).map(|i| format!("group-{i}/a")).collect();
    let increments: Vec<_> = groups.iter().map(|name| (&**name, 1)).collect();
    let mut stream = node.session("meter", begun).await;
    stream.send(sequence + 1, sequence, &increments).await;
    stream.acknowledged(sequence + 1).await;
    assert_eq!(node.sum("group-").await, 20);
    let mut stream = node.session("new", begun).await;
    stream.send(1, 0, &[("a/a", 1)]).await;
    stream.next().await.expect("that nothing is acknowledged");
    let problem = stream.next().await.expect_err("it was begun long ago");
    assert_eq!(reason(&problem).0, "SESSION_TOO_OLD");
}

/// Data without any counters can be moved, too.
#[tokio::test]
#[ignore = "make test runs it"]
async fn nothing_goes_there_and_back() {
    let places = Places::new().await;
    let (here, there, back) = (places.file("a.db"), places.etcd(), places.file("b.db"));
    places.serve(&here).await.stop().await;
    moves(&here, &there).await;
    places.serve(&there).await.stop().await;
    moves(&there, &back).await;
    let mut server = places.serve(&back).await;
    assert_eq!(server.increment("a/a", 1, "").await.value, 1);
}

/// A client that is ahead of the data, as after an older backup was restored, gets SESSION_LOST, or SESSION_TOO_OLD if
/// its session may have been forgotten.
#[tokio::test]
#[ignore = "make test runs it"]
async fn a_client_that_is_ahead_is_told() {
    let places = Places::new().await;
    let mut node = places.serve(&places.etcd()).await;
    let now = SystemTime::now();
    let mut stream = node.session("meter", now).await;
    stream.send(1, 0, &[("a/a", 1)]).await;
    stream.acknowledged(1).await;
    let too_old = now - Duration::from_hours(48);
    for (id, begun, known, why) in [
        ("meter", now, 1, None),
        ("meter", now, 3, Some("SESSION_LOST")),
        ("other", now, 2, Some("SESSION_LOST")),
        ("other", too_old, 2, Some("SESSION_TOO_OLD")),
    ] {
        let mut stream = node.session(id, begun).await;
        stream.send(known + 1, known, &[("b/a", 1)]).await;
        let answer = stream.next().await;
        assert_eq!(answer.err().map(|status| reason(&status).0).as_deref(), why);
    }
}

/// A move whose transactions have more operations than etcd accepts is not repeated: its error names the flag to set,
/// and with that flag the move continues.
#[tokio::test]
#[ignore = "make test runs it"]
async fn transactions_that_are_too_large_name_the_flag() {
    let places = Places::new().await;
    let (here, there) = (places.file("a.db"), places.etcd());
    let mut server = places.serve(&here).await;
    let mut stream = server.session("meter", SystemTime::now()).await;
    let names: Vec<_> = (0..200).map(|i| format!("group/{i}")).collect();
    let increments: Vec<_> = names.iter().map(|name| (name.as_str(), 1)).collect();
    stream.send(1, 0, &increments).await;
    stream.acknowledged(1).await;
    drop(stream);
    server.stop().await;
    let began = Instant::now();
    let more = ["--from", &here, "--to", &there, "--etcd-max-txn-ops=1000"];
    let problem = fails(&[&["move"], &more[..]].concat()).await;
    assert!(problem.contains("(--etcd-max-txn-ops)"), "{problem}");
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "it has tried again"
    );
    let told = moves(&here, &there).await;
    assert!(told.starts_with("counters=200 sum=200 "), "{told}");
}
