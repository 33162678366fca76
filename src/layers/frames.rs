//! Checks of a request's frames before tonic parses them. tonic would answer with other codes and no details, reserve
//! memory for a claimed length, and silently drop the second message of a unary call.
//!
//! A frame is one byte that says whether the message is compressed, four bytes of its length, big-endian, and the
//! message: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.

mod error;

use std::collections::VecDeque;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::Request;
use http_body::{Body, Frame};
use tonic::Status;
use tower::Service;

use super::connection::CallContext;
use super::policy::{Messages, RefusedMessage};
pub use error::FrameError;

const PREFIX_BYTES: usize = 5;

/// The layer's service.
#[derive(Clone)]
pub struct Frames<S>(pub(super) S);

impl<S, B> Service<Request<B>> for Frames<S>
where
    S: Service<Request<RequestFrames<B>>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        let call = CallContext::of(request.extensions());
        let mut checks = Checks::new(call.policy.requests, call.max_message_bytes());
        if call.policy.refused == RefusedMessage::IsSkipped {
            let skipped = Skipped::default();
            checks.skipped = Some(skipped.clone());
            request.extensions_mut().insert(skipped);
        }
        self.0
            .call(request.map(|body| RequestFrames { body, checks }))
    }
}

/// The refused messages of a request, for a method that continues without them. The body has an empty message in place
/// of each. It is an extension of the request.
#[derive(Clone, Default)]
pub struct Skipped(Arc<Mutex<VecDeque<(u64, FrameError)>>>);

impl Skipped {
    fn push(&self, number: u64, error: FrameError) {
        self.lock().push_back((number, error));
    }

    /// Takes the error of a message, if it was refused. Messages are numbered from 1, and have to be asked for in
    /// order.
    #[must_use]
    pub fn take(&self, number: u64) -> Option<FrameError> {
        let mut skipped = self.lock();
        let (next, _) = skipped.front()?;
        let is_next = *next == number;
        let first = is_next.then(|| skipped.pop_front()).flatten();
        first.map(|(_, error)| error)
    }

    /// The queue is consistent after each change, so poisoning is ignored.
    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<(u64, FrameError)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request body with checked frames.
pub struct RequestFrames<B> {
    body: B,
    checks: Checks,
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
        let Self { body, checks } = &mut *self;
        loop {
            let frame = ready!(Pin::new(&mut *body).poll_frame(cx)).transpose()?;
            let Some(frame) = frame else {
                checks.end()?;
                return Poll::Ready(None);
            };
            // Trailers end a request, and have no meaning in gRPC.
            let Ok(data) = frame.into_data() else {
                checks.end()?;
                return Poll::Ready(None);
            };
            let data = checks.pass(data)?;
            if !data.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
        }
    }
}

/// The prefix of a message, as far as it has arrived.
#[derive(Default)]
struct Prefix {
    bytes: [u8; PREFIX_BYTES],
    have: usize,
}

impl Prefix {
    /// Takes bytes off the front of `data`. Returns `true` once the prefix is complete.
    fn feed(&mut self, data: &mut &[u8]) -> bool {
        let (part, rest) = data.split_at(data.len().min(PREFIX_BYTES - self.have));
        *data = rest;
        self.bytes[self.have..self.have + part.len()].copy_from_slice(part);
        self.have += part.len();
        self.have == PREFIX_BYTES
    }
}

struct Checks {
    requests: Messages,
    max_bytes: usize,
    /// Set if refused messages are skipped.
    skipped: Option<Skipped>,
    prefix: Prefix,
    /// Bytes of the current message that have not arrived.
    left: usize,
    /// Whether the current message is skipped.
    is_skipping: bool,
    /// Number of messages that have begun.
    messages: u64,
}

impl Checks {
    fn new(requests: Messages, max_bytes: usize) -> Self {
        Self {
            requests,
            max_bytes,
            skipped: None,
            prefix: Prefix::default(),
            left: 0,
            is_skipping: false,
            messages: 0,
        }
    }

    /// Returns the bytes to pass on. A prefix is passed on once it is complete.
    fn pass(&mut self, data: Bytes) -> Result<Bytes, FrameError> {
        let mut output = Output::new(&data);
        let mut at = 0;
        while at < data.len() {
            if self.left == 0 {
                let held = self.prefix.have;
                let mut rest = &data[at..];
                let is_complete = self.prefix.feed(&mut rest);
                let end = data.len() - rest.len();
                if !is_complete {
                    output.replace(at..end, &[]);
                    break;
                }
                let prefix = std::mem::take(&mut self.prefix).bytes;
                self.begin(prefix)?;
                if self.is_skipping {
                    output.replace(at..end, &[0; PREFIX_BYTES]);
                } else if held > 0 {
                    output.replace(at..end, &prefix);
                }
                at = end;
            }
            let end = data.len().min(at.saturating_add(self.left));
            if self.is_skipping {
                output.replace(at..end, &[]);
            }
            self.left -= end - at;
            at = end;
        }
        Ok(match output.finish() {
            Some(changed) => changed,
            None => data,
        })
    }

    /// Checks the prefix of the next message.
    fn begin(&mut self, [flag, length @ ..]: [u8; PREFIX_BYTES]) -> Result<(), FrameError> {
        self.messages += 1;
        if self.requests == Messages::One && self.messages > 1 {
            return Err(FrameError::Count { at_least: 2 });
        }
        let bytes = u32::from_be_bytes(length);
        self.left = bytes as usize;
        let refused = match flag {
            0 if self.left > self.max_bytes => Some(FrameError::TooLarge {
                bytes,
                max_bytes: self.max_bytes,
            }),
            0 => None,
            1 => Some(FrameError::Compressed),
            other => return Err(FrameError::BadPrefix(other)),
        };
        self.is_skipping = refused.is_some();
        match (refused, &self.skipped) {
            (None, _) => Ok(()),
            (Some(error), None) => Err(error),
            (Some(error), Some(skipped)) => {
                skipped.push(self.messages, error);
                Ok(())
            }
        }
    }

    /// Checks that a request may end here.
    fn end(&self) -> Result<(), FrameError> {
        if self.left > 0 || self.prefix.have > 0 {
            return Err(FrameError::Truncated);
        }
        if self.requests == Messages::One && self.messages == 0 {
            return Err(FrameError::Count { at_least: 0 });
        }
        Ok(())
    }
}

/// The bytes to pass on: the received ones, copied if some are replaced.
struct Output<'a> {
    data: &'a [u8],
    /// The bytes of `data` up to here are in `changed`.
    done: usize,
    changed: Option<BytesMut>,
}

impl<'a> Output<'a> {
    fn new(data: &'a [u8]) -> Self {
        Self {
            data,
            done: 0,
            changed: None,
        }
    }

    fn replace(&mut self, range: Range<usize>, with: &[u8]) {
        let changed = self.changed.get_or_insert_default();
        changed.extend_from_slice(&self.data[self.done..range.start]);
        changed.extend_from_slice(with);
        self.done = range.end;
    }

    /// Returns the changed bytes; `None` if nothing was replaced.
    fn finish(self) -> Option<Bytes> {
        let mut changed = self.changed?;
        changed.extend_from_slice(&self.data[self.done..]);
        Some(changed.freeze())
    }
}

#[cfg(test)]
mod tests;
