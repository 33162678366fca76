//! Checks of a request's frames before tonic parses them. tonic would answer with other codes and no details, bound each
//! message but not all of them together, bound no decompressed message, and silently drop the second message of a unary call.
//!
//! tonic gets plain messages, each when it is whole. A message that no service needs as bytes is replaced by an empty one:
//! a sum that comes in parts, and a message that is refused alone.

mod checks;
mod pieces;
mod turns;

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame};
use tonic::Status;
use tower::Service;

use super::connection::CallContext;
use checks::Checks;
use pieces::Pieces;
use turns::Turns;

/// The layer's service.
#[derive(Clone)]
pub struct Frames<S>(pub(super) S);

impl<S, B> Service<Request<B>> for Frames<S>
where
    S: Service<Request<Box<RequestFrames<B>>>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> S::Future {
        let call = CallContext::of(request.extensions()).clone();
        let turns = call.encoding.map(|_| Turns::default());
        let checks = Checks::new(call);
        // In a box, because the services move a request several times.
        let frames = |body| {
            Box::new(RequestFrames {
                body,
                checks,
                rest: Bytes::new(),
                unfinished: Pieces::default(),
                turns,
            })
        };
        self.0.call(request.map(frames))
    }
}

/// A request's body whose frames are checked.
///
/// It does not tell its end before it is polled: tonic would take a request without a message for an empty body.
pub struct RequestFrames<B> {
    body: B,
    checks: Checks,
    /// Received bytes that are not checked yet.
    rest: Bytes,
    /// The beginning of a message that has not come whole. tonic gets it with its end: it reserves memory for all that a prefix
    /// claims.
    unfinished: Pieces,
    /// Set if messages may be compressed.
    turns: Option<Turns>,
}

impl<B> Body for RequestFrames<B>
where
    B: Body<Data = Bytes, Error = Status> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Self {
            body,
            checks,
            rest,
            unfinished,
            turns,
        } = &mut *self;
        loop {
            if checks.may_pass()
                && let Some(piece) = unfinished.pop()
            {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            if rest.is_empty() {
                let frame = ready!(Pin::new(&mut *body).poll_frame(cx)).transpose()?;
                // Trailers end a request, and have no meaning in gRPC.
                let Some(Ok(data)) = frame.map(Frame::into_data) else {
                    checks.end()?;
                    return Poll::Ready(None);
                };
                *rest = data;
            }
            let turn = match turns {
                Some(turns) => Some(ready!(turns.poll_begin(cx))),
                None => None,
            };
            let checked = checks.pass(rest);
            if let Some(turn) = turn
                && checks.was_long()
            {
                turns::end(turn);
            }
            let checked = checked?;
            if checked.is_empty() {
                continue;
            }
            if checks.may_pass() && unfinished.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(checked))));
            }
            unfinished.push(checked);
        }
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
#[cfg(test)]
mod tests;
