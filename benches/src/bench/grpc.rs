//! A minimal gRPC client, directly on h2 so that the load generator uses little CPU.

use std::{
    error::Error,
    fmt::{self, Display, Formatter},
    net::SocketAddr,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Buf as _, Bytes, BytesMut};
use h2::{
    RecvStream, SendStream,
    client::{Connection, ResponseFuture, SendRequest},
};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Version};
use prost::encoding::decode_varint;
use sumd_benches::PREFIX_BYTES;
use tokio::{net::TcpStream, time::timeout};

use crate::works::Query;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Answers are small, but many can be in flight: the client's windows must never block the server.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// The key of `int64 sum = 1`, in every response message of the service.
const SUM_KEY: u8 = 0x08;

/// One HTTP/2 connection, for calls of one method.
#[derive(Clone)]
pub struct Client {
    /// The head of every call, built once.
    head: Request<()>,
    sender: SendRequest<Bytes>,
}

impl Client {
    /// Connects, for calls of `method`, such as `sum.v1.SumService/Add`.
    pub async fn connect(address: SocketAddr, method: &str) -> Result<Self> {
        let (sender, connection) = handshake(address).await?;
        // An error of the connection surfaces in each call on it.
        tokio::spawn(connection);
        let head = Request::post(format!("http://{address}/{method}"))
            .version(Version::HTTP_2)
            .header("te", "trailers")
            .header("content-type", "application/grpc")
            .body(())?;
        Ok(Self { head, sender })
    }

    /// Opens a call.
    pub async fn open(&mut self) -> Result<(SendStream<Bytes>, Answers)> {
        let mut sender = self.sender.clone().ready().await?;
        let (response, requests) = sender.send_request(self.head.clone(), false)?;
        Ok((requests, Answers::new(response)))
    }

    /// Calls `Add`, and checks the status and the sum.
    pub async fn add(&mut self, query: &Query) -> Result<()> {
        let (mut requests, mut answers) = self.open().await?;
        requests.send_data(query.frames.clone(), true)?;
        answers.expect(query.sums[0]).await?;
        answers.end().await
    }

    /// Makes a unary call with one `frame`, checks the status, and passes the answer to `take`.
    pub async fn call<T>(
        &mut self,
        frame: Bytes,
        take: impl FnOnce(&[u8]) -> Result<T>,
    ) -> Result<T> {
        let (mut requests, mut answers) = self.open().await?;
        requests.send_data(frame, true)?;
        let answer = answers.message(take).await?;
        answers.end().await?;
        Ok(answer)
    }
}

/// Connects, and sends the preface and the settings; the caller has to drive the connection.
pub async fn handshake(
    address: SocketAddr,
) -> Result<(SendRequest<Bytes>, Connection<TcpStream, Bytes>)> {
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    let halves = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .enable_push(false)
        .handshake(stream)
        .await?;
    Ok(halves)
}

/// The response half of a call.
pub struct Answers {
    state: State,
    /// The bytes of the following messages that have arrived.
    unread: BytesMut,
}

enum State {
    Waiting(ResponseFuture),
    Reading(HeaderMap, RecvStream),
}

impl Answers {
    fn new(response: ResponseFuture) -> Self {
        Self {
            state: State::Waiting(response),
            unread: BytesMut::new(),
        }
    }

    /// Waits for the next message, and passes it to `take`.
    pub async fn message<T>(&mut self, take: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
        loop {
            if let Some(length) = self.unread.get(1..PREFIX_BYTES) {
                let end = PREFIX_BYTES + u32::from_be_bytes(length.try_into()?) as usize;
                if let Some(message) = self.unread.get(PREFIX_BYTES..end) {
                    let taken = take(message);
                    self.unread.advance(end);
                    return taken;
                }
            }
            if !self.read().await? {
                self.status().await?;
                bail!("the answer ended before its message");
            }
        }
    }

    /// Reads the next message, which must have this `sum`.
    pub async fn expect(&mut self, sum: i64) -> Result<()> {
        let answered = self.message(sum_of).await?;
        ensure!(answered == sum, "wrong sum: got {answered}, want {sum}");
        Ok(())
    }

    /// Reads the rest, which must be the status OK and no message.
    pub async fn end(&mut self) -> Result<()> {
        ensure!(
            !self.read().await? && self.unread.is_empty(),
            "more answers than requests"
        );
        self.status().await
    }

    /// Reads some bytes. Returns `false` at the end of the messages.
    async fn read(&mut self) -> Result<bool> {
        if let State::Waiting(response) = &mut self.state {
            let (head, body) = response.await?.into_parts();
            ensure!(head.status == StatusCode::OK, "HTTP status {}", head.status);
            self.state = State::Reading(head.headers, body);
        }
        let State::Reading(_, body) = &mut self.state else {
            unreachable!("the headers have just been read");
        };
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            self.unread.extend_from_slice(&chunk);
            if !chunk.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Fails unless the status is OK. It is in the trailers, or in the headers of a response without messages.
    async fn status(&mut self) -> Result<()> {
        let State::Reading(headers, body) = &mut self.state else {
            bail!("no answer");
        };
        let trailers = body.trailers().await?;
        let fields = trailers.as_ref().unwrap_or(headers);
        let status = fields.get("grpc-status").context("no grpc-status")?;
        let message = fields.get("grpc-message");
        if status == "0" {
            return Ok(());
        }
        let (status, message) = (status.clone(), message.cloned());
        Err(Refused { status, message }.into())
    }
}

/// A status that is not OK.
#[derive(Debug)]
pub struct Refused {
    pub status: HeaderValue,
    message: Option<HeaderValue>,
}

impl Display for Refused {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "grpc-status {:?}: {:?}", self.status, self.message)
    }
}

impl Error for Refused {}

/// The field `int64 sum = 1` of a message that has no other field.
fn sum_of(message: &[u8]) -> Result<i64> {
    match message {
        [] => Ok(0),
        [SUM_KEY, sum @ ..] => Ok(decode_varint(&mut &*sum)?.cast_signed()),
        _ => bail!("an answer that is no sum: {message:?}"),
    }
}
