//! Hostile or badly broken peers: the server keeps running, and other clients are not affected.

mod refused;

use bytes::Bytes;
use sumd::proto::sum::v1::{AddEachResponse, AddResponse, add_each_response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;

use crate::support::process::Process;
use crate::support::raw::{self, Connection, framed, messages};
use crate::support::{TestServer, eventually, soon};

const MIB: u64 = 1 << 20;

/// Bytes that are no HTTP/2 frames, after some that are.
#[tokio::test]
async fn garbage() {
    let server = TestServer::start(&[]).await;
    let hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    // A HEADERS frame with one byte that is no header block, then noise.
    let headers = [&hello[..], &[0, 0, 1, 1, 4, 0, 0, 0, 1, 0xff]].concat();
    let noise: Vec<u8> = (0..100_000u32)
        .map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[1])
        .collect();
    for start in [
        &hello[..],
        &headers,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"",
    ] {
        let mut peer = TcpStream::connect(&server.address).await.unwrap();
        // The server may close the connection before it has received everything.
        let _ = peer.write_all(&[start, &noise].concat()).await;
        let mut rest = Vec::new();
        let _ = soon(peer.read_to_end(&mut rest)).await;
        server.assert_well().await;
    }
}

/// Opens a connection, sends settings and one call of Add with 20 and 22 for each authority. Returns the types and
/// streams of the frames that come back, until every call has ended.
async fn call_by(address: &str, authorities: &[&str]) -> Vec<(u8, u8)> {
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    let mut frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let length = u8::try_from(payload.len()).expect("a small frame");
        sent.extend([0, 0, length, kind, flags, 0, 0, 0, stream]);
        sent.extend(payload);
    };
    let streams: Vec<u8> = (0..).map(|i| 2 * i + 1).take(authorities.len()).collect();
    for (authority, &stream) in authorities.iter().zip(&streams) {
        // HPACK: indexes into the static table, and literal texts without compression.
        let text = |text: &str| {
            let length = u8::try_from(text.len()).expect("a short text");
            [&[length][..], text.as_bytes()].concat()
        };
        let headers = [
            &[0x83, 0x86, 0x01][..],
            &text(authority),
            &[0x04],
            &text("/sum.v1.SumService/Add"),
            &[0x0f, 0x10],
            &text("application/grpc"),
        ];
        frame(1, 4, stream, &headers.concat());
        frame(0, 1, stream, &raw::values(&[20, 22]));
    }
    let mut peer = TcpStream::connect(address).await.expect("it listens");
    peer.write_all(&sent).await.expect("it reads");
    let mut ends = Vec::new();
    while ends.len() < streams.len() {
        let mut head = [0; 9];
        soon(peer.read_exact(&mut head)).await.expect("a frame");
        let [_, high, low, kind, flags, .., stream] = head;
        let mut payload = vec![0; usize::from(high) << 8 | usize::from(low)];
        soon(peer.read_exact(&mut payload)).await.expect("a frame");
        if kind == 3 || (kind == 1 && flags & 1 == 1) {
            ends.push((stream, kind));
        }
    }
    ends.sort_unstable();
    ends
}

/// Any target that clients send is accepted as `:authority`, even if HTTP/2 does not allow it (vendor/h2.patch).
#[tokio::test]
async fn authorities() {
    let server = TestServer::start(&[]).await;
    let taken = [
        "localhost",
        "localhost:8080",
        "127.0.0.1:8080",
        "[::1]:8080",
        "sumd_1.example",
        "me@host",
        // grpc-java on a unix socket; gRPC's C core on one, and with several addresses.
        "/run/sumd.sock",
        "%2Frun%2Fsumd.sock",
        "127.0.0.1:1,127.0.0.1:2",
        "::1",
        "",
    ];
    for (_, kind) in call_by(&server.address, &taken).await {
        assert_eq!(kind, 1, "trailers");
    }
}

/// A thousand streams cancelled half-way, and a thousand more as soon as they are opened.
#[tokio::test]
async fn cancelled_streams() {
    let server = TestServer::start(&[]).await;
    let mut raw = server.raw().await;
    for _ in 0..10 {
        let mut calls = Vec::new();
        for i in 0..100 {
            let mut call = raw.call(["Add", "AddAll", "AddEach"][i % 3]).await;
            call.send(raw::values(&[1; 100]).slice(..50), false);
            calls.push(call);
        }
        // Other calls on the same connection are not affected.
        let answer = raw.exchange("Add", raw::values(&[1, 2])).await;
        assert_eq!(
            messages::<AddResponse>(answer.body),
            [AddResponse { sum: 3 }]
        );
        for mut call in calls {
            call.request.send_reset(h2::Reason::CANCEL);
        }
    }

    // Opened and reset at once: the connection may be closed for it (CVE-2023-44487).
    let mut rude = server.raw().await;
    for _ in 0..1000 {
        if rude.driver.is_finished() {
            break;
        }
        let mut call = rude.call("AddAll").await;
        call.request.send_reset(h2::Reason::CANCEL);
    }
    server.assert_well().await;
}

/// A request that arrives a byte at a time, in as many DATA frames, is served.
#[tokio::test]
async fn slow_sender() {
    let server = TestServer::start(&[]).await;
    let mut raw = server.raw().await;
    let mut call = raw.call("Add").await;
    for byte in raw::values(&[1_000_000; 200]).chunks(1) {
        call.send(byte.to_vec(), false);
        tokio::task::yield_now().await;
    }
    call.send(Bytes::new(), true);
    let answer = call.answer().await;
    assert_eq!(
        messages::<AddResponse>(answer.body),
        [AddResponse { sum: 200_000_000 }]
    );
    server.assert_well().await;
}

/// A caller of AddEach that does not read its answers is not read from either, so it fills no memory; when it reads
/// again, all answers are there.
#[tokio::test]
async fn answers_that_nobody_reads() {
    const COUNT: usize = 1_000_000;
    let server = Process::serve(&[]).await;
    let mut raw = Connection::open(&server.address).await;
    let idle = server.resident_bytes();

    let mut call = raw.call("AddEach").await;
    let all = Bytes::from(raw::values(&[1, 2]).repeat(COUNT));
    let total = all.len();
    let (sent, mut progress) = tokio::sync::watch::channel(0);
    let (response, mut request) = {
        call.send(Bytes::new(), false);
        call.begin().await
    };
    let sending = tokio::spawn(async move {
        let mut rest = all;
        while !rest.is_empty() {
            request.reserve_capacity(rest.len());
            let capacity = std::future::poll_fn(|cx| request.poll_capacity(cx)).await;
            let capacity = capacity.expect("an open stream").expect("no reset");
            request
                .send_data(rest.split_to(capacity), false)
                .expect("an open stream");
            sent.send_replace(total - rest.len());
        }
        request
            .send_data(Bytes::new(), true)
            .expect("an open stream");
    });
    // It is blocked well before the end.
    while tokio::time::timeout(std::time::Duration::from_millis(300), progress.changed())
        .await
        .is_ok_and(|changed| changed.is_ok())
    {}
    assert!(
        *progress.borrow() < total,
        "the server reads without an end"
    );
    let grown = server.resident_bytes().saturating_sub(idle);
    assert!(grown < 16 * MIB, "grown by {grown} bytes");

    let (body, trailers) = soon(raw::read(response.into_body())).await;
    sending.await.unwrap();
    assert_eq!(trailers.expect("trailers")["grpc-status"], "0");
    let answers = messages::<AddEachResponse>(body);
    assert_eq!(answers.len(), COUNT);
    let three = Some(add_each_response::Result::Sum(3));
    assert!(answers.into_iter().all(|answer| answer.result == three));
}

/// With each message in a frame of its own, flow control holds the stream back, and other calls on its connection are
/// served.
#[tokio::test]
async fn small_frames_that_wait() {
    let server = TestServer::start(&[]).await;
    let mut raw = server.raw().await;
    let mut call = raw.call("AddEach").await;
    call.send(raw::values(&[]), false);
    let (_unread, mut request) = call.begin().await;
    let sending = tokio::spawn(async move {
        let message = raw::values(&[]);
        loop {
            request.reserve_capacity(message.len());
            if request.capacity() >= message.len() {
                let sent = request.send_data(message.clone(), false);
                sent.expect("an open stream");
            }
            tokio::task::yield_now().await;
        }
    });
    for _ in 0..100 {
        let answer = raw.exchange("Add", raw::values(&[1, 2])).await;
        assert_eq!(answer.status.code(), Code::Ok);
        tokio::time::sleep(raw::SLOW).await;
    }
    assert!(!raw.driver.is_finished() && !sending.is_finished());
    sending.abort();
}

/// Adding an array of a gigabyte takes the memory of some frames, and thousands of refused messages take none.
#[tokio::test]
async fn memory_stays_flat() {
    let server = Process::serve(&[]).await;
    let mut raw = Connection::open(&server.address).await;
    raw.exchange("Add", raw::values(&[1])).await;
    let idle = server.resident_bytes();

    let message = framed(&[&[0x0a, 0xfc, 0xff, 0xff, 0x01][..], &vec![1; (4 << 20) - 4]].concat());
    let mut call = raw.call("AddAll").await;
    let mut peak = 0;
    for _ in 0..256 {
        assert!(soon(call.send_all(message.clone())).await);
        peak = peak.max(server.resident_bytes());
    }
    call.send(Bytes::new(), true);
    let answer = call.answer().await;
    let sums = messages::<sumd::proto::sum::v1::AddAllResponse>(answer.body);
    let count: u64 = 256 * ((4 << 20) - 4);
    assert_eq!((sums[0].sum, sums[0].count), (count.cast_signed(), count));
    // Only the frames that have come.
    assert!(peak < idle + 8 * MIB, "{} bytes over idle", peak - idle);

    for _ in 0..10_000 {
        let answer = raw.exchange("Add", framed(&[0xff; 20])).await;
        assert_eq!(answer.status.code(), Code::Internal);
    }
    assert!(server.resident_bytes() < idle + 8 * MIB);
}

/// A thousand idle connections take little memory.
#[tokio::test]
async fn idle_connections() {
    let server = Process::serve(&[]).await;
    let mut connections = Vec::new();
    for _ in 0..1000 {
        let mut raw = Connection::open(&server.address).await;
        raw.exchange("Add", raw::values(&[1])).await;
        connections.push(raw);
    }
    let bytes = server.resident_bytes();
    assert!(bytes < 100 * MIB, "{bytes} bytes");
    drop(connections);
    eventually("all connections closed", || server.open_sockets() < 100).await;
}
