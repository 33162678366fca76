//! Calls that are refused before their request has come, and frames that end a connection.

use crate::support::TestServer;
use crate::support::frames::{self, Frame, Peer};
use crate::support::raw;

const ADD_ALL: &str = "/sum.v1.SumService/AddAll";
const UNKNOWN: &str = "/sum.v1.SumService/Unknown";

/// Makes calls that are refused, and returns them once their answers have come.
async fn refuse(peer: &mut Peer, calls: usize) -> Vec<u32> {
    let refused: Vec<_> = (0..calls).map(|_| peer.call(UNKNOWN)).collect();
    peer.send().await;
    let mut reset = 0;
    peer.until(|frame| {
        reset += usize::from(frame.kind == frames::RST_STREAM);
        reset == calls
    })
    .await;
    refused
}

/// The rest of a request may be on its way when its call is refused. That is no error of the client, however often it
/// happens: the connection stays, and its other calls continue.
#[tokio::test]
async fn requests_in_flight() {
    // As small as they may be, so that small frames fill the budget that h2 has for them the sooner.
    let windows = ["--stream-window", "65535", "--connection-window", "6553500"];
    let flags = [&windows[..], &["--max-error-resets", "1"]].concat();
    let server = TestServer::start(&flags).await;
    let mut peer = Peer::open(&server.address).await;
    let accepted = peer.call(ADD_ALL);
    peer.data(accepted, &raw::values(&[20]), false);
    for _ in 0..60 {
        // As many as a client may have open; one is the accepted call.
        let refused = refuse(&mut peer, 255).await;
        for stream in refused {
            peer.data(stream, &[0], false);
            peer.data(stream, &raw::values(&[1])[1..], true);
        }
    }
    peer.data(accepted, &raw::values(&[22]), true);
    peer.send().await;
    let is_sum = |frame: &Frame| frame.stream == accepted && frame.kind == frames::DATA;
    // The sum is 42, of two values.
    assert_eq!(peer.until(is_sum).await.payload[5..], [0x08, 42, 0x10, 2]);
    peer.until(|frame| frame.stream == accepted && frame.is_end())
        .await;
}

/// The server remembers a bounded number of refused calls, the newest. A client that sends more for older ones breaks the
/// protocol, and is sent away.
#[tokio::test]
async fn requests_that_never_end() {
    let flags = ["--max-concurrent-streams", "4", "--max-error-resets", "10"];
    let server = TestServer::start(&flags).await;
    let mut peer = Peer::open(&server.address).await;
    let mut all = Vec::new();
    for _ in 0..25 {
        all.extend(refuse(&mut peer, 4).await);
    }
    for &newest in all.iter().rev().take(8) {
        peer.data(newest, &[0], false);
    }
    let answered = refuse(&mut peer, 1).await;
    assert_eq!(answered.len(), 1, "the connection goes on");
    for &oldest in &all[..20] {
        peer.data(oldest, &[0], false);
    }
    assert_eq!(peer.end().await, "too_many_internal_resets");
    server.assert_well().await;
}

/// A connection has a hundred empty frames that do not end their request, and no more.
#[tokio::test]
async fn empty_frames() {
    let server = TestServer::start(&[]).await;
    let mut peer = Peer::open(&server.address).await;
    let call = peer.call(ADD_ALL);
    for _ in 0..100 {
        peer.data(call, &[], false);
    }
    peer.data(call, &raw::values(&[42]), false);
    peer.data(call, &[], true);
    peer.send().await;
    let is_sum = |frame: &Frame| frame.stream == call && frame.kind == frames::DATA;
    assert_eq!(peer.until(is_sum).await.payload[5..], [0x08, 42, 0x10, 1]);
    let call = peer.call(ADD_ALL);
    peer.data(call, &[], false);
    assert_eq!(peer.end().await, "too_many_data_frames");
    server.assert_well().await;
}
