//! The examples in `clients/rust/examples`.

use std::path::Path;

use tokio::process::Command;
use tokio::time::timeout;
use uuid::Uuid;

use super::server::{LONG, Server};
use crate::support::client::{end, run, start};

fn example(name: &str) -> Command {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/rust/target/debug/examples");
    let mut command = Command::new(examples.join(name));
    command.kill_on_drop(true);
    command
}

#[tokio::test]
#[ignore = "make test runs it"]
async fn sums_are_printed() {
    let server = Server::start().await;
    let output = run(example("sum").arg(server.address()), "").await;
    output.printed(
        "Add: 6\nAddAll: 500000500000 of 1000000 values\nSUM_OUT_OF_RANGE: 9223372036854775808\n",
    );
}

#[tokio::test]
#[ignore = "make test runs it"]
async fn a_repeated_increment_counts_once() {
    let server = Server::start().await;
    let output = run(example("counter").arg(server.address()), "").await;
    output.printed("value=5 replayed=false\nvalue=5 replayed=true\n");
    assert_eq!(server.value("acme/api-calls").await, 5);
    let output = run(example("counter").arg("127.0.0.1:1"), "").await;
    assert_eq!((output.code, &*output.out), (Some(1), ""), "no server");
}

/// A session survives a crash of the server, and a second run of the program counts nothing.
#[tokio::test]
#[ignore = "make test runs it"]
async fn a_session_goes_on_after_a_crash() {
    const MESSAGES: i64 = 5000;
    let mut server = Server::start().await;
    let mut bulk = example("bulk");
    let id = Uuid::now_v7().to_string();
    bulk.args([server.address(), &id, &MESSAGES.to_string()]);
    let mut running = start(&mut bulk, String::new());
    server.reaches("acme/page-0", MESSAGES).await;
    let ended = running.try_wait().expect("a child");
    assert_eq!(ended, None, "it was too fast to be hit");
    server.crash_and_restart().await;
    let ended = timeout(LONG, end(running)).await;
    let printed = format!("acknowledged={MESSAGES}\n");
    ended.expect("this should be over").printed(&printed);
    run(&mut bulk, "").await.printed(&printed);
    for page in 0..4 {
        let counter = format!("acme/page-{page}");
        assert_eq!(server.value(&counter).await, 25 * MESSAGES, "{counter}");
    }
}
