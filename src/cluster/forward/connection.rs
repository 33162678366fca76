//! The connection to one peer: connects, reads answers, and reconnects.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tonic::{Status, Streaming};
use tracing::{debug, info};

use super::super::Clocks;
use super::MAX_MESSAGE_BYTES;
use super::queue::PeerQueue;
use crate::backoff::Backoff;
use crate::proto::sumd::cluster::v1::peer_service_client::PeerServiceClient;
use crate::proto::sumd::cluster::v1::{ForwardRequest, ForwardResponse};

/// Timeout of connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// Timeout of the first message: the kernel accepts connections even for a stopped process.
const GREETING_TIMEOUT: Duration = Duration::from_secs(1);
/// Interval of HTTP/2 PINGs to a silent peer, and timeout of their answers.
const PING_INTERVAL: Duration = Duration::from_secs(1);
const PING_TIMEOUT: Duration = Duration::from_millis(1500);
/// Bounds of the pause between two attempts to connect; it grows with each failure.
const BACKOFF: Backoff = Backoff {
    min: Duration::from_millis(20),
    max: Duration::from_secs(1),
};
/// Interval at which overdue calls are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_millis(250);
/// Bytes that a peer may send ahead.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// Far larger than the window of a stream, so that small frames do not end the connection.
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;

pub(super) struct PeerConnection {
    pub(super) id: String,
    pub(super) address: String,
    pub(super) line: Arc<PeerQueue>,
    /// The clocks of all nodes; this connection records the peer's.
    pub(super) clocks: Clocks,
    /// Cancelled when no more calls will come.
    pub(super) retired: CancellationToken,
}

/// The reason why a connection could not be made.
enum Unreachable {
    Late,
    Connect(tonic::transport::Error),
    Refused(Status),
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late => f.write_str("no response in time"),
            Self::Connect(error) => error.fmt(f),
            Self::Refused(status) => status.fmt(f),
        }
    }
}

impl PeerConnection {
    /// Connects again and again, until the peer is retired and its last call is answered.
    pub(super) async fn run(self) {
        let _failed = FailOnDrop(self.line.clone());
        let retired = self.retired.clone();
        let mut failures = 0;
        loop {
            match retired.run_until_cancelled(self.connect()).await {
                Some(Ok(answers)) => {
                    info!(id = self.id, address = self.address, "connected to a node");
                    failures = 0;
                    let end = self.read(answers).await;
                    info!(id = self.id, "the connection to a node ended: {end}");
                    self.line.fail();
                }
                Some(Err(error)) => {
                    debug!(id = self.id, "cannot reach a node: {error}");
                    self.line.fail();
                }
                None => {}
            }
            let pause = sleep(BACKOFF.after(failures));
            failures = failures.saturating_add(1);
            if retired.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }

    /// Connects, and waits for the node's first message.
    async fn connect(&self) -> Result<Streaming<ForwardResponse>, Unreachable> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address));
        let endpoint = endpoint
            .map_err(Unreachable::Connect)?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        let channel = timeout(CONNECT_TIMEOUT, endpoint.connect()).await;
        let channel = channel
            .map_err(|_| Unreachable::Late)?
            .map_err(Unreachable::Connect)?;
        let mut client =
            PeerServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let calls = Calls {
            epoch: self.line.begin(),
            line: self.line.clone(),
        };
        let hello_sent = timeout(GREETING_TIMEOUT, async {
            let mut answers = client.forward(calls).await?.into_inner();
            match answers.message().await? {
                Some(greeting) if !greeting.draining => Ok(answers),
                _ => Err(Status::unavailable("the node is about to stop")),
            }
        });
        let answers = hello_sent.await.map_err(|_| Unreachable::Late)?;
        let answers = answers.map_err(Unreachable::Refused)?;
        self.line.open();
        Ok(answers)
    }

    /// Hands out answers until the connection ends, and returns the reason.
    async fn read(&self, mut answers: Streaming<ForwardResponse>) -> String {
        let mut ticks = interval(SWEEP_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut retiring = false;
        let mut is_heard = false;
        loop {
            tokio::select! {
                biased;
                message = answers.message() => match message {
                    Ok(Some(message)) => {
                        if message.time_ms > 0 && !std::mem::replace(&mut is_heard, true) {
                            self.clocks.hear(&self.id, message.time_ms);
                        }
                        self.line.answered(message.answers);
                        if message.draining {
                            self.line.close();
                        }
                    }
                    Ok(None) => return "the node ended the stream".to_owned(),
                    Err(status) => return format!("{:?}: {}", status.code(), status.message()),
                },
                now = ticks.tick() => {
                    // One time per interval is enough.
                    is_heard = false;
                    let busy = self.line.tick(now.max(Instant::now()));
                    if retiring && !busy {
                        return "the node is no longer a member".to_owned();
                    }
                }
                () = self.retired.cancelled(), if !retiring => {
                    retiring = true;
                    self.line.close();
                }
            }
        }
    }
}

/// Fails the pending calls when the task of the connection is dropped.
struct FailOnDrop(Arc<PeerQueue>);

impl Drop for FailOnDrop {
    fn drop(&mut self) {
        self.0.fail();
    }
}

/// The messages that a connection sends.
struct Calls {
    line: Arc<PeerQueue>,
    epoch: u64,
}

impl Stream for Calls {
    type Item = ForwardRequest;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ForwardRequest>> {
        self.line.poll_message(self.epoch, cx)
    }
}
