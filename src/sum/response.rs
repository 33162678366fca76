//! What goes back: one message and its trailers, or a stream of answers.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use http_body::{Body, Frame};
use prost::Message;
use tonic::Status;

use super::error::SumError;
use super::messages::Messages;
use super::service::in_range;
use super::wire::Total;
use crate::proto::sum::v1::{AddEachResponse, add_each_response};
use crate::status;

const CONTENT_TYPE_GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// Answers that are ready together go out together, up to about this size: one HTTP/2 frame.
const EACH_FRAME_BYTES: usize = 16 * 1024;

/// The body of an answer. It is moved about for each call, so it is small.
#[derive(Default)]
pub enum ResponseBody<B> {
    /// Nothing: all was in the headers, or all is sent.
    #[default]
    Empty,
    /// One message, and behind it the trailers of success.
    Message(Bytes),
    /// The trailers of success.
    Trailers,
    /// The answers of an `AddEach` stream, made as its requests come in.
    Each(Box<Each<B>>),
}

pub(super) fn unary<B>(message: &impl Message) -> Response<ResponseBody<B>> {
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + message.encoded_len());
    put_message(message, &mut bytes);
    respond(ResponseBody::Message(bytes.freeze()))
}

pub(super) fn stream<B>(each: Each<B>) -> Response<ResponseBody<B>> {
    respond(ResponseBody::Each(Box::new(each)))
}

fn respond<B>(body: ResponseBody<B>) -> Response<ResponseBody<B>> {
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, CONTENT_TYPE_GRPC);
    response
}

const PREFIX_BYTES: usize = 5;

fn put_message(message: &impl Message, out: &mut BytesMut) {
    let length = u32::try_from(message.encoded_len()).expect("an answer is far below 4 GiB");
    out.put_u8(0);
    out.put_u32(length);
    message
        .encode(out)
        .expect("a growing buffer has room for every message");
}

impl<B> Body for ResponseBody<B>
where
    B: Body<Data = Bytes, Error = Status> + Unpin,
{
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
            Self::Each(mut each) => {
                let frame = each.poll_frame(cx);
                if !each.ended {
                    *this = Self::Each(each);
                }
                frame.map(|frame| frame.map(Ok))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Empty)
    }
}

/// The answers of an `AddEach` stream. It reads on only when it is asked for answers, so a caller that
/// does not read them is not read from either.
pub struct Each<B> {
    request: B,
    messages: Messages,
    /// Received and not yet read.
    bytes: Bytes,
    /// Answered and not yet sent.
    answers: BytesMut,
    /// How the stream ends, once the answers before that are sent.
    end: Option<Status>,
    ended: bool,
}

impl<B> Each<B>
where
    B: Body<Data = Bytes, Error = Status> + Unpin,
{
    pub(super) fn new(request: B, messages: Messages) -> Self {
        Self {
            request,
            messages,
            bytes: Bytes::new(),
            answers: BytesMut::new(),
            end: None,
            ended: false,
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        while self.end.is_none() {
            self.answer_received();
            if self.answers.len() >= EACH_FRAME_BYTES || self.end.is_some() {
                break;
            }
            match Pin::new(&mut self.request).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.bytes = frame.into_data().unwrap_or_default();
                }
                Poll::Ready(Some(Err(status))) => self.end = Some(status),
                Poll::Ready(None) => {
                    let end = self.messages.check_end();
                    self.end = Some(end.map_or_else(Status::from, |()| Status::ok("")));
                }
                Poll::Pending if self.answers.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        if !self.answers.is_empty() {
            return Poll::Ready(Some(Frame::data(self.answers.split().freeze())));
        }
        self.ended = true;
        Poll::Ready(
            self.end
                .take()
                .map(|end| Frame::trailers(status::trailers(&end))),
        )
    }

    /// Answers the messages that have come, up to a frame full.
    fn answer_received(&mut self) {
        let mut bytes = self.bytes.as_ref();
        while !bytes.is_empty() && self.answers.len() < EACH_FRAME_BYTES {
            match self.messages.next(&mut bytes) {
                Ok(Some(sum)) => put_message(&answer(sum), &mut self.answers),
                Ok(None) => {}
                Err(error) => {
                    self.end = Some(error.into());
                    break;
                }
            }
        }
        let read = self.bytes.len() - bytes.len();
        self.bytes.advance(read);
    }
}

fn answer(total: Result<Total, SumError>) -> AddEachResponse {
    let result = match total.and_then(|total| in_range(total.sum)) {
        Ok(sum) => add_each_response::Result::Sum(sum),
        Err(error) => add_each_response::Result::Error(status::to_proto(&error.into())),
    };
    AddEachResponse {
        result: Some(result),
    }
}
