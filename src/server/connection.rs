//! One connection, from its first byte to its last.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::{Sleep, sleep, timeout};
use tower::Service as _;
use tracing::debug;

use super::limits::Limits;
use super::listener::Stream;
use super::node::Local;
use super::router::Router;
use super::timer::{self, PolledTimer};
use crate::layers::{Calls, Connection, ResponseBody, Stack, Streams, stack};

/// The first bytes that an HTTP/2 client sends (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Time for a connection's first bytes when the server drains. Those of a peer that had connected before are on their
/// way; a silent peer has no call to lose.
const DRAIN_HELLO_GRACE: Duration = Duration::from_millis(100);

/// Maximum age of a connection for health checks only: callers that came to count would keep the probes out.
const PROBE_CONNECTION_AGE: Duration = Duration::from_secs(10);

/// The response to clients that do not speak HTTP/2, such as a browser or curl.
const NOT_HTTP2: &[u8] = b"HTTP/1.1 505 HTTP Version Not Supported\r\n\
    content-type: text/plain\r\nconnection: close\r\ncontent-length: 56\r\n\r\n\
    This port speaks gRPC, over HTTP/2 with prior knowledge\n";

/// The calls that a connection may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    All,
    /// The connection limit is reached, but health probes must not take the server for dead.
    HealthChecks,
}

pub(super) async fn serve(stream: Stream, admission: Admission, local: Arc<Local>) {
    match stream {
        Stream::Tcp(stream) => serve_stream(stream, admission, local).await,
        Stream::Unix(stream) => serve_stream(stream, admission, local).await,
    }
}

async fn serve_stream<S>(mut stream: S, admission: Admission, local: Arc<Local>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let Limits {
        handshake_timeout,
        keepalive_timeout,
        ..
    } = local.node.limits;
    let drained = async {
        local.phase.draining.cancelled().await;
        sleep(DRAIN_HELLO_GRACE).await;
    };
    tokio::select! {
        biased;
        hello = timeout(handshake_timeout, read_preface(&mut stream)) => match hello {
            Ok(Ok(())) => serve_http2(Resumed::new(stream, keepalive_timeout), admission, local.clone()).await,
            Ok(Err(error)) => debug!(%error, "not an HTTP/2 client"),
            Err(_) => debug!("no HTTP/2 preface in time"),
        },
        () = drained => {}
    }
}

async fn read_preface<S>(stream: &mut S) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut preface = [0; PREFACE.len()];
    let mut have = 0;
    while have < preface.len() {
        have += match stream.read(&mut preface[have..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => more,
        };
        if !PREFACE.starts_with(&preface[..have]) {
            stream.write_all(NOT_HTTP2).await?;
            stream.shutdown().await?;
            return Err(io::Error::other("no HTTP/2 preface"));
        }
    }
    Ok(())
}

async fn serve_http2<S>(stream: Resumed<S>, admission: Admission, local: Arc<Local>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (limits, phase) = (&local.node.limits, &local.phase);
    let shared = Arc::new(Connection {
        probes_only: (admission == Admission::HealthChecks).then_some(limits.max_connections),
        calls: local.node.calls.clone(),
        request_memory: local.node.request_memory.clone(),
        watches: Calls::new(limits.max_watches()),
        closing: phase.draining.child_token(),
        draining: phase.draining.clone(),
        ending: phase.ending.clone(),
        max_header_list_size: limits.max_header_list_size,
        max_message_size: limits.max_message_size,
        stream_idle_timeout: limits.stream_idle_timeout,
    });
    let closing = &shared.closing;
    let service = CallService(stack(Router(local.clone()), &shared));
    let mut connection = pin!(http2(limits).serve_connection(TokioIo::new(stream), service));
    let age = match admission {
        Admission::All => limits.max_connection_age.map(jittered),
        Admission::HealthChecks => Some(PROBE_CONNECTION_AGE),
    };

    tokio::select! {
        biased;
        result = timer::run(connection.as_mut()) => return log_end(result),
        () = closing.cancelled() => {}
        () = after(age) => {}
    }
    // No new calls (GOAWAY); those in flight continue. A drain has a bound of its own.
    connection.as_mut().graceful_shutdown();
    closing.cancel();
    let draining = phase.draining.is_cancelled();
    let grace = (!draining).then_some(limits.max_connection_age_grace);
    tokio::select! {
        biased;
        result = timer::run(connection) => log_end(result),
        () = phase.dropping.cancelled() => debug!("dropped at shutdown"),
        () = after(grace) => debug!("dropped after --max-connection-age-grace"),
    }
}

/// The layers over the services, as a service of hyper.
struct CallService(Stack<Router>);

impl hyper::service::Service<Request<Incoming>> for CallService {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    // Boxed, because hyper and tokio move it several times.
    type Future = Pin<Box<<Stack<Router> as tower::Service<Request<Incoming>>>::Future>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        Box::pin(self.0.clone().call(request))
    }
}

/// Varies an age by up to ten per cent, so that the clients of a server that has just started do not reconnect at once.
fn jittered(age: Duration) -> Duration {
    age.mul_f64(0.9 + 0.2 * fastrand::f64())
}

async fn after(time: Option<Duration>) {
    match time {
        Some(time) => sleep(time).await,
        None => std::future::pending().await,
    }
}

fn log_end(result: hyper::Result<()>) {
    if let Err(error) = result {
        debug!(%error, "connection failed");
    }
}

/// hyper, with an explicit value for every bound that it and h2 have.
fn http2(limits: &Limits) -> http2::Builder<Streams> {
    let mut http2 = http2::Builder::new(Streams);
    http2
        .timer(PolledTimer)
        .max_concurrent_streams(limits.max_concurrent_streams)
        .initial_stream_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_frame_size(limits.max_frame_size)
        .max_header_list_size(limits.header_list_read())
        .max_send_buf_size(limits.send_buffer as usize)
        .max_pending_accept_reset_streams(limits.max_pending_resets as usize)
        .max_local_error_reset_streams(limits.max_error_resets as usize)
        .keep_alive_interval(limits.keepalive_interval)
        .keep_alive_timeout(limits.keepalive_timeout)
        // gRPC does not use it, and it would be one more header in each response.
        .auto_date_header(false);
    http2
}

/// A stream whose preface was read, and is read again. It fails if the peer accepts no bytes for too long: hyper would
/// wait without a bound, even to tell the peer that the connection ends.
struct Resumed<S> {
    preface: &'static [u8],
    stream: S,
    write_timeout: Duration,
    /// Runs while the peer accepts no bytes.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Resumed<S> {
    fn new(stream: S, write_timeout: Duration) -> Self {
        Self {
            preface: PREFACE,
            stream,
            write_timeout,
            stalled: None,
        }
    }

    fn bounded<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let timeout = self.write_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(timeout)));
        let error = || Err(io::ErrorKind::TimedOut.into());
        stalled.as_mut().poll(cx).map(|()| error())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Resumed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.preface.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let (now, later) = self
            .preface
            .split_at(self.preface.len().min(buf.remaining()));
        buf.put_slice(now);
        self.preface = later;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Resumed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.bounded(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.bounded(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = Pin::new(&mut self.stream).poll_flush(cx);
        self.bounded(cx, written)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.bounded(cx, written)
    }
}
