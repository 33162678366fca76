//! Every limit, and the error of a call that exceeds it.

mod unread;

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};
use sumd::proto::sum::v1::{AddResponse, GetCounterRequest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::support::frames::HELLO;
use crate::support::process::Process;
use crate::support::raw::{self, Connection, framed, messages};
use crate::support::{TestServer, add_request, reason, soon};

/// A message over the limit is refused at its first bytes, with the limit and the size in the error; one at the limit
/// is accepted.
#[tokio::test]
async fn message_size() {
    let server = TestServer::start(&["--max-message-size", "1KiB"]).await;
    let mut raw = server.raw().await;
    for method in ["Add", "AddAll"] {
        let at_limit = framed(&[0x08, 1].repeat(512));
        assert_eq!(raw.exchange(method, at_limit).await.status.code(), Code::Ok);

        let mut call = raw.call(method).await;
        call.send(framed(&[0x08, 1].repeat(513)).slice(..5), false);
        let status = call.answer().await.status;
        assert_eq!(status.code(), Code::ResourceExhausted);
        let (reason, metadata) = reason(&status);
        assert_eq!(reason, "MESSAGE_TOO_LARGE");
        assert_eq!(
            (&*metadata["bytes"], &*metadata["max_bytes"]),
            ("1026", "1024")
        );
    }
}

/// The default limit accepts 16 MiB, and not a byte more.
#[tokio::test]
async fn message_size_by_default() {
    let server = TestServer::start(&[]).await;
    let mut client = server.client().await;
    let mut add = async |values| {
        client
            .add(sumd::proto::sum::v1::AddRequest { values })
            .await
    };
    let prefix = 5_u16;
    let sum = add(vec![1; (16 << 20) - usize::from(prefix)])
        .await
        .unwrap();
    assert_eq!(
        sum.into_inner(),
        AddResponse {
            sum: (16 << 20) - i64::from(prefix)
        }
    );
    let status = add(vec![1; (16 << 20) - usize::from(prefix) + 1])
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
}

/// The messages that have not come whole have a limit together. A claim of bytes takes none of it, and whole messages none.
#[tokio::test]
async fn request_memory() {
    const GET: &str = "/sum.v1.CounterService/GetCounter";
    let server = TestServer::start(&["--request-memory", "1MiB"]).await;
    let mut raw = server.raw().await;
    let claim = Bytes::from_static(&[0, 0, 16, 0, 0]);
    let mut claims = Vec::new();
    for _ in 0..200 {
        let mut call = raw.call_path(GET).await;
        call.send(claim.clone(), false);
        claims.push(call);
    }
    let padded = |bytes: usize| {
        let mut message = GetCounterRequest {
            counter: "a".into(),
            ..GetCounterRequest::default()
        }
        .encode_to_vec();
        encode_key(15, WireType::LengthDelimited, &mut message);
        encode_varint(bytes as u64, &mut message);
        message.resize(message.len() + bytes, 0);
        framed(&message)
    };
    let part = padded(1_000 << 10).slice(..900 << 10);
    let mut first = raw.call_path(GET).await;
    assert!(soon(first.send_all(part.clone())).await);
    // Its last bytes may be on their way.
    let refused = loop {
        let mut second = raw.call_path(GET).await;
        soon(second.send_all(part.slice(..500 << 10))).await;
        if let Ok(answer) = tokio::time::timeout(raw::SLOW, second.answer()).await {
            break answer.status;
        }
    };
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let (reason, metadata) = reason(&refused);
    assert_eq!(reason, "REQUEST_MEMORY_FULL");
    assert_eq!(metadata["max_bytes"], (1 << 20).to_string());
    assert!(refused.get_details_retry_info().is_some());

    let small = raw.exchange("Add", raw::values(&[1, 2])).await;
    assert_eq!(small.status.code(), Code::Ok);
    // A sum is taken as it arrives, and holds nothing.
    let sum = raw
        .exchange("Add", framed(&[0x08, 1].repeat(2 << 20)))
        .await;
    assert_eq!(sum.status.code(), Code::Ok);
    // The memory of a call is given back when it ends.
    drop(first);
    let whole = padded(800 << 10);
    loop {
        let mut call = raw.call_path(GET).await;
        soon(call.send_all(whole.clone())).await;
        call.send(Bytes::new(), true);
        let status = call.answer().await.status;
        if status.code() == Code::Ok {
            break;
        }
        assert_eq!(status.code(), Code::ResourceExhausted);
    }
}

/// The server ends a call at its deadline, whether or not it has begun to answer.
#[tokio::test]
async fn deadlines() {
    let server = TestServer::start(&[]).await;
    let mut raw = server.raw().await;
    for method in ["Add", "AddAll", "AddEach"] {
        let call = raw.call_with(method, &[("grpc-timeout", "20m")]).await;
        let status = call.answer().await.status;
        assert_eq!(status.code(), Code::DeadlineExceeded, "{method}");
        assert_eq!(reason(&status).0, "DEADLINE_EXCEEDED");
    }
    // A call with time left is not affected.
    let mut call = raw.call_with("Add", &[("grpc-timeout", "99999999H")]).await;
    call.send(raw::values(&[1]), true);
    assert_eq!(call.answer().await.status.code(), Code::Ok);
}

/// Past the limit, a call is refused at once with a delay for the retry, and accepted when others have ended.
#[tokio::test]
async fn calls_in_flight() {
    let server = TestServer::start(&["--max-calls", "2"]).await;
    let mut raw = server.raw().await;
    let mut add_all = raw.call("AddAll").await;
    let mut add_each = raw.call("AddEach").await;
    add_all.send(raw::values(&[1]), false);
    add_each.send(raw::values(&[1]), false);
    let (mut answers, mut add_each) = add_each.begin().await;
    soon(answers.body_mut().data())
        .await
        .expect("an answer")
        .expect("no reset");

    let status = raw.exchange("Add", raw::values(&[1])).await.status;
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(reason(&status).0, "OVERLOADED");
    let retry = status
        .get_details_retry_info()
        .expect("a RetryInfo")
        .retry_delay;
    assert!(retry.is_some_and(|delay| delay > Duration::ZERO));

    // Health checks are not refused: an overloaded server is alive.
    let mut health = tonic_health::pb::health_client::HealthClient::new(server.channel().await);
    health
        .check(tonic_health::pb::HealthCheckRequest::default())
        .await
        .expect("health");

    add_each.send_data(Bytes::new(), true).unwrap();
    raw::read(answers.into_body()).await;
    assert_eq!(
        raw.exchange("Add", raw::values(&[1])).await.status.code(),
        Code::Ok
    );
    add_all.send(Bytes::new(), true);
    assert_eq!(add_all.answer().await.status.code(), Code::Ok);
}

/// A call whose client goes silent is ended; one whose client keeps sending a little is not.
#[tokio::test]
async fn idle_streams() {
    let server = TestServer::start(&["--stream-idle-timeout", "200ms"]).await;
    let mut raw = server.raw().await;
    let status = raw.call("AddAll").await.answer().await.status;
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(reason(&status).0, "STREAM_IDLE");

    let mut call = raw.call("AddAll").await;
    for byte in raw::values(&[1; 200]).chunks(1) {
        call.send(byte.to_vec(), false);
        tokio::time::sleep(raw::SLOW).await;
    }
    call.send(Bytes::new(), true);
    assert_eq!(call.answer().await.status.code(), Code::Ok);
}

/// Connections over the limit are served health checks only, so that a server with many clients does not look dead. A
/// normal connection is possible again once one has closed.
#[tokio::test]
async fn connections() {
    let server = TestServer::start(&["--max-connections", "1"]).await;
    let mut first = server.raw().await;
    assert_eq!(
        first.exchange("Add", raw::values(&[1])).await.status.code(),
        Code::Ok
    );

    let mut probe = server.raw().await;
    for _ in 0..3 {
        let mut call = probe.call_path("/grpc.health.v1.Health/Check").await;
        call.send(framed(&[]), true);
        let status = call.answer().await.status;
        assert_eq!(status.code(), Code::Ok, "{status:?}");
    }
    // A client that makes other calls gets UNAVAILABLE, and its connection is closed to make room for a probe.
    let status = probe.exchange("Add", raw::values(&[1])).await.status;
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(reason(&status).0, "OVERLOADED");
    assert!(status.message().contains("--max-connections"), "{status:?}");
    let retry = status.get_details_retry_info().expect("a RetryInfo");
    assert!(
        retry
            .retry_delay
            .is_some_and(|delay| delay > Duration::ZERO)
    );
    soon(probe.driver).await.unwrap().expect("closed in peace");

    drop(first);
    let again = async {
        loop {
            if let Ok(mut client) = try_client(&server).await
                && client.add(add_request([1])).await.is_ok()
            {
                break;
            }
        }
    };
    soon(again).await;
}

/// The connections over the limit have a limit of their own; further ones are closed at once.
#[tokio::test]
async fn connections_beyond_the_reserve() {
    let server = TestServer::start(&["--max-connections", "1"]).await;
    let mut open = Vec::new();
    let closed = async {
        loop {
            let mut next = TcpStream::connect(&server.address).await.unwrap();
            let mut nothing = [0];
            let read = tokio::time::timeout(Duration::from_millis(20), next.read(&mut nothing));
            match read.await {
                Ok(read) => break read.unwrap_or(0),
                Err(_) => open.push(next),
            }
        }
    };
    assert_eq!(soon(closed).await, 0, "closed");
    assert!(open.len() > 1 && open.len() < 100, "{}", open.len());
    drop(open);
    let answered = async {
        while server
            .raw()
            .await
            .try_exchange("Add", raw::values(&[1]))
            .await
            .is_none()
        {}
    };
    soon(answered).await;
}

async fn try_client(
    server: &TestServer,
) -> Result<
    sumd::proto::sum::v1::sum_service_client::SumServiceClient<tonic::transport::Channel>,
    tonic::transport::Error,
> {
    sumd::proto::sum::v1::sum_service_client::SumServiceClient::connect(format!(
        "http://{}",
        server.address
    ))
    .await
}

/// A peer that sends nothing, or no HTTP/2, is disconnected.
#[tokio::test]
async fn handshakes() {
    let server = TestServer::start(&["--handshake-timeout", "50ms"]).await;
    for hello in [&b""[..], b"PRI * HT"] {
        let mut silent = TcpStream::connect(&server.address).await.unwrap();
        silent.write_all(hello).await.unwrap();
        let mut nothing = Vec::new();
        assert_eq!(soon(silent.read_to_end(&mut nothing)).await.unwrap_or(0), 0);
    }

    let server = TestServer::start(&[]).await;
    let mut browser = TcpStream::connect(&server.address).await.unwrap();
    browser
        .write_all(b"GET / HTTP/1.1\r\nhost: sumd\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    soon(browser.read_to_string(&mut answer)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a header and a body");
    assert!(head.starts_with("HTTP/1.1 505 "), "{head}");
    assert!(
        head.contains(&format!("content-length: {}", body.len())),
        "{head}"
    );
    server.assert_well().await;
}

/// A peer that does not answer pings is disconnected, even if TCP still considers it connected.
#[tokio::test]
async fn keepalive() {
    let server = TestServer::start(&[
        "--keepalive-interval",
        "30ms",
        "--keepalive-timeout",
        "30ms",
    ])
    .await;
    let mut dead = TcpStream::connect(&server.address).await.unwrap();
    dead.write_all(HELLO).await.unwrap();
    let mut frames = Vec::new();
    soon(dead.read_to_end(&mut frames)).await.unwrap();

    // A peer that answers stays connected.
    let flags = [
        "--keepalive-interval",
        "100ms",
        "--keepalive-timeout",
        "20s",
    ];
    let server = TestServer::start(&flags).await;
    let mut raw = server.raw().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(
        raw.exchange("Add", raw::values(&[1])).await.status.code(),
        Code::Ok
    );
}

/// The client of an old connection is asked to leave it; its calls continue for a bounded time.
#[tokio::test]
async fn connection_age() {
    let age = [
        "--max-connection-age",
        "500ms",
        "--max-connection-age-grace",
    ];
    let server = TestServer::start(&[&age[..], &["1h"]].concat()).await;
    let mut raw = server.raw().await;
    let mut call = raw.call("AddAll").await;
    call.send(raw::values(&[1, 2]), false);
    let sender = raw.sender();
    let asked_to_leave = async {
        while sender.try_call("Add").await.is_some() {
            tokio::time::sleep(raw::SLOW).await;
        }
    };
    soon(asked_to_leave).await;
    call.send(Bytes::new(), true);
    assert_eq!(call.answer().await.status.code(), Code::Ok);
    drop(sender);
    soon(raw.driver).await.unwrap().expect("closed in peace");

    let server = TestServer::start(&[&age[..], &["10ms"]].concat()).await;
    let mut raw = server.raw().await;
    let _endless = raw.call("AddAll").await;
    let _ = soon(raw.driver).await.unwrap();
    server.assert_well().await;
}

/// The settings that HTTP/2 clients get are those of the flags.
#[tokio::test]
async fn settings() {
    let server = TestServer::start(&[
        "--max-concurrent-streams",
        "7",
        "--stream-window",
        "70000",
        "--max-frame-size",
        "20000",
        "--max-header-list-size",
        "2KiB",
    ])
    .await;
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    stream.write_all(HELLO).await.unwrap();
    let mut head = [0; 9];
    soon(stream.read_exact(&mut head)).await.unwrap();
    assert_eq!(head[3], 4, "a SETTINGS frame comes first");
    let mut payload = vec![0; usize::from(head[2])];
    soon(stream.read_exact(&mut payload)).await.unwrap();
    let settings: Vec<(u16, u32)> = payload
        .chunks(6)
        .map(|setting| {
            let (id, value) = setting.split_at(2);
            (
                u16::from_be_bytes(id.try_into().unwrap()),
                u32::from_be_bytes(value.try_into().unwrap()),
            )
        })
        .collect();
    // More headers are read than accepted, so that a call with too many gets an error.
    for expected in [(3, 7), (4, 70_000), (5, 20_000), (6, 96 << 10)] {
        assert!(settings.contains(&expected), "{expected:?} in {settings:?}");
    }
}

/// Headers over the limit fail their call alone, with a status, whatever a client sends. Other calls on the same
/// connection continue.
#[tokio::test]
async fn header_list_size() {
    for (flags, max_bytes) in [
        (&["--max-header-list-size", "1KiB"][..], 1024),
        (&[], 16 << 10),
        (&["--max-header-list-size", "200KiB"], 200 << 10),
    ] {
        let server = TestServer::start(flags).await;
        let mut raw: Connection = server.raw().await;
        let mut beside = raw.call("AddAll").await;
        beside.send(raw::values(&[1]), false);
        for bytes in [max_bytes + 1, 60 << 10, 90 << 10, 240 << 10] {
            if !(max_bytes + 1..=(90 << 10).max(max_bytes / 4 * 5)).contains(&bytes) {
                continue;
            }
            let huge = "x".repeat(bytes);
            let answer = raw.call_with("Add", &[("x-huge", &huge)]).await.answer();
            let status = answer.await.status;
            assert_eq!(
                status.code(),
                Code::ResourceExhausted,
                "{bytes}: {status:?}"
            );
            let (reason, metadata) = reason(&status);
            assert_eq!(reason, "HEADERS_TOO_LARGE");
            assert_eq!(metadata["max_bytes"], max_bytes.to_string());
            let told: usize = metadata["bytes"].parse().expect("a number");
            assert!((bytes..bytes + 1000).contains(&told), "{told}");
        }
        // The same with many small headers.
        let many = vec![("x-some", "0123456789"); max_bytes / 40];
        let status = raw.call_with("Add", &many).await.answer().await.status;
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        let fits = "x".repeat(max_bytes - 600);
        let mut call = raw.call_with("Add", &[("x-fits", &fits)]).await;
        call.send(raw::values(&[1, 2]), true);
        let answer = call.answer().await;
        assert_eq!(
            messages::<AddResponse>(answer.body),
            [AddResponse { sum: 3 }]
        );
        beside.send(raw::values(&[41]), true);
        assert_eq!(beside.answer().await.status.code(), Code::Ok);
    }
}

/// The call of a client that ignores the settings fails alone, too, though without a status.
#[tokio::test]
async fn header_lists_beyond_what_is_read() {
    let server = TestServer::start(&[]).await;
    let mut raw: Connection = server.raw().await;
    raw.exchange("Add", raw::values(&[1])).await;
    let huge = "x".repeat(300 << 10);
    let call = raw.call_with("Add", &[("x-huge", &huge)]).await;
    assert_eq!(call.answer().await.http, 431);
    let answer = raw.exchange("Add", raw::values(&[1, 2])).await;
    assert_eq!(answer.status.code(), Code::Ok);
}

/// Watches do not end on their own. They leave room on their connection for other calls, which HTTP/2 would otherwise
/// hold back in the client without notice.
#[tokio::test]
async fn watches_leave_room_for_calls() {
    let server = TestServer::start(&["--max-concurrent-streams", "8"]).await;
    for path in [
        "/sum.v1.CounterService/WatchCounters",
        "/sum.v1.ClusterService/WatchNodes",
        "/grpc.health.v1.Health/Watch",
    ] {
        let mut raw = server.raw().await;
        let mut watches = Vec::new();
        for _ in 0..6 {
            let mut call = raw.call_path(path).await;
            call.send(framed(&[]), true);
            let (mut watch, _) = call.begin().await;
            let first = soon(watch.body_mut().data()).await;
            first.expect("an answer").expect("no reset");
            watches.push(watch);
        }
        let mut call = raw.call_path(path).await;
        call.send(framed(&[]), true);
        let status = call.answer().await.status;
        assert_eq!(status.code(), Code::ResourceExhausted, "{path}: {status:?}");
        let (reason, metadata) = reason(&status);
        assert_eq!(reason, "TOO_MANY_WATCHES");
        assert_eq!(metadata["max_watches"], "6");
        assert!(
            status.message().contains("another connection"),
            "{status:?}"
        );
        let answer = raw.exchange("Add", raw::values(&[1, 2])).await;
        assert_eq!(answer.status.code(), Code::Ok, "{path}");

        // A watch that ends makes room for another.
        watches.pop();
        let again = async {
            loop {
                let mut call = raw.call_path(path).await;
                call.send(framed(&[]), true);
                let (mut watch, _) = call.begin().await;
                if matches!(soon(watch.body_mut().data()).await, Some(Ok(_))) {
                    break;
                }
            }
        };
        soon(again).await;
    }
}

/// A peer that reads no bytes from its socket is disconnected after the same time as one that answers no pings.
#[tokio::test]
async fn sockets_that_nobody_reads() {
    let server = Process::serve(&[
        "--keepalive-interval",
        "100ms",
        "--keepalive-timeout",
        "100ms",
    ]);
    let server = server.await;
    // An answer shows that the server is complete, with its own sockets.
    let mut raw = Connection::open(&server.address).await;
    raw.exchange("Add", raw::values(&[1])).await;
    let before = server.open_sockets();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let address = server.address.parse().unwrap();
    let mut deaf = socket.connect(address).await.unwrap();
    deaf.write_all(HELLO).await.unwrap();
    // PINGs are answered, and the answers are not read.
    let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8].repeat(1000);
    let flood = async { while deaf.write_all(&ping).await.is_ok() {} };
    let _ = tokio::time::timeout(Duration::from_secs(1), flood).await;
    crate::support::eventually("the connection's end", || server.open_sockets() == before).await;
}

/// Windows with which h2 would close connections because of small messages are refused.
#[tokio::test]
async fn windows_that_do_not_go_together() {
    let flags = ["--stream-window", "1MiB", "--connection-window", "8MiB"];
    let output = crate::support::process::run(&flags).await;
    assert_eq!(output.status.code(), Some(64));
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(
        err.contains("--connection-window") && err.lines().count() == 1,
        "{err}"
    );
}
