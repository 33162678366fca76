//! Signals: no accepted call fails, and nothing delays the exit beyond its bound.

mod bounded;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio_stream::StreamExt as _;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::process::Process;
use crate::support::raw::{self, Connection};
use crate::support::{TestServer, reason, soon};

/// Under load, every call that was sent is answered, on every connection, through the whole drain.
#[tokio::test]
async fn drain_under_load() {
    for signal in ["TERM", "INT"] {
        let mut server = Process::serve(&["--drain-delay", "300ms"]).await;
        let answered = Arc::new(AtomicUsize::new(0));
        let signalled = Arc::new(AtomicBool::new(false));
        let late = Arc::new(AtomicUsize::new(0));
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let connection = Connection::open(&server.address).await;
            for _ in 0..8 {
                let (answered, signalled) = (answered.clone(), signalled.clone());
                let late = late.clone();
                let sender = connection.sender();
                callers.spawn(async move {
                    // A stream that cannot be opened was not accepted; one that was opened is.
                    while let Some(mut call) = sender.try_call("Add").await {
                        call.send(raw::values(&[20, 22]), true);
                        match call.try_answer().await {
                            Ok(answer) => assert_eq!(answer.status.code(), Code::Ok),
                            Err(error) => {
                                // Sent after GOAWAY and refused: the client may send it to another server.
                                assert!(raw::is_refused(&error), "{error:?}");
                                break;
                            }
                        }
                        answered.fetch_add(1, Ordering::Relaxed);
                        if signalled.load(Ordering::Relaxed) {
                            late.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        }
        crate::support::eventually("load", || answered.load(Ordering::Relaxed) > 1000).await;
        server.signal(signal);
        signalled.store(true, Ordering::Relaxed);
        assert!(server.exit().await.success());
        while let Some(caller) = soon(callers.join_next()).await {
            caller.expect("no call has failed");
        }
        assert!(
            late.load(Ordering::Relaxed) > 100,
            "it serves during --drain-delay"
        );
    }
}

/// A connection that was made before the drain gets its call answered if the call comes at once.
#[tokio::test]
async fn drain_takes_connections_in() {
    for _ in 0..20 {
        let mut server = TestServer::start(&[]).await;
        let mut raw = server.raw().await;
        let mut call = raw.call("Add").await;
        call.send(raw::values(&[1, 2]), true);
        server.stop();
        assert_eq!(call.answer().await.status.code(), Code::Ok);
        server.ended().await;
    }
}

/// The drain is reported to watchers of health first, then their streams end; a long call gets its time.
#[tokio::test]
async fn drain_tells_watchers_and_waits_for_calls() {
    let mut server = TestServer::start(&[]).await;
    let mut health = HealthClient::new(server.channel().await);
    let request = HealthCheckRequest {
        service: "sum.v1.SumService".into(),
    };
    let mut watch = health.watch(request).await.unwrap().into_inner();
    let first = soon(watch.next()).await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);

    let mut raw = server.raw().await;
    let mut call = raw.call("AddAll").await;
    call.send(raw::values(&[1, 2]), false);
    // The server has read from it, and so accepted it, once a second call is answered.
    raw.exchange("Add", raw::values(&[1])).await;

    server.stop();
    let told = soon(watch.next()).await.unwrap().unwrap();
    assert_eq!(told.status(), ServingStatus::NotServing);
    let end = soon(watch.next()).await.unwrap().unwrap_err();
    assert_eq!(end.code(), Code::Unavailable);
    assert_eq!(reason(&end).0, "SHUTTING_DOWN");

    call.send(raw::values(&[4]), true);
    let answer = call.answer().await;
    assert_eq!(answer.status.code(), Code::Ok);
    server.ended().await;
}

/// A stream that never ends, a call that never comes and a peer that never sends delay the exit only up to the bound;
/// calls among them get a status.
#[tokio::test]
async fn drain_is_bounded() {
    let flags = ["--drain-delay", "50ms", "--drain-timeout", "500ms"];
    let mut server = Process::serve(&flags).await;
    let _silent = TcpStream::connect(&server.address).await.unwrap();
    let mut raw = Connection::open(&server.address).await;
    let mut add_all = raw.call("AddAll").await;
    add_all.send(raw::values(&[1]), false);
    let mut add_each = raw.call("AddEach").await;
    add_each.send(raw::values(&[1]), false);
    let mut deaf = Connection::open_deaf(&server.address).await;
    let mut unread = deaf.call("AddEach").await;
    unread.send(raw::values(&[1]), false);
    raw.exchange("Add", raw::values(&[1])).await;

    let started = Instant::now();
    server.signal("TERM");
    for call in [add_all, add_each] {
        let status = call.answer().await.status;
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(reason(&status).0, "SHUTTING_DOWN");
    }
    assert!(server.exit().await.success());
    // One more second, for a busy machine.
    let bound = Duration::from_millis(50 + 500 + 1000 + 1000);
    assert!(started.elapsed() < bound, "{:?}", started.elapsed());
}

/// Without connections, or with idle ones only, the drain ends with its delay.
#[tokio::test]
async fn drain_of_an_idle_server() {
    let mut server = Process::serve(&["--drain-delay", "0s", "--drain-timeout", "1h"]).await;
    let _silent = TcpStream::connect(&server.address).await.unwrap();
    let mut idle = Connection::open(&server.address).await;
    idle.exchange("Add", raw::values(&[1])).await;
    server.signal("TERM");
    assert!(server.exit().await.success());
}

/// A second signal stops the server at once.
#[tokio::test]
async fn a_second_signal_stops_at_once() {
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let mut server = Process::serve(&["--drain-delay", "1h"]).await;
        let mut raw = Connection::open(&server.address).await;
        let mut call = raw.call("AddAll").await;
        call.send(Bytes::new(), false);
        server.signal("TERM");
        server.logged("draining").await;
        server.signal(signal);
        assert_eq!(server.exit().await.code(), Some(code));
    }
}
