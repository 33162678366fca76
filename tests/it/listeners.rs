//! The addresses that a server listens on: unix sockets, and both versions of IP.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use std::process::Stdio;

use tempfile::{TempDir, tempdir};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;

use crate::support::process::{Process, SUMD, command, run};
use crate::support::soon;

async fn add(address: &str) -> String {
    let output = run(&["add", "--address", address, "20", "22"]).await;
    String::from_utf8(output.stdout).expect("text")
}

/// A server on two addresses with the same port.
async fn serve_on_free_port(first: &str, second: &str) -> ((Child, TempDir), u16) {
    let mut tries = 0;
    loop {
        // Another test may take it before the server does.
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let data = tempdir().expect("a folder");
        let mut child = command(SUMD)
            .args(["--listen", &format!("{first}:{port},{second}:{port}")])
            .env("SUMD_DATA_DIR", data.path())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the program is built");
        let mut log = BufReader::new(child.stderr.as_mut().expect("it is piped")).lines();
        while let Some(line) = soon(log.next_line()).await.expect("a log") {
            if line.contains("listening on") {
                return ((child, data), port);
            }
        }
        tries += 1;
        assert!(tries < 5, "{first} and {second} cannot be had together");
    }
}

/// A server that stops does not remove a socket that another process has put in the place of its own.
#[tokio::test]
async fn only_the_own_socket_is_removed() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("sumd.sock");
    let address = format!("unix:{}", path.display());
    let mut first = Process::serve_at(&address, &["--drain-delay", "0s"]).await;
    std::fs::remove_file(&path).unwrap();
    let mut second = Process::serve_at(&address, &["--drain-delay", "0s"]).await;
    let inode = std::fs::metadata(&path).unwrap().ino();

    first.signal("TERM");
    assert!(first.exit().await.success());
    assert_eq!(std::fs::metadata(&path).expect("it is there").ino(), inode);
    assert_eq!(add(&address).await, "42\n");
    second.signal("TERM");
    assert!(second.exit().await.success());
    assert!(!path.exists(), "its own is removed");
}

/// An error about a file in the way of a socket names the kind of file.
#[tokio::test]
async fn what_is_in_the_way_of_a_socket_is_named() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("sumd.sock");
    let address = format!("unix:{}", path.display());
    let refused = async || {
        let output = run(&["--listen", &address]).await;
        assert_eq!(output.status.code(), Some(1));
        let err = String::from_utf8(output.stderr).expect("text");
        assert!(err.contains(&address) && err.lines().count() == 1, "{err}");
        err
    };
    std::fs::write(&path, "a file").unwrap();
    let err = refused().await;
    assert!(
        err.contains("a regular file") && !err.contains("in use"),
        "{err}"
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "a file");

    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let err = refused().await;
    assert!(err.contains("a folder") && !err.contains("in use"), "{err}");

    std::fs::remove_dir(&path).unwrap();
    let _server = Process::serve_at(&address, &[]).await;
    let err = refused().await;
    assert!(err.contains("in use by another process"), "{err}");
}

/// A server with two listeners for the same place reports that, and does not blame another process.
#[tokio::test]
async fn addresses_that_cover_each_other_are_refused() {
    let folder = tempdir().unwrap();
    let socket = format!("unix:{}/s", folder.path().display());
    let free = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let (one, all) = (format!("127.0.0.1:{port}"), format!("0.0.0.0:{port}"));
    let pairs = [[&socket, &socket], [&one, &one], [&one, &all], [&all, &one]];
    for listen in pairs.map(|pair| pair.map(String::as_str)) {
        let output = run(&["--listen", &listen.join(",")]).await;
        assert_eq!(output.status.code(), Some(1));
        let err = String::from_utf8(output.stderr).expect("text");
        let told = format!(
            "cannot listen on {}: this server already listens on {}",
            listen[1], listen[0]
        );
        assert!(err.contains(&told), "{err}");
    }
}

/// A socket has the requested mode, whatever the umask is.
#[tokio::test]
async fn sockets_have_the_mode_that_was_asked_for() {
    let folder = tempdir().unwrap();
    for (mode, bits) in [("600", 0o600), ("0660", 0o660), ("777", 0o777)] {
        let path = folder.path().join(mode);
        let address = format!("unix:{}", path.display());
        let _server = Process::serve_at(&address, &["--socket-mode", mode]).await;
        let permissions = std::fs::metadata(&path).unwrap().permissions();
        assert_eq!(permissions.mode() & 0o7777, bits, "{mode}");
        assert_eq!(add(&address).await, "42\n");
    }
    for mode in ["rw", "8", "1777", "+7", ""] {
        let output = run(&["--listen", "unix:/nowhere/s", "--socket-mode", mode]).await;
        assert_eq!(output.status.code(), Some(64), "{mode:?}");
        let err = String::from_utf8(output.stderr).expect("text");
        assert!(err.contains("octal"), "{err}");
    }
}

/// Both versions of IP can share a port, in either order: each socket takes its own version only.
#[tokio::test]
async fn both_versions_of_ip_on_one_port() {
    for (first, second) in [
        ("0.0.0.0", "[::]"),
        ("[::]", "0.0.0.0"),
        ("[::]", "127.0.0.1"),
    ] {
        let (_server, port) = serve_on_free_port(first, second).await;
        assert_eq!(add(&format!("127.0.0.1:{port}")).await, "42\n");
        assert_eq!(add(&format!("[::1]:{port}")).await, "42\n");
    }
    // Without another listener, the IPv6 wildcard takes both versions.
    let server = Process::serve_at("[::]:0", &[]).await;
    let (_, port) = server.address.rsplit_once(':').expect("a port");
    assert_eq!(add(&format!("127.0.0.1:{port}")).await, "42\n");
    assert_eq!(add(&format!("[::1]:{port}")).await, "42\n");
}
