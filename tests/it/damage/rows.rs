//! Rows that another program has changed or deleted are noticed, as far as other rows imply them.

use std::fs;

use sumd::proto::sum::v1::IncrementCounterRequest;

use super::{Data, client, does_not_serve, fails, sumd};
use crate::support::soon;

/// Number of batches, each with an id.
const BATCHES: usize = 5;

/// Fills a database with batches of one id each. After `KILL`, their changes are in the log alone.
async fn fill(data: &Data, end: &str) {
    let mut server = data.serve().await;
    let mut client = client(&server).await;
    for i in 1..=BATCHES {
        let request = IncrementCounterRequest {
            counter: "acme/a".into(),
            delta: 1,
            request_id: format!("id-{i}"),
            ..IncrementCounterRequest::default()
        };
        let answer = soon(client.increment_counter(request)).await;
        assert!(!answer.expect("a value").into_inner().replayed);
    }
    server.signal(end);
    server.exit().await;
    if end == "KILL" {
        // SQLite's write-ahead log is merged into the file, which is copied without it.
        data.tamper("PRAGMA wal_checkpoint(TRUNCATE)");
    }
    let output = sumd(&["check", "--data-dir", data.folder()]).await;
    assert!(output.status.success(), "{output:?}");
}

/// Damages the data in each of these ways, and asserts that neither a server nor a check nor a backup accepts them.
async fn assert_noticed(data: &Data, damages: &[(&str, &str)]) {
    let whole = fs::read(data.database()).expect("a database");
    let backup = data.0.path().join("backup.db");
    let backup = backup.to_str().expect("a path");
    for (sql, told) in damages {
        data.tamper(sql);
        let problems = [
            does_not_serve(data).await,
            fails(&["check", "--data-dir", data.folder()]).await,
            fails(&["backup", backup, "--data-dir", data.folder()]).await,
        ];
        for problem in problems {
            assert!(problem.contains(told), "{sql}: {problem}");
        }
        for suffix in ["-wal", "-shm"] {
            let _ = fs::remove_file(data.0.path().join(format!("sumd.db{suffix}")));
        }
        fs::write(data.database(), &whole).expect("room");
    }
    let mut left: Vec<_> = fs::read_dir(data.0.path())
        .expect("a folder")
        .map(|file| file.expect("a file").file_name())
        .collect();
    left.retain(|name| name.to_string_lossy().starts_with("backup"));
    assert!(left.is_empty(), "{left:?}");
}

/// The table `meta` decides how the other rows are read, so a server does not start if any of its rows has changed.
#[tokio::test]
async fn damage_of_meta_is_no_start() {
    let data = Data::new();
    fill(&data, "TERM").await;
    let damages = [
        "UPDATE meta SET value = value - 1 WHERE name = 'folded'",
        "UPDATE meta SET value = value + 8 WHERE name = 'folded'",
        "UPDATE meta SET value = 1 WHERE name = 'forgotten'",
        "UPDATE meta SET value = 3 WHERE name = 'lanes'",
        "UPDATE meta SET value = 'x' WHERE name = 'moved_to'",
        "UPDATE meta SET value = 'x' WHERE name = 'folded'",
        "UPDATE meta SET value = zeroblob(16) WHERE name = 'key'",
        "UPDATE meta SET value = value + 1 WHERE name = 'check'",
        "UPDATE meta SET name = 'moved_tn' WHERE name = 'moved_to'",
        "DELETE FROM meta WHERE name = 'lanes'",
        "DELETE FROM meta WHERE name = 'check'",
        "DELETE FROM meta",
    ];
    assert_noticed(&data, &damages.map(|sql| (sql, "`meta`"))).await;
}

/// Batches are consecutive, so the ids and changes of a deleted one are not lost silently.
#[tokio::test]
async fn a_batch_that_is_missing_is_no_start() {
    let data = Data::new();
    fill(&data, "TERM").await;
    let damages = [
        (
            "UPDATE batch SET seq = 0 WHERE seq = 1",
            "batch 1 is missing",
        ),
        (
            "UPDATE batch SET seq = -7 WHERE seq = 1",
            "batch 1 is missing",
        ),
        ("DELETE FROM batch WHERE seq = 1", "batch 1 is missing"),
        (
            "DELETE FROM batch WHERE seq IN (2, 3)",
            "batches 2 to 3 are missing",
        ),
        (
            "UPDATE batch SET seq = 6 WHERE seq = 4",
            "batch 6 is damaged",
        ),
        (
            "UPDATE batch SET seq = 9 WHERE seq = 5",
            "batches 6 to 8 are missing",
        ),
        ("DELETE FROM batch WHERE seq = 5", "batch 5 is missing"),
        ("DELETE FROM batch", "batches 1 to 5 are missing"),
    ];
    assert_noticed(&data, &damages).await;

    let data = Data::new();
    fill(&data, "KILL").await;
    let damages = [
        (
            "UPDATE batch SET seq = 0 WHERE seq = 1",
            "batch 1 is missing",
        ),
        ("DELETE FROM batch WHERE seq = 1", "batch 1 is missing"),
        ("DELETE FROM batch WHERE seq = 3", "batch 3 is missing"),
        (
            "UPDATE batch SET base = base + 1 WHERE seq = 2",
            "batch 2 is damaged",
        ),
        (
            "UPDATE batch SET log = x'' WHERE seq = 2",
            "batch 2 is damaged",
        ),
    ];
    assert_noticed(&data, &damages).await;
}

/// A check continues after damage, and reports each problem once, even in batches whose changes are in no other row.
#[tokio::test]
async fn a_check_lists_all_damage() {
    let data = Data::new();
    fill(&data, "KILL").await;
    data.tamper("UPDATE batch SET log = x'00' WHERE seq = 1");
    data.tamper("UPDATE batch SET base = 77 WHERE seq = 2");
    data.tamper("DELETE FROM batch WHERE seq = 4");
    data.tamper("INSERT INTO session (id, state, digest) VALUES ('bad', x'00', 0)");
    let problems = fails(&["check", "--data-dir", data.folder()]).await;
    for told in [
        "the log of batch 1 is damaged",
        "the row of batch 2 is damaged",
        "batch 4 is missing",
        r#"session "bad" is damaged"#,
    ] {
        assert_eq!(problems.matches(told).count(), 1, "{told}: {problems}");
    }
}

/// A batch whose changes are not folded into the counters' rows is verified as a whole, even without remembered ids,
/// because the revisions of its changes follow from it.
#[tokio::test]
async fn a_batch_without_ids_is_no_less_checked() {
    let data = Data::new();
    let mut server = data.serve().await;
    let mut client = client(&server).await;
    for _ in 0..2 {
        super::increment(&mut client, "acme/a")
            .await
            .expect("a value");
    }
    server.signal("KILL");
    server.exit().await;
    data.tamper("PRAGMA wal_checkpoint(TRUNCATE)");
    let damages = [
        (
            "UPDATE batch SET base = base + 8 WHERE seq = 1",
            "batch 1 is damaged",
        ),
        ("DELETE FROM batch WHERE seq = 1", "batch 1 is missing"),
    ];
    assert_noticed(&data, &damages).await;
}
