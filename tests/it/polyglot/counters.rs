//! Counters: single calls, and watches.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::server::Server;
use crate::support::client::{client, run};
use crate::support::soon;

each_client!(increments watches);

/// Each client increments exactly once, and reads.
async fn increments(language: &str) {
    let server = Server::start().await;
    let at = server.address();
    let inc = async |args: &[&str]| run(client(language).args(["inc", at]).args(args), "").await;

    let first = inc(&["team/a", "5", "order-1"]).await;
    let (value, revision) = first
        .out
        .trim()
        .split_once(" applied=5 revision=")
        .expect("an answer");
    let revision = revision
        .strip_suffix(" replayed=false")
        .expect("a first answer");
    assert_eq!((first.code, value), (Some(0), "5"), "{}", first.err);

    for value in ["-2", "-9"] {
        let output = inc(&["team/a", "-7"]).await;
        assert_eq!(output.out.split(' ').next(), Some(value), "{}", output.err);
    }

    let again = inc(&["team/a", "5", "order-1"]).await;
    again.printed(&format!("5 applied=5 revision={revision} replayed=true\n"));

    let reused = inc(&["team/a", "6", "order-1"]).await;
    let details = ["reason=REQUEST_ID_REUSED", "outcome=NOT_APPLIED"];
    reused.failed("ALREADY_EXISTS", &details);
    let over = inc(&["team/a", "-9223372036854775808"]).await;
    let details = [
        "reason=COUNTER_OUT_OF_RANGE",
        "domain=sumd",
        "value=-9",
        "outcome=NOT_APPLIED",
    ];
    over.failed("OUT_OF_RANGE", &details);
    let unnamed = inc(&["team//a", "1"]).await;
    let details = ["reason=INVALID_ARGUMENT", "\n  counter: "];
    unnamed.failed("INVALID_ARGUMENT", &details);

    let both = ["team/a", "team/never"];
    let got = run(client(language).args(["get", at]).args(both), "").await;
    assert_eq!(got.values(), [("team/a", -9), ("team/never", 0)]);
    assert!(got.out.ends_with("team/never 0 0\n"), "{}", got.out);

    let wrong = run(client(language).args(["inc", at, "team/a"]), "").await;
    assert_eq!(wrong.code, Some(2), "wrong usage");
}

/// Each client sees the state, then changes. It resumes after the server has crashed, and starts over if the server
/// cannot resume.
async fn watches(language: &str) {
    let mut server = Server::start().await;
    server.increment("team/a", 1).await;
    server.increment("other/a", 1).await;

    let mut watch = client(language);
    watch.args(["watch", server.address(), "team/", "2"]);
    let counted = run(&mut watch, "").await;
    assert_eq!(counted.code, Some(0), "{}", counted.err);
    let lines: Vec<_> = counted.out.lines().collect();
    assert!(lines[0].starts_with("team/a 1 "), "{lines:?}");
    assert!(lines[1].starts_with("synced "), "{lines:?}");
    assert_eq!(lines.len(), 2);

    let mut watching = client(language)
        .args(["watch", server.address(), "team/", "1000000"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("`make test` has built it");
    let mut lines = BufReader::new(watching.stdout.take().expect("it is piped")).lines();
    // Reads until this line.
    let mut sees = async |line: &str| {
        let seen = async {
            while let Some(next) = lines.next_line().await.expect("text") {
                if next.starts_with(line) {
                    return;
                }
            }
            panic!("the client has ended without {line:?}");
        };
        soon(seen).await;
    };
    sees("synced ").await;
    server.increment("team/a", 1).await;
    sees("team/a 2 ").await;
    server.crash_and_restart().await;
    server.increment("team/b", 7).await;
    sees("team/b 7 ").await;
    server.delete("team/b").await;
    sees("team/b deleted").await;

    server.crash_and_lose_all().await;
    sees("restarted").await;
    sees("synced ").await;
    server.increment("team/c", 1).await;
    sees("team/c 1 ").await;
}
