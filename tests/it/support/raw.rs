//! A gRPC client that sends any bytes, in any pieces, at any time.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::{self, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use super::soon;

/// One HTTP/2 connection.
pub struct Connection {
    sender: SendRequest<Bytes>,
    pub driver: JoinHandle<Result<(), h2::Error>>,
}

/// A call whose request is open.
pub struct Call {
    pub request: SendStream<Bytes>,
    response: client::ResponseFuture,
}

/// A whole response.
#[derive(Debug)]
pub struct Answer {
    pub http: StatusCode,
    pub status: Status,
    pub headers: HeaderMap,
    /// Empty if the headers were the whole response.
    pub trailers: HeaderMap,
    pub body: Bytes,
}

impl Connection {
    pub async fn open(address: &str) -> Self {
        let mut http2 = client::Builder::new();
        // If a test leaves answers unread, the connection's window must not block the peer.
        http2.initial_connection_window_size(1 << 30);
        Self::open_with(address, http2).await
    }

    /// A connection on which the server may not send any message.
    pub async fn open_deaf(address: &str) -> Self {
        Self::open_narrow(address, 0).await
    }

    /// A connection on which the server may send the first bytes of each answer, and no more before they are read.
    pub async fn open_narrow(address: &str, bytes: u32) -> Self {
        let mut http2 = client::Builder::new();
        http2.initial_window_size(bytes);
        Self::open_with(address, http2).await
    }

    async fn open_with(address: &str, http2: client::Builder) -> Self {
        let stream = TcpStream::connect(address)
            .await
            .expect("the server listens");
        let (sender, connection) = http2.handshake(stream).await.expect("HTTP/2");
        Self {
            sender,
            driver: tokio::spawn(connection),
        }
    }

    pub async fn call(&mut self, method: &str) -> Call {
        self.call_with(method, &[]).await
    }

    /// Begins a call of `SumService` with headers in place of the usual ones, or in addition.
    pub async fn call_with(&mut self, method: &str, headers: &[(&'static str, &str)]) -> Call {
        self.send(request(method, headers)).await
    }

    /// Begins a call of any method.
    pub async fn call_path(&mut self, path: &str) -> Call {
        self.call_path_with(path, &[]).await
    }

    /// Begins a call of any method, with headers in place of the usual ones, or in addition.
    pub async fn call_path_with(&mut self, path: &str, headers: &[(&'static str, &str)]) -> Call {
        let mut request = request("", headers);
        *request.uri_mut() = format!("http://sumd{path}").parse().expect("a path");
        self.send(request).await
    }

    pub async fn send(&mut self, request: Request<()>) -> Call {
        let mut sender = soon(self.sender.clone().ready())
            .await
            .expect("a connection");
        let (response, request) = sender.send_request(request, false).expect("a stream");
        Call { request, response }
    }

    /// A handle for concurrent callers on this connection.
    pub fn sender(&self) -> Sender {
        Sender(self.sender.clone())
    }

    /// Makes a whole call, or returns `None` if the connection ends before its answer.
    pub async fn try_exchange(&mut self, method: &str, body: Bytes) -> Option<Answer> {
        let mut call = self.sender().try_call(method).await?;
        call.request.send_data(body, true).ok()?;
        let answer = call.try_answer().await.ok()?;
        (answer.status.code() == Code::Ok).then_some(answer)
    }

    /// Makes a call whose request ends with its headers.
    pub async fn answer_without_body(&mut self, method: &str) -> Answer {
        let sender = soon(self.sender.clone().ready()).await;
        let mut sender = sender.expect("a connection");
        let call = sender.send_request(request(method, &[]), true);
        let (response, request) = call.expect("a stream");
        Call { request, response }.answer().await
    }

    /// Makes a whole call, with its request in one piece.
    pub async fn exchange(&mut self, method: &str, body: impl Into<Bytes>) -> Answer {
        let mut call = self.call(method).await;
        call.send(body, true);
        call.answer().await
    }
}

/// The head of a call of `SumService`.
fn request(method: &str, headers: &[(&'static str, &str)]) -> Request<()> {
    let uri = format!("http://sumd/sum.v1.SumService/{method}");
    let mut request = Request::builder().method(Method::POST).uri(uri);
    let usual = [("content-type", "application/grpc"), ("te", "trailers")];
    for (name, value) in usual {
        if headers.iter().all(|(other, _)| *other != name) {
            request = request.header(name, value);
        }
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).expect("a request")
}

/// Makes calls as long as the connection accepts them.
pub struct Sender(SendRequest<Bytes>);

impl Sender {
    /// Begins a call, or returns `None` if the connection accepts none any more.
    pub async fn try_call(&self, method: &str) -> Option<Call> {
        let mut sender = soon(self.0.clone().ready()).await.ok()?;
        let (response, request) = sender.send_request(request(method, &[]), false).ok()?;
        Some(Call { request, response })
    }
}

/// Whether the peer says that it has not begun the call.
pub fn is_refused(error: &h2::Error) -> bool {
    error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM)
}

impl Call {
    pub fn send(&mut self, bytes: impl Into<Bytes>, end: bool) {
        self.request
            .send_data(bytes.into(), end)
            .expect("an open stream");
    }

    /// Sends bytes as flow control allows. Returns `false` if the peer has reset the stream.
    pub async fn send_all(&mut self, mut bytes: Bytes) -> bool {
        while !bytes.is_empty() {
            self.request.reserve_capacity(bytes.len());
            let ready = std::future::poll_fn(|cx| self.request.poll_capacity(cx)).await;
            let Some(Ok(capacity)) = ready else {
                return false;
            };
            let part = bytes.split_to(capacity.min(bytes.len()));
            if self.request.send_data(part, false).is_err() {
                return false;
            }
        }
        true
    }

    /// The headers of the response, with the rest still to come.
    pub async fn begin(self) -> (Response<RecvStream>, SendStream<Bytes>) {
        (soon(self.response).await.expect("a response"), self.request)
    }

    /// The answer, or the error if there is none.
    pub async fn try_answer(self) -> Result<Answer, h2::Error> {
        let response = soon(self.response).await?;
        Ok(complete(response).await)
    }

    pub async fn answer(self) -> Answer {
        let (response, _request) = self.begin().await;
        complete(response).await
    }
}

async fn complete(response: Response<RecvStream>) -> Answer {
    let (head, body) = response.into_parts();
    let (body, trailers) = read(body).await;
    let status = Status::from_header_map(trailers.as_ref().unwrap_or(&head.headers))
        .unwrap_or_else(|| Status::new(Code::Unknown, "no grpc-status"));
    Answer {
        http: head.status,
        status,
        headers: head.headers,
        trailers: trailers.unwrap_or_default(),
        body,
    }
}

/// Reads a response to its end.
pub async fn read(mut body: RecvStream) -> (Bytes, Option<HeaderMap>) {
    let mut all = BytesMut::new();
    while let Some(bytes) = soon(body.data()).await {
        let bytes = bytes.expect("no reset");
        let _ = body.flow_control().release_capacity(bytes.len());
        all.extend_from_slice(&bytes);
    }
    (all.freeze(), soon(body.trailers()).await.expect("no reset"))
}

/// A message with gRPC's prefix.
pub fn framed(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.len()).expect("a small message"));
    bytes.put_slice(message);
    bytes.freeze()
}

/// A framed request for the sum of `values`.
pub fn values(values: &[i64]) -> Bytes {
    use prost::Message as _;
    let request = sumd::proto::sum::v1::AddRequest {
        values: values.into(),
    };
    framed(&request.encode_to_vec())
}

/// The messages of a body.
pub fn messages<M: prost::Message + Default>(mut body: Bytes) -> Vec<M> {
    let mut messages = Vec::new();
    while !body.is_empty() {
        let prefix = body.split_to(5);
        let length = u32::from_be_bytes(prefix[1..].try_into().expect("four bytes"));
        let message = body.split_to(length as usize);
        messages.push(M::decode(message).expect("a message"));
    }
    messages
}

/// A pause of slow peers; no condition depends on it.
pub const SLOW: Duration = Duration::from_millis(2);
