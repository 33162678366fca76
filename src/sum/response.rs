//! The answers of an `AddEach` stream.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes, BytesMut};
use http_body::{Body, Frame};
use tonic::Status;

use super::error::{SumError, in_range};
use super::messages::Messages;
use super::wire::Total;
use crate::grpc::put_message;
use crate::proto::sum::v1::{AddEachResponse, add_each_response};
use crate::status;

/// Answers that are ready together go out together, up to about this size: one HTTP/2 frame.
const EACH_FRAME_BYTES: usize = 16 * 1024;

/// The answers of an `AddEach` stream. It reads on only when it is asked for answers, so a caller that
/// does not read them is not read from either.
pub(super) struct Each<B> {
    request: B,
    messages: Messages,
    /// Received and not yet read.
    bytes: Bytes,
    /// Answered and not yet sent.
    answers: BytesMut,
    /// How the stream ends, once the answers before that are sent.
    end: Option<Status>,
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
        }
    }

    fn poll_answers(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
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

impl<B> Body for Each<B>
where
    B: Body<Data = Bytes, Error = Status> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = self.get_mut().poll_answers(cx);
        frame.map(|frame| frame.map(Ok))
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
