//! Into a response's body: one message and its trailers, or a stream of messages.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use http_body::{Body, Frame};
use prost::Message;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use crate::status;

const CONTENT_TYPE_GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

const PREFIX_BYTES: usize = 5;

/// Messages that wait for a stream's reader, beside those that HTTP/2 buffers.
const WAITING_MESSAGES: usize = 2;

/// The body of an answer. It is moved about for each call, so it is small.
#[derive(Default)]
pub enum ResponseBody {
    /// Nothing: all was in the headers, or all is sent.
    #[default]
    Empty,
    /// One message, and behind it the trailers of success.
    Message(Bytes),
    /// The trailers of success.
    Trailers,
    /// Messages that are made while they are sent, and behind them the trailers.
    Stream(Pin<Box<dyn Body<Data = Bytes, Error = Status> + Send>>),
}

/// A response of one message.
pub fn unary(message: &impl Message) -> Response<ResponseBody> {
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + message.encoded_len());
    put_message(message, &mut bytes);
    respond(ResponseBody::Message(bytes.freeze()))
}

/// A response whose messages and trailers `body` makes.
pub fn stream_body(
    body: impl Body<Data = Bytes, Error = Status> + Send + 'static,
) -> Response<ResponseBody> {
    respond(ResponseBody::Stream(Box::pin(body)))
}

/// A response whose messages a handler makes. It is a task of its own, for it may wait in a queue where its turn must not
/// go to one that is not looked at, and it ends with the call.
pub fn stream<F>(handler: impl FnOnce(Replies) -> F) -> Response<ResponseBody>
where
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let (sender, messages) = mpsc::channel(WAITING_MESSAGES);
    let handler = tokio::spawn(handler(Replies(sender)));
    stream_body(Handled {
        handler: AbortOnDropHandle::new(handler),
        messages,
    })
}

fn respond(body: ResponseBody) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, CONTENT_TYPE_GRPC);
    response
}

/// Appends a message with its prefix.
///
/// # Panics
/// Where it has 4 GiB.
pub fn put_message(message: &impl Message, out: &mut BytesMut) {
    let length = u32::try_from(message.encoded_len()).expect("an answer is far below 4 GiB");
    out.put_u8(0);
    out.put_u32(length);
    message
        .encode(out)
        .expect("a growing buffer has room for every message");
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        match std::mem::take(this) {
            Self::Empty => Poll::Ready(None),
            Self::Message(message) => {
                *this = Self::Trailers;
                Poll::Ready(Some(Ok(Frame::data(message))))
            }
            Self::Trailers => Poll::Ready(Some(Ok(Frame::trailers(status::ok_trailers())))),
            Self::Stream(mut body) => {
                let frame = body.as_mut().poll_frame(cx);
                let ended = match &frame {
                    Poll::Ready(Some(Ok(frame))) => frame.is_trailers(),
                    Poll::Ready(_) => true,
                    Poll::Pending => false,
                };
                if !ended {
                    *this = Self::Stream(body);
                }
                frame
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Empty)
    }
}

/// Where a handler puts its messages.
pub struct Replies(mpsc::Sender<Bytes>);

impl Replies {
    /// Sends a message, once there is room.
    pub async fn send(&self, message: &impl Message) {
        self.room().await.send(message);
    }

    /// Waits for room for a message, for a handler that makes none, and holds nothing for it, before there is.
    pub async fn room(&self) -> Room {
        match self.0.clone().reserve_owned().await {
            Ok(room) => Room(room),
            // Nobody reads any more: the handler is about to be dropped.
            Err(_) => std::future::pending().await,
        }
    }
}

/// Room for one message.
pub struct Room(mpsc::OwnedPermit<Bytes>);

impl Room {
    /// Sends a message.
    pub fn send(self, message: &impl Message) {
        let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + message.encoded_len());
        put_message(message, &mut bytes);
        self.0.send(bytes.freeze());
    }
}

/// A handler at work, and what it has to say.
struct Handled {
    handler: AbortOnDropHandle<Result<(), Status>>,
    messages: mpsc::Receiver<Bytes>,
}

impl Body for Handled {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        // What it said before it ended is sent before its end.
        if let Some(message) = ready!(this.messages.poll_recv(cx)) {
            return Poll::Ready(Some(Ok(Frame::data(message))));
        }
        let end = match ready!(Pin::new(&mut this.handler).poll(cx)) {
            Ok(end) => end.err().unwrap_or_else(|| Status::ok("")),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        };
        Poll::Ready(Some(Ok(Frame::trailers(status::trailers(&end)))))
    }
}
