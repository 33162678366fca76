//! Damaged rows of sessions: messages of that session are refused, and nothing else is.

use std::time::SystemTime;

use sumd::proto::sum::v1::{Increment, RecordIncrementsRequest};

use super::*;

/// Sends one message on a stream of its own, or only asks if its number is 0. Returns the acknowledged number.
async fn record(server: &Process, session: &str, sequence: u64) -> Result<u64, Status> {
    let increment = Increment {
        counter: "acme/bulk".into(),
        delta: 1,
        ..Increment::default()
    };
    let message = RecordIncrementsRequest {
        session_id: session.into(),
        session_time: Some(SystemTime::now().into()),
        sequence,
        increments: vec![increment; usize::from(sequence > 0)],
        ..RecordIncrementsRequest::default()
    };
    let mut client = client(server).await;
    let answers = client.record_increments(tokio_stream::once(message));
    let mut answers = soon(answers).await?.into_inner();
    let mut acknowledged = 0;
    while let Some(answer) = soon(answers.message()).await? {
        acknowledged = answer.acknowledged.max(acknowledged);
    }
    Ok(acknowledged)
}

/// Kinds of damage to a row whose key is intact.
const DAMAGE: [&str; 5] = [
    "state = CAST(substr(state, 1, length(state) - 1) || x'7f' AS BLOB)",
    "state = x''",
    "state = zeroblob(100000)",
    "digest = digest + 1",
    "digest = -1",
];

/// Messages for a damaged session are neither applied nor acknowledged, whatever the damage, and the session is not
/// taken for a new one. Other sessions and counters are served. The server reports it to the operator once, and each
/// check does.
#[tokio::test]
async fn a_damaged_session_is_refused_and_no_other_is() {
    let data = Data::new();
    let mut server = data.serve().await;
    for session in ["bad", "well"] {
        for sequence in 1..=2 {
            let acknowledged = record(&server, session, sequence).await;
            assert_eq!(acknowledged.expect("it counts"), sequence);
        }
    }
    server.signal("TERM");
    assert!(server.exit().await.success());
    let row = "UPDATE session SET state = saved.state, digest = saved.digest FROM saved WHERE session.id = 'bad'";
    data.tamper("CREATE TABLE saved AS SELECT * FROM session WHERE id = 'bad'");
    for (damage, next) in DAMAGE.into_iter().zip(3..) {
        data.tamper(&format!("UPDATE session SET {damage} WHERE id = 'bad'"));
        let mut server = data.serve().await;
        let errors = server.beginning.iter();
        let errors: Vec<_> = errors.filter(|line| line["level"] == "ERROR").collect();
        let [told] = errors[..] else {
            panic!("{damage}: {errors:?}");
        };
        let told = told["message"].as_str().expect("a message");
        assert!(told.contains(r#"session "bad""#), "{damage}: {told}");
        assert!(told.contains("SESSION_DAMAGED"), "{told}");
        for sequence in [0, 1, 2, 3] {
            let status = record(&server, "bad", sequence).await;
            let status = status.expect_err("it is damaged");
            let (why, metadata) = reason(&status);
            assert_eq!(
                (status.code(), &*why, &*metadata["outcome"]),
                (Code::DataLoss, "SESSION_DAMAGED", "UNKNOWN"),
                "{damage}: message {sequence}"
            );
            let message = status.message();
            for part in ["it is unknown", "retry", "sumd check", "sumd restore"] {
                assert!(message.contains(part), "{part}: {message}");
            }
        }
        let acknowledged = record(&server, "well", next).await;
        assert_eq!(acknowledged.expect("it goes on"), next);
        let new = record(&server, &format!("new-{next}"), 1).await;
        assert_eq!(new.expect("a new one"), 1);
        let mut client = client(&server).await;
        increment(&mut client, "acme/a").await.expect("it counts");
        // Each kind of damage so far has come with two increments that were counted.
        let so_far = i64::try_from(next).expect("few") - 2;
        let value = increment(&mut client, "acme/bulk").await.expect("a value");
        assert_eq!(value, 4 + 3 * so_far, "{damage}");
        server.signal("TERM");
        assert!(server.exit().await.success());

        let problem = fails(&["check", "--data-dir", data.folder()]).await;
        assert!(problem.contains(r#"session "bad""#), "{problem}");
        let backup = data.0.path().join(format!("backup-{next}.db"));
        let backup = backup.to_str().expect("a path");
        let problem = fails(&["backup", backup, "--data-dir", data.folder()]).await;
        assert!(problem.contains(r#"session "bad""#), "{problem}");
        data.tamper(&format!("VACUUM INTO '{backup}'"));
        let elsewhere = Data::new();
        let problem = fails(&["restore", backup, "--data-dir", elsewhere.folder()]).await;
        assert!(problem.contains(r#"session "bad""#), "{problem}");
        data.tamper(row);
    }
    let server = data.serve().await;
    let acknowledged = record(&server, "bad", 3).await;
    assert_eq!(acknowledged.expect("it is as it was"), 3);
}

/// A row whose id cannot be read may be of any session.
#[tokio::test]
async fn a_session_without_an_id_is_no_start() {
    let data = Data::new();
    let mut server = data.serve().await;
    record(&server, "bad", 1).await.expect("it counts");
    server.signal("TERM");
    assert!(server.exit().await.success());
    // With one bit changed, the id may be a valid name or not.
    for id in ["'bae'", "CAST(x'ff' AS TEXT)"] {
        data.tamper(&format!("UPDATE session SET id = {id}"));
        let problem = does_not_serve(&data).await;
        for part in ["the id of a session's row is damaged", "`sumd restore`"] {
            assert!(problem.contains(part), "{part}: {problem}");
        }
        data.tamper("UPDATE session SET id = 'bad'");
    }
    let server = data.serve().await;
    let acknowledged = record(&server, "bad", 2).await;
    assert_eq!(acknowledged.expect("it is as it was"), 2);
}
