//! Moves that are killed: either the source is usable, or the move can be run again, and never are both sides usable.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use sumd::etcd::{at_revision, delete_prefix, get, put};
use sumd::proto::etcd::etcdserverpb::TxnRequest;
use sumd::proto::sumd::store::v1::Meta;
use sumd::store::etcd::check_not_moved;
use sumd::store::sqlite::SqliteStore;
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use super::{Places, Server, does_not_move, does_not_serve, fails, moves, run, sumd};
use crate::etcd::in_time;
use crate::simulation::rows;
use crate::support::process::{SUMD, command, signal};
use crate::support::soon;

const COUNTERS: i64 = 200;

async fn fill(places: &Places, store: &str) {
    let mut server = places.serve(store).await;
    for i in 0..COUNTERS {
        let counter = format!("group-{}/{i}", i % 20);
        server.increment(&counter, i, &format!("id-{i}")).await;
    }
    server.stop().await;
}

/// Asserts that all data are there, and remembered.
async fn is_whole(server: &mut Server) {
    let sum = i128::from(COUNTERS * (COUNTERS - 1) / 2);
    assert_eq!(server.sum("").await, sum);
    for i in [0, 7, COUNTERS - 1] {
        let counter = format!("group-{}/{i}", i % 20);
        let again = server.increment(&counter, i, &format!("id-{i}")).await;
        assert!(again.replayed, "{counter}");
    }
    assert_eq!(server.sum("").await, sum);
}

async fn sides(places: &Places, path: &Path) -> (bool, bool) {
    let file = path.exists() && SqliteStore::open(path, 1 << 20).is_ok();
    let etcd = check_not_moved(&places.etcd.client(), "/sumd").await;
    (file, etcd.is_ok())
}

/// Kills moves later and later, until one completes before it is killed.
async fn kill_until_moved(places: &Places, path: &Path, from: &str, to: &str) -> usize {
    let mut args = vec!["move", "--from", from, "--to", to];
    if to.starts_with("etcd") {
        args.push("--etcd-max-txn-ops=64");
    }
    for attempt in 0.. {
        let mut child = command(SUMD)
            .args(&args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the program is built");
        let after = Duration::from_millis(4 * attempt);
        if let Ok(ended) = timeout(after, child.wait()).await {
            let ended = ended.expect("a child");
            let (file, etcd) = sides(places, path).await;
            assert!(file != etcd, "{file} and {etcd} after {attempt} attempts");
            if !ended.success() {
                // The killed attempt had completed all of its work.
                let target_is_of_use = if from.starts_with("sqlite") {
                    etcd
                } else {
                    file
                };
                assert!(target_is_of_use, "it has failed");
            }
            return usize::try_from(attempt).expect("few");
        }
        soon(child.kill()).await.expect("it runs");
        let (file, etcd) = sides(places, path).await;
        assert!(!(file && etcd), "both are of use");
    }
    unreachable!("it takes some time at the most");
}

#[tokio::test]
#[ignore = "make test runs it"]
async fn a_move_that_is_killed_is_run_again() {
    let places = Places::new().await;
    let (here, there) = (places.file("a.db"), places.etcd());
    fill(&places, &here).await;
    let attempts = kill_until_moved(&places, &places.path("a.db"), &here, &there).await;
    assert!(attempts > 3, "{attempts} attempts");
    let mut node = places.serve(&there).await;
    is_whole(&mut node).await;
    node.stop().await;

    let back = places.file("b.db");
    let attempts = kill_until_moved(&places, &places.path("b.db"), &there, &back).await;
    assert!(attempts > 3, "{attempts} attempts");
    let mut server = places.serve(&back).await;
    is_whole(&mut server).await;
}

/// A failed move does not affect running nodes. A node that was stopped during a move does not count any more.
#[tokio::test]
#[ignore = "make test runs it"]
async fn a_source_that_is_in_use_is_not_harmed() {
    let places = Places::new().await;
    let there = places.etcd();
    fill(&places, &there).await;
    let mut node = places.serve(&there).await;
    for _ in 0..3 {
        let problem = does_not_move(&there, &places.file("a.db")).await;
        assert!(problem.contains("stop all nodes first"), "{problem}");
        node.increment("acme/a", 0, "").await;
    }
    // A stopped node, whose lease expires, finds the data sealed when it resumes.
    node.process.signal("STOP");
    let gone = async {
        while run(&["move", "--from", &there, "--to", &places.file("a.db")])
            .await
            .status
            .code()
            != Some(0)
        {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    soon(gone).await;
    node.process.signal("CONT");
    let late = node.try_increment("acme/a", 1, "").await;
    late.expect_err("the data are elsewhere");
    assert_eq!(node.process.exit().await.code(), Some(1));
    assert!(does_not_serve(&there).await.contains("were moved to"));
    let mut server = places.serve(&places.file("a.db")).await;
    is_whole(&mut server).await;
}

/// An incomplete move is undone and run again, any number of times.
#[tokio::test]
#[ignore = "make test runs it"]
async fn a_move_from_etcd_that_is_broken_off_is_undone() {
    let places = Places::new().await;
    let (there, here) = (places.etcd(), places.file("a.db"));
    fill(&places, &there).await;
    let problem = fails(&["reopen", "--store", &there]).await;
    assert!(problem.contains("nothing to undo"), "{problem}");
    // The counters are sealed by then, and nothing can be written.
    let in_the_way = places.path("a.db.partial");
    std::fs::create_dir(&in_the_way).expect("a folder");
    for _ in 0..2 {
        let problem = does_not_move(&there, &here).await;
        assert!(problem.contains("a.db.partial"), "{problem}");
    }
    let problem = does_not_serve(&there).await;
    assert!(problem.contains("run it again"), "{problem}");
    let told = sumd(&["reopen", "--store", &there]).await;
    assert!(told.contains(&here), "{told}");
    let mut node = places.serve(&there).await;
    is_whole(&mut node).await;
    node.stop().await;

    does_not_move(&there, &here).await;
    std::fs::remove_dir(&in_the_way).expect("the folder");
    moves(&there, &here).await;
    let mut server = places.serve(&here).await;
    is_whole(&mut server).await;
}

/// A file that has served increments keeps its source closed, whatever its name is by then, unless `--force` is given.
#[tokio::test]
#[ignore = "make test runs it"]
async fn a_move_from_etcd_that_is_complete_is_neither_undone_nor_made_again() {
    let places = Places::new().await;
    let (there, here) = (places.etcd(), places.file("a.db"));
    fill(&places, &there).await;
    moves(&there, &here).await;
    let problem = does_not_move(&there, &here).await;
    assert!(problem.contains("the move is complete"), "{problem}");
    std::fs::rename(places.path("a.db"), places.path("b.db")).expect("it is renamed");
    let mut server = places.serve(&places.file("b.db")).await;
    server.increment("acme/a", 1, "later").await;
    server.stop().await;

    for problem in [
        does_not_move(&there, &here).await,
        fails(&["reopen", "--store", &there]).await,
        does_not_serve(&there).await,
    ] {
        assert!(problem.contains("the move is complete"), "{problem}");
        assert!(problem.contains("--force"), "{problem}");
    }
    assert!(!places.path("a.db").exists());
    // A copy of the served file is not taken for the file that lacks its name.
    let left = places.path("a.db.partial");
    std::fs::rename(places.path("b.db"), &left).expect("it is renamed");
    let problem = does_not_move(&there, &here).await;
    assert!(problem.contains("the move is complete"), "{problem}");
    assert!(left.exists(), "it is somebody's");

    // A repeated move that is interrupted leaves the earlier one complete.
    std::fs::rename(&left, places.path("b.db")).expect("it is renamed");
    std::fs::create_dir(&left).expect("a folder");
    let problem = fails(&["move", "--from", &there, "--to", &here, "--force"]).await;
    assert!(problem.contains("a.db.partial"), "{problem}");
    std::fs::remove_dir(&left).expect("the folder");
    for problem in [
        does_not_move(&there, &here).await,
        fails(&["reopen", "--store", &there]).await,
    ] {
        assert!(problem.contains("the move is complete"), "{problem}");
    }

    sumd(&["move", "--from", &there, "--to", &here, "--force"]).await;
    fails(&["reopen", "--store", &there]).await;
    sumd(&["reopen", "--store", &there, "--force"]).await;
    let mut node = places.serve(&there).await;
    is_whole(&mut node).await;
    node.stop().await;
}

/// A move that stops after it was recorded as complete, and before its file has its name, is finished by the next one.
/// No other file can be created in its place.
#[tokio::test]
#[ignore = "make test runs it"]
async fn a_file_that_lacks_its_name_only_is_given_it() {
    let places = Places::new().await;
    let (there, here) = (places.etcd(), places.file("a.db"));
    fill(&places, &there).await;
    let path = |name: &str| places.path(name).to_str().expect("a path").to_owned();
    let (file, left, backup) = (path("a.db"), path("a.db.partial"), path("backup.db"));
    sumd(&["backup", &backup, "--store", &there]).await;
    let told = moves(&there, &here).await;
    std::fs::rename(&file, &left).expect("it is renamed");

    let prefix = "--etcd-prefix=/other";
    let other = places.serve_with(&there, &[prefix]).await;
    other.stop().await;
    for problem in [
        does_not_serve(&here).await,
        fails(&["restore", &backup, "--store", &here]).await,
        fails(&["backup", &file, "--store", &there]).await,
        fails(&["backup", &file, "--store", &format!("sqlite:{backup}")]).await,
        fails(&["move", "--from", &there, "--to", &here, prefix]).await,
        fails(&["reopen", "--store", &there]).await,
        does_not_serve(&there).await,
    ] {
        assert!(problem.contains("a.db.partial"), "{problem}");
        assert!(problem.contains("run the same move again"), "{problem}");
        assert!(!places.path("a.db").exists(), "{problem}");
    }
    std::fs::copy(&backup, &file).expect("another file");
    let problem = does_not_move(&there, &here).await;
    assert!(problem.contains("its file is"), "{problem}");
    assert!(problem.contains("is in the way"), "{problem}");
    std::fs::remove_file(&file).expect("the file");

    assert_eq!(moves(&there, &here).await, told);
    assert!(!places.path("a.db.partial").exists());
    let mut server = places.serve(&here).await;
    is_whole(&mut server).await;
}

/// Of two moves to the same path, as on two machines, one completes. The other leaves no file.
#[tokio::test]
#[ignore = "make test runs it"]
async fn of_two_moves_to_one_path_one_is_complete() {
    let places = Places::new().await;
    let (there, here) = (places.etcd(), places.file("a.db"));
    fill(&places, &there).await;
    let mut slow = loop {
        let slow = command(SUMD)
            .args(["move", "--from", &there, "--to", &here])
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the program is built");
        soon(async { while meta(&places).await.0.moved_to.is_empty() {} }).await;
        signal(&slow, "STOP");
        let (mut meta, revision) = meta(&places).await;
        if meta.completed_move.is_empty() {
            meta.completed_move = b"the other's".as_slice().into();
            if put_meta(&places, &meta, revision).await {
                break slow;
            }
        }
        // It was complete by then.
        signal(&slow, "CONT");
        let ended = soon(slow.wait_with_output()).await.expect("a child");
        assert!(ended.status.success(), "{ended:?}");
        std::fs::remove_file(places.path("a.db")).expect("the file");
        sumd(&["reopen", "--store", &there, "--force"]).await;
    };
    signal(&slow, "CONT");
    let stderr = slow.stderr.take();
    let ended = soon(slow.wait()).await.expect("a child");
    assert_eq!(ended.code(), Some(1));
    let mut problem = String::new();
    let read = soon(stderr.expect("a pipe").read_to_string(&mut problem)).await;
    read.expect("text");
    assert!(problem.contains("moved by another process"), "{problem}");
    assert!(!places.path("a.db").exists());
    assert!(!places.path("a.db.partial").exists());
    let problem = does_not_move(&there, &here).await;
    assert!(problem.contains("the move is complete"), "{problem}");
}

/// A move by a version that records no completion can be repeated or undone, unless its file is there.
#[tokio::test]
#[ignore = "make test runs it"]
async fn a_move_by_an_older_version_is_undone_and_made_again() {
    let places = Places::new().await;
    let (there, here) = (places.etcd(), places.file("a.db"));
    fill(&places, &there).await;
    moves(&there, &here).await;
    forget_completion(&places).await;
    for problem in [
        does_not_move(&there, &here).await,
        fails(&["reopen", "--store", &there]).await,
    ] {
        assert!(problem.contains("which exists: serve that"), "{problem}");
    }
    std::fs::remove_file(places.path("a.db")).expect("the file");
    moves(&there, &here).await;
    forget_completion(&places).await;
    std::fs::remove_file(places.path("a.db")).expect("the file");
    sumd(&["reopen", "--store", &there]).await;
    let mut node = places.serve(&there).await;
    is_whole(&mut node).await;
    node.stop().await;
}

/// Writes the `meta` row as it was before completion was recorded.
async fn forget_completion(places: &Places) {
    let (mut meta, revision) = meta(places).await;
    assert!(!meta.completed_move.is_empty());
    meta.completed_move.clear();
    assert!(put_meta(places, &meta, revision).await);
}

/// The `meta` row, and the revision of its last change.
async fn meta(places: &Places) -> (Meta, i64) {
    let client = places.etcd.client();
    let found = client.range(get("/sumd/meta"), in_time()).await;
    let row = found.expect("an answer").kvs.remove(0);
    let meta = rows::open(rows::meta_digests(), &row.key, &row.value);
    (meta, row.mod_revision)
}

/// Writes the `meta` row, unless it has changed since.
async fn put_meta(places: &Places, meta: &Meta, revision: i64) -> bool {
    let (key, value) = rows::meta(meta);
    let request = TxnRequest {
        compare: vec![at_revision(key.clone(), revision)],
        success: vec![put(key, value)],
        ..TxnRequest::default()
    };
    let written = places.etcd.client().txn(request, in_time()).await;
    written.expect("an answer").succeeded
}

/// A target that is gone is not filled again with the source's earlier data, unless `--force` is given.
#[tokio::test]
#[ignore = "make test runs it"]
async fn a_move_to_etcd_that_is_complete_is_not_made_again() {
    let places = Places::new().await;
    let (here, there) = (places.file("a.db"), places.etcd());
    fill(&places, &here).await;
    moves(&here, &there).await;
    let mut node = places.serve(&there).await;
    node.increment("acme/a", 1, "later").await;
    node.stop().await;
    let all = TxnRequest {
        success: vec![delete_prefix("/sumd/")],
        ..TxnRequest::default()
    };
    let deleted = places.etcd.client().txn(all, in_time()).await;
    deleted.expect("deleted");
    let problem = does_not_move(&here, &there).await;
    assert!(problem.contains("which has no data now"), "{problem}");
    assert!(problem.contains("--force"), "{problem}");
    sumd(&["move", "--from", &here, "--to", &there, "--force"]).await;
    let mut node = places.serve(&there).await;
    is_whole(&mut node).await;
    node.stop().await;
}
