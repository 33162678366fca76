//! The command line: starting, refusing to start, and the client commands.

use std::fs;
use std::process::Stdio;

use tempfile::tempdir;

use crate::support::process::{Process, SUMD, command, run, signal};
use crate::support::{TestServer, eventually, shim, soon};

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

/// `sumd add` and `sumd health` print a server's answers, and turn its errors into exit codes.
#[tokio::test]
async fn client_commands() {
    let server = TestServer::start(&[]).await;
    let ask = async |args: &[&str]| {
        let head = [args[0], "--address", &server.address];
        let output = run(&[&head[..], &args[1..]].concat()).await;
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let (code, out, _) = ask(&["add", "1", "2", "-9"]).await;
    assert_eq!((code, &*out), (Some(0), "-6\n"));
    let (code, out, _) = ask(&["add"]).await;
    assert_eq!((code, &*out), (Some(0), "0\n"));
    let (code, out, err) = ask(&["add", &i64::MAX.to_string(), "1"]).await;
    assert_eq!((code, &*out), (Some(1), ""));
    assert!(err.contains("9223372036854775808"), "{err}");

    let (code, out, _) = ask(&["health"]).await;
    assert_eq!((code, &*out), (Some(0), "SERVING\n"));
    let (code, _, err) = ask(&["health", "nobody"]).await;
    assert_eq!(code, Some(1));
    assert_eq!(err.lines().count(), 1, "{err}");
}

/// The error for an unreachable server names it, in one line.
#[tokio::test]
async fn nobody_there() {
    for address in ["127.0.0.1:1", "unix:/nonexistent/sumd.sock"] {
        let output = run(&["health", "--address", address]).await;
        assert_eq!(output.status.code(), Some(1));
        let err = text(&output.stderr);
        assert!(err.contains(address) && err.lines().count() == 1, "{err}");
    }
}

/// A host name lookup may never return. Even so, a command ends within its time limit, and a server at a signal.
#[tokio::test]
async fn a_name_that_is_never_resolved_is_not_waited_for() {
    let folder = tempdir().unwrap();
    let shim = shim::compile("names", folder.path()).await;
    let log = folder.path().join("log");
    let command = |args: &[&str]| {
        let mut command = command(SUMD);
        command
            .args(args)
            .env("LD_PRELOAD", &shim)
            .env("NAMES_LOG", &log)
            .env("SUMD_DATA_DIR", folder.path().join("data"))
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    };
    let looked_up = |name: &str| fs::read_to_string(&log).is_ok_and(|names| names.contains(name));

    let flags = ["--address", "sumd.example:1", "--timeout", "100ms"];
    let add = command(&[&["add"], &flags[..]].concat()).output();
    let output = soon(add).await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let err = text(&output.stderr);
    assert!(err.contains("no answer"), "{err}");
    assert!(looked_up("sumd.example"));

    let mut server = command(&["serve", "--listen", "listen.example:0"]);
    let mut server = server.spawn().unwrap();
    eventually("a look-up", || looked_up("listen.example")).await;
    signal(&server, "TERM");
    assert_eq!(soon(server.wait()).await.unwrap().code(), Some(0));
}

/// A command gives up within its time limit if a server does not answer.
#[tokio::test]
async fn nobody_answers() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let output = run(&["add", "--address", &address, "--timeout", "100ms", "1"]).await;
    assert_eq!(output.status.code(), Some(1));
    let err = text(&output.stderr);
    assert!(err.contains("no answer") && err.contains(&address), "{err}");
}

/// A port in use: one line that names it, and exit code 1.
#[tokio::test]
async fn port_in_use() {
    let server = TestServer::start(&[]).await;
    let output = run(&["--listen", &server.address]).await;
    assert_eq!(output.status.code(), Some(1));
    let err = text(&output.stderr);
    assert!(
        err.contains(&server.address) && err.contains("in use"),
        "{err}"
    );
    assert_eq!(err.lines().count(), 1, "{err}");
}

/// A wrong command line: one line that describes the problem, and exit code 64.
#[tokio::test]
async fn wrong_flags() {
    for (args, hint) in [
        (&["--listen", "nowhere"][..], "host:port"),
        (&["--listen", "host:70000"], "host:port"),
        (&["--max-message-size", "0"], "expected"),
        (&["--max-message-size", "many"], "expected"),
        (&["--max-frame-size", "1KiB"], "expected"),
        (&["--stream-window", "4GiB"], "expected"),
        (&["--drain-timeout", "soon"], "drain-timeout"),
        (&["--log-level", "a=b=c"], "log-level"),
        (&["--log-level", "warning"], "expected off, error, warn"),
        (&["--log-level", ""], "log-level"),
        (&["--log-level", "sumd::server"], "log-level"),
        (&["--id-horizon", "10M"], "10m"),
        (&["--id-memory", "256"], "64KiB"),
        (&["--data-dir", ""], "data-dir"),
        (&["--store", ""], "sqlite:PATH"),
        (&["--etcd-prefix", ""], "etcd-prefix"),
        // Options that would have no effect.
        (
            &["--data-dir", "a", "--store", "etcd://a:1"],
            "--data-dir puts",
        ),
        (
            &["--data-dir", "a", "--store", "sqlite:b"],
            "or use --store sqlite:FOLDER/sumd.db",
        ),
        (&["--etcd-lanes", "4"], "--etcd-lanes needs"),
        (
            &["--store", "sqlite:b", "--etcd-prefix", "/a"],
            "--etcd-prefix needs",
        ),
        (&["--etcd-prefix", "/sumd/"], "slash"),
        (&["--etcd-user", ""], "empty"),
        (
            &["--store", "etcd://a:1", "--etcd-user", "a"],
            "SUMD_ETCD_PASSWORD",
        ),
        (&["--store", "etcd://a:1", "--etcd-cacert", "a"], "etcds://"),
        (&["--node-id", "a/b", "--store", "etcd://a:1"], "node-id"),
        (&["--advertise", "a", "--store", "etcd://a:1"], "host:port"),
        (
            &["--advertise", "0.0.0.0:1", "--store", "etcd://a:1"],
            "host:port",
        ),
        (&["--advertise", "a:1"], "--store etcd://"),
        (&["--workers", "5000"], "expected a number from 1 to 4096"),
        (&["health", "--timeout", "0s"], "1ms"),
        (&["health", "--timeout", "99999999999999999s"], "1year"),
        (&["counter", "inc", "a/b", "--request-id", ""], "empty"),
        (
            &["move", "--from", "sqlite:a", "--to", "sqlite:b"],
            "a move goes from",
        ),
        (
            &[
                "move",
                "--from",
                "etcd://a:1",
                "--to",
                "sqlite:b",
                "--etcd-lanes",
                "4",
            ],
            "--etcd-lanes needs",
        ),
        (
            &[
                "move",
                "--from",
                "etcd://a:1",
                "--to",
                "sqlite:b",
                "--etcd-max-txn-ops",
                "64",
            ],
            "--etcd-max-txn-ops needs",
        ),
        (&["check", "--etcd-prefix", "/a"], "--etcd-prefix needs"),
        (&["--workers", "0"], "workers"),
        (&["--no-such-flag"], "no-such-flag"),
        (&["add", "one"], "one"),
        (&["add", "9223372036854775808"], "9223372036854775808"),
    ] {
        let output = run(args).await;
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{args:?}: {err}");
        assert!(
            err.contains(hint) && err.lines().count() == 1,
            "{args:?}: {err}"
        );
    }
}

/// Help and version go to standard output, with exit code 0.
#[tokio::test]
async fn help_and_version() {
    let help = run(&["--help"]).await;
    assert!(help.status.success());
    for word in [
        "serve",
        "add",
        "health",
        "--listen",
        "SUMD_LISTEN",
        "--max-calls",
    ] {
        assert!(text(&help.stdout).contains(word), "{word}");
    }
    let version = run(&["--version"]).await;
    assert_eq!(
        text(&version.stdout),
        format!("sumd {}\n", env!("CARGO_PKG_VERSION"))
    );
}

/// A value out of its range is refused with the range, in one form for numbers, times and sizes.
#[tokio::test]
async fn values_out_of_range() {
    for (flag, value, range) in [
        ("--max-calls", "0", "a number from 1 to 4294967295"),
        ("--etcd-lanes", "5000", "a number from 1 to 4096"),
        ("--socket-mode", "888", "an octal number from 0 to 777"),
        ("--keepalive-interval", "10M", "a time from 1ms to 1year"),
        ("--drain-delay", "2years", "a time from 0s to 1year"),
        ("--send-buffer", "2GiB", "a size from 16KiB to 1GiB"),
    ] {
        let output = run(&[flag, value]).await;
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{flag}: {err}");
        assert!(err.contains(&format!("expected {range}")), "{flag}: {err}");
    }
}

/// A group of commands prints its help if none of them is given.
#[tokio::test]
async fn a_group_of_commands() {
    for group in ["counter", "cluster"] {
        let output = run(&[group]).await;
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(text(&output.stdout), "");
        let help = text(&output.stderr);
        assert!(
            help.contains(&format!("Usage: sumd {group} <COMMAND>")),
            "{help}"
        );
    }
}

/// Flags can come from the environment.
#[tokio::test]
async fn environment() {
    let output = soon(command(SUMD).env("SUMD_MAX_CALLS", "none").output());
    let output = output.await.unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output.stderr).contains("--max-calls"));
}

/// A wrong value in the environment is refused as on the command line. An empty value does not count as missing, and a
/// password without a user is not ignored.
#[tokio::test]
async fn wrong_variables() {
    for (variables, hint) in [
        (&[("SUMD_LOG_LEVEL", "warning")][..], "--log-level"),
        (&[("SUMD_LOG_LEVEL", "")], "--log-level"),
        (&[("SUMD_WORKERS", "")], "--workers"),
        (&[("SUMD_STORE", "")], "--store"),
        (&[("SUMD_LISTEN", "")], "--listen"),
        (&[("SUMD_ETCD_USER", "")], "--etcd-user"),
        (&[("SUMD_ID_HORIZON", "1M")], "--id-horizon"),
        (
            &[("SUMD_STORE", "etcd://a:1"), ("SUMD_ETCD_PASSWORD", "a")],
            "--etcd-user",
        ),
    ] {
        let mut command = command(SUMD);
        let output = command
            .arg("serve")
            .envs(variables.iter().copied())
            .output();
        let output = soon(output).await.unwrap();
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{variables:?}: {err}");
        assert!(err.contains(hint), "{variables:?}: {err}");
    }
}

/// A server can have several addresses, one of them a unix socket, which is removed when the server stops. The socket
/// of a killed server is replaced; one in use, or a file that is no socket, is not.
#[tokio::test]
async fn unix_sockets() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("sumd.sock");
    let address = format!("unix:{}", path.display());

    let mut server = Process::serve_at(&address, &["--listen", "127.0.0.1:0"]).await;
    let (unix, tcp) = server.address.split_once(", ").expect("two addresses");
    assert_eq!(unix, address);
    for address in [unix, tcp] {
        let output = run(&["add", "--address", address, "20", "22"]).await;
        assert_eq!(text(&output.stdout), "42\n", "{address}");
    }
    let output = run(&["--listen", &address]).await;
    assert_eq!(output.status.code(), Some(1), "in use");

    server.signal("KILL");
    server.exit().await;
    assert!(path.exists(), "nobody has removed it");
    let mut server = Process::serve_at(&address, &["--drain-delay", "0s"]).await;
    server.signal("TERM");
    assert!(server.exit().await.success());
    assert!(!path.exists(), "it is removed");

    std::fs::write(&path, "a file").unwrap();
    let output = run(&["--listen", &address]).await;
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "a file");
}
