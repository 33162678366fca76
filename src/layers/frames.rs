//! Checks of a request's frames before tonic parses them. tonic would answer with other codes and no details, bound each
//! message but not all of them together, and silently drop the second message of a unary call.
//!
//! A frame is one byte that says whether the message is compressed, four bytes of its length, big-endian, and the
//! message: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use http::Request;
use http_body::{Body, Frame};
use tonic::Status;
use tower::Service;

use super::connection::CallContext;
use super::frame_error::FrameError;
use super::policy::{Messages, RefusedMessage};

const PREFIX_BYTES: usize = 5;
/// The size from which on a piece of a message is kept as it came. Clients put 16 KiB into a frame, unless they make use of
/// larger ones.
const LARGE_PIECE_BYTES: usize = 8 << 10;

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

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        let call = CallContext::of(request.extensions()).clone();
        let checks = Checks::new(call);
        if let Some(skipped) = &checks.skipped {
            request.extensions_mut().insert(skipped.clone());
        }
        // In a box, because the services move a request several times.
        let frames = |body| {
            Box::new(RequestFrames {
                body,
                checks,
                rest: Bytes::new(),
                unfinished: Pieces::default(),
            })
        };
        self.0.call(request.map(frames))
    }
}

/// The last refused message of a request, for a method that continues without it. The body has an empty message in its
/// place, and nothing after that before the method has read on. It is an extension of the request.
#[derive(Clone, Default)]
pub struct Skipped(Arc<Mutex<Option<(u64, FrameError)>>>);

impl Skipped {
    fn set(&self, number: u64, error: FrameError) {
        *self.lock() = Some((number, error));
    }

    /// Takes the error of a message, if it was refused. Messages are numbered from 1.
    #[must_use]
    pub fn take(&self, number: u64) -> Option<FrameError> {
        let mut skipped = self.lock();
        let (_, error) = skipped.take_if(|(refused, _)| *refused == number)?;
        Some(error)
    }

    /// The lock, even if it is poisoned: the value is valid after each change.
    fn lock(&self) -> MutexGuard<'_, Option<(u64, FrameError)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
            let checked = checks.pass(rest)?;
            if checked.is_empty() {
                continue;
            }
            if checks.may_pass() && unfinished.0.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(checked))));
            }
            unfinished.push(checked);
        }
    }
}

/// Bytes in pieces.
#[derive(Default)]
struct Pieces(VecDeque<Piece>);

enum Piece {
    /// A piece as it came.
    Large(Bytes),
    /// Small pieces, joined.
    Small(BytesMut),
}

impl Pieces {
    /// Adds bytes. A small piece is copied, since it may keep a much larger buffer of the connection in memory.
    fn push(&mut self, bytes: Bytes) {
        if bytes.len() >= LARGE_PIECE_BYTES {
            self.0.push_back(Piece::Large(bytes));
            return;
        }
        match self.0.back_mut() {
            Some(Piece::Small(joined)) => joined.extend_from_slice(&bytes),
            _ => self.0.push_back(Piece::Small(bytes[..].into())),
        }
    }

    /// Takes the first piece.
    fn pop(&mut self) -> Option<Bytes> {
        Some(match self.0.pop_front()? {
            Piece::Large(bytes) => bytes,
            Piece::Small(joined) => joined.freeze(),
        })
    }
}

/// A prefix of which some bytes have come.
#[derive(Default)]
struct Prefix {
    bytes: [u8; PREFIX_BYTES],
    have: usize,
}

struct Checks {
    call: CallContext,
    /// The bytes of the request memory that the current message has taken: those that have come, until it is complete.
    held: usize,
    /// Set if the method continues without refused messages.
    skipped: Option<Skipped>,
    prefix: Prefix,
    /// The size of the current message.
    length: usize,
    /// Bytes of it to come.
    left: usize,
    /// Whether it is left out.
    is_skipping: bool,
    /// Messages that have begun.
    messages: u64,
}

impl Checks {
    fn new(call: CallContext) -> Self {
        Self {
            skipped: (call.policy.refused == RefusedMessage::IsSkipped).then(Skipped::default),
            call,
            held: 0,
            prefix: Prefix::default(),
            length: 0,
            left: 0,
            is_skipping: false,
            messages: 0,
        }
    }

    /// Takes checked bytes off the front of `rest`: up to a message that is refused, whose turn comes after those before it
    /// were read. A prefix is passed on once it is complete.
    fn pass(&mut self, rest: &mut Bytes) -> Result<Bytes, FrameError> {
        if self.is_skipping {
            let skipped = self.left.min(rest.len());
            rest.advance(skipped);
            self.left -= skipped;
            self.is_skipping = self.left > 0;
            return Ok(Bytes::new());
        }
        let mut at = 0;
        loop {
            let part = self.left.min(rest.len() - at);
            at += part;
            self.left -= part;
            if at == rest.len() {
                break;
            }
            let have = self.prefix.have;
            let Some(missing) = rest.get(at..at + PREFIX_BYTES - have) else {
                if at == 0 {
                    self.prefix.bytes[have..have + rest.len()].copy_from_slice(rest);
                    self.prefix.have += rest.len();
                    rest.clear();
                }
                break;
            };
            let mut prefix = self.prefix.bytes;
            prefix[have..].copy_from_slice(missing);
            let length = self.check(prefix);
            // The messages before one that is refused or unfinished come out by themselves.
            let is_whole = |length| rest.len() - at - PREFIX_BYTES >= length;
            match length {
                Err(_) if at > 0 => break,
                Ok(length) if at > 0 && !is_whole(length) => break,
                Err(error) => {
                    rest.advance(PREFIX_BYTES - have);
                    return self.refuse(prefix, error);
                }
                Ok(length) => self.begin(length),
            }
            if have > 0 {
                rest.advance(PREFIX_BYTES - have);
                return Ok(Bytes::copy_from_slice(&prefix));
            }
            at += PREFIX_BYTES;
        }
        let unfinished = if self.left > 0 {
            self.length - self.left
        } else {
            0
        };
        let memory = &self.call.connection.request_memory;
        memory.resize(&mut self.held, unfinished)?;
        Ok(rest.split_to(at))
    }

    /// Whether the bytes that were checked may be passed on: they end with a message, or with one that is left out.
    fn may_pass(&self) -> bool {
        self.left == 0 || self.is_skipping
    }

    /// Checks the prefix of a message, and gives the message's size.
    fn check(&self, [flag, length @ ..]: [u8; PREFIX_BYTES]) -> Result<usize, FrameError> {
        if self.call.policy.requests == Messages::One && self.messages == 1 {
            return Err(FrameError::Count { at_least: 2 });
        }
        let bytes = u32::from_be_bytes(length);
        let max_bytes = self.call.max_message_bytes();
        match flag {
            0 if bytes as usize > max_bytes => Err(FrameError::TooLarge { bytes, max_bytes }),
            0 => Ok(bytes as usize),
            1 => Err(FrameError::Compressed),
            other => Err(FrameError::BadPrefix(other)),
        }
    }

    fn begin(&mut self, length: usize) {
        self.prefix = Prefix::default();
        self.messages += 1;
        self.length = length;
        self.left = length;
    }

    /// Refuses a message: leaves an empty one in its place if the method continues without it.
    fn refuse(
        &mut self,
        [_, length @ ..]: [u8; PREFIX_BYTES],
        error: FrameError,
    ) -> Result<Bytes, FrameError> {
        let is_last = matches!(error, FrameError::BadPrefix(_));
        let Some(skipped) = self.skipped.clone().filter(|_| !is_last) else {
            return Err(error);
        };
        self.begin(u32::from_be_bytes(length) as usize);
        self.is_skipping = self.left > 0;
        skipped.set(self.messages, error);
        Ok(Bytes::from_static(&[0; PREFIX_BYTES]))
    }

    /// Checks that a request may end here.
    fn end(&self) -> Result<(), FrameError> {
        if self.left > 0 || self.prefix.have > 0 {
            return Err(FrameError::Truncated);
        }
        if self.call.policy.requests == Messages::One && self.messages == 0 {
            return Err(FrameError::Count { at_least: 0 });
        }
        Ok(())
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        let memory = &self.call.connection.request_memory;
        // There is always room for less.
        let _ = memory.resize(&mut self.held, 0);
    }
}

#[cfg(test)]
mod tests;
