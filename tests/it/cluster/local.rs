//! `deploy/local/cluster` reports success only if the whole cluster works.

use std::net::TcpListener;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;

use crate::support::process::{SUMD, command, signal};
use crate::support::soon;

const PORTS: [u16; 9] = [2379, 22379, 32379, 2380, 22380, 32380, 8081, 8082, 8083];

fn listen(port: u16) -> Option<TcpListener> {
    TcpListener::bind(("127.0.0.1", port)).ok()
}

/// An offset at which all ports are free.
fn free_offset() -> u16 {
    let mut offsets = (1..20_000).filter(|_| fastrand::u8(..) == 0);
    let free = |offset: &u16| PORTS.iter().all(|port| listen(port + offset).is_some());
    offsets.find(free).expect("some free ports")
}

fn start(folder: &std::path::Path, offset: u16, flags: &[&str]) -> Child {
    let root = env!("CARGO_MANIFEST_DIR");
    command(format!("{root}/deploy/local/cluster"))
        .args(flags)
        .args([&format!("{root}/.tools/bin/etcd"), SUMD])
        .arg(folder)
        .env("PORT_OFFSET", offset.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("bash")
}

/// The output before it waits for the end; empty if it fails.
async fn said(cluster: &mut Child) -> String {
    let mut lines = BufReader::new(cluster.stdout.as_mut().expect("piped")).lines();
    let mut said = String::new();
    while let Some(line) = soon(lines.next_line()).await.expect("text") {
        said += &line;
        said.push('\n');
        if line.contains("Ctrl-C") {
            break;
        }
    }
    said
}

async fn stop(mut cluster: Child) {
    signal(&cluster, "TERM");
    assert!(soon(cluster.wait()).await.expect("a child").success());
}

/// All six processes serve, and stop with the script. If a port of a member is taken, the script prints the member's
/// log and stops the others.
#[tokio::test]
#[ignore = "make test runs it"]
async fn a_local_cluster_is_whole_or_is_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let offset = free_offset();
    let mut cluster = start(folder.path(), offset, &[]);
    let told = said(&mut cluster).await;
    assert!(told.contains("SUMD_ETCD_PREFIX"), "{told}");
    let there = |port: &&u16| listen(**port + offset).is_none();
    assert_eq!(PORTS.iter().filter(there).count(), 9);
    stop(cluster).await;
    assert_eq!(PORTS.iter().filter(there).count(), 0);

    // The port is bound without listening: connections fail, and the member cannot bind it.
    let folder = tempfile::tempdir().expect("a folder");
    let offset = free_offset();
    let taken = tokio::net::TcpSocket::new_v4().expect("a socket");
    let address = format!("127.0.0.1:{}", 22380 + offset);
    taken
        .bind(address.parse().expect("an address"))
        .expect("it is free");
    let mut cluster = start(folder.path(), offset, &[]);
    assert_eq!(said(&mut cluster).await, "");
    let output = soon(cluster.wait_with_output()).await.expect("a child");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(
        err.contains("m2 has ended") && err.contains("in use"),
        "{err}"
    );
    drop(taken);

    let folder = tempfile::tempdir().expect("a folder");
    let other = listen(8082 + offset).expect("it is free");
    let mut cluster = start(folder.path(), offset, &[]);
    assert_eq!(said(&mut cluster).await, "");
    let output = soon(cluster.wait_with_output()).await.expect("a child");
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(err.contains("is taken"), "{err}");

    // Without nodes, their ports do not matter.
    let mut cluster = start(folder.path(), offset, &["--etcd-only"]);
    assert!(said(&mut cluster).await.contains(" move --from"));
    stop(cluster).await;
    drop(other);
}
