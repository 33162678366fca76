//! The clients in `clients/` and the real grpcurl, as `make test` builds them, against real servers.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::sleep;

use crate::support::process::Process;
use crate::support::soon;

const LANGUAGES: [&str; 5] = ["go", "python", "node", "java", "rust"];

/// How a client is started.
fn client(language: &str) -> Command {
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
    let (program, script): (PathBuf, Option<&str>) = match language {
        "go" => (clients.join("go/client"), None),
        "python" => (
            clients.join("python/.venv/bin/python"),
            Some("python/client.py"),
        ),
        "node" => ("node".into(), Some("node/client.js")),
        "java" => ("java".into(), Some("java/target/sumd-client.jar")),
        "rust" => (clients.join("rust/target/debug/sumd-client"), None),
        other => panic!("there is no client in {other}"),
    };
    let mut command = Command::new(program);
    if language == "java" {
        command.arg("-jar");
    }
    command.args(script.map(|script| clients.join(script)));
    command.kill_on_drop(true);
    command
}

struct Output {
    code: Option<i32>,
    out: String,
    err: String,
}

async fn run(command: &mut Command, input: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("`make clients` has built it");
    let mut stdin = child.stdin.take().expect("it is piped");
    let input = input.to_owned();
    let writing = tokio::spawn(async move { stdin.write_all(input.as_bytes()).await });
    let output = soon(child.wait_with_output()).await.expect("a child");
    // A client that refuses its arguments does not read.
    let _ = writing.await.expect("no panic");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Output {
        code: output.status.code(),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

/// Each client adds, streams, and shows what is wrong with what has no sum.
async fn works(language: &str) {
    let server = Process::serve(&[]).await;
    let at = &*server.address;

    let output = run(client(language).args(["add", at, "1", "2", "-9"]), "").await;
    assert_eq!(
        (output.code, &*output.out),
        (Some(0), "-6\n"),
        "{}",
        output.err
    );

    let exact = run(
        client(language).args(["add", at, "9223372036854775807", "-1"]),
        "",
    )
    .await;
    assert_eq!(exact.out, "9223372036854775806\n");

    let output = run(
        client(language).args(["add", at, "9223372036854775807", "1"]),
        "",
    )
    .await;
    assert_eq!((output.code, &*output.out), (Some(1), ""));
    assert!(
        output.err.starts_with("error: OUT_OF_RANGE: "),
        "{}",
        output.err
    );
    for detail in [
        "reason=SUM_OUT_OF_RANGE",
        "domain=sumd",
        "sum=9223372036854775808",
    ] {
        assert!(output.err.contains(detail), "{detail} in {}", output.err);
    }

    let lines: Vec<_> = (0..2000).map(|i| format!("{i} 1\n")).collect();
    let input = lines.concat() + "9223372036854775807 1\n\n-4 -5\n";
    let output = run(client(language).args(["each", at]), &input).await;
    assert_eq!(output.code, Some(0), "{}", output.err);
    let answers: Vec<_> = output.out.lines().collect();
    let sums: Vec<_> = (1..=2000).map(|sum| sum.to_string()).collect();
    assert_eq!(answers[..2000], sums);
    assert!(
        answers[2000].starts_with("error: OUT_OF_RANGE "),
        "{}",
        answers[2000]
    );
    assert!(
        answers[2000].contains("reason=SUM_OUT_OF_RANGE"),
        "{}",
        answers[2000]
    );
    assert_eq!(answers[2001..], ["0", "-9"]);

    let output = run(client(language).arg("add"), "").await;
    assert_eq!(output.code, Some(2), "wrong usage");
}

macro_rules! works {
    ($($language:ident)*) => {$(
        #[tokio::test]
        #[ignore = "make test runs it"]
        async fn $language() {
            works(stringify!($language)).await;
        }
    )*};
}

works!(go python node java rust);

/// With two servers of which one is killed and comes back, and then the other drained, no call of any
/// client fails.
#[tokio::test]
#[ignore = "make test runs it"]
async fn no_call_fails_when_a_server_dies() {
    let mut first = Process::serve(&[]).await;
    let mut second = Process::serve(&[]).await;
    let addresses = format!("{},{}", first.address, second.address);
    let mut clients = tokio::task::JoinSet::new();
    for language in LANGUAGES {
        let mut command = client(language);
        command.args(["load", &addresses, "12"]);
        clients.spawn(async move { (language, run(&mut command, "").await) });
    }
    // What is pinned is what happens at any moment of the load, so any moment will do.
    sleep(Duration::from_secs(4)).await;
    first.signal("KILL");
    first.exit().await;
    sleep(Duration::from_secs(2)).await;
    let first_again = Process::serve_at(&first.address, &[]).await;
    sleep(Duration::from_secs(3)).await;
    second.signal("TERM");
    assert!(second.exit().await.success());

    while let Some(client) = soon(clients.join_next()).await {
        let (language, output) = client.expect("no panic");
        let Output { code, out, err } = output;
        assert!(out.trim().ends_with(" failed=0"), "{language}: {out}{err}");
        assert_eq!(code, Some(0), "{language}: {err}");
        let calls = out
            .trim()
            .split([' ', '='])
            .nth(1)
            .expect("calls=N failed=M");
        assert!(
            calls.parse::<u64>().expect("a number") > 100,
            "{language}: {out}"
        );
    }
    drop(first_again);
}

/// grpcurl finds the service by reflection, describes it with its comments, calls it, and shows the
/// details of an error.
#[tokio::test]
#[ignore = "make test runs it"]
async fn grpcurl() {
    let server = Process::serve(&[]).await;
    let grpcurl = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/bin/grpcurl");
    let ask = async |args: &[&str], method: &str| {
        let mut command = Command::new(&grpcurl);
        command.arg("-plaintext").args(args).arg(&server.address);
        command.args(method.split_whitespace());
        run(&mut command, "").await
    };
    let list = ask(&[], "list").await.out;
    for service in ["grpc.health.v1.Health", "sum.v1.SumService"] {
        assert!(list.contains(service), "{list}");
    }
    let described = ask(&[], "describe sum.v1.SumService").await.out;
    assert!(
        described.contains("// Adds integers, exactly."),
        "{described}"
    );

    let add = "sum.v1.SumService/Add";
    let sum = ask(&["-d", r#"{"values": [1, 2, 3]}"#], add).await;
    assert_eq!(sum.out, "{\n  \"sum\": \"6\"\n}\n", "{}", sum.err);

    let refused = ask(&["-d", r#"{"values": ["9223372036854775807", 1]}"#], add).await;
    assert_ne!(refused.code, Some(0));
    for part in ["OutOfRange", "SUM_OUT_OF_RANGE", "9223372036854775808"] {
        assert!(refused.err.contains(part), "{}", refused.err);
    }

    let all = ask(
        &["-d", r#"{"values": [1]} {"values": [2, 3]}"#],
        "sum.v1.SumService/AddAll",
    )
    .await;
    assert!(
        all.out.contains(r#""count": "3""#),
        "{}{}",
        all.out,
        all.err
    );
    let healthy = ask(&[], "grpc.health.v1.Health/Check").await.out;
    assert!(healthy.contains("SERVING"), "{healthy}");
}
