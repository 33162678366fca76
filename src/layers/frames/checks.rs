//! The checks of a request's frames, one after the other.

use std::mem;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::{Buf as _, Bytes, BytesMut};
use tracing::debug;

use super::pieces::Pieces;
use crate::layers::connection::CallContext;
use crate::layers::encoding::{DecodeError, Encoding};
use crate::layers::frame_error::FrameError;
use crate::layers::policy::{Contents, Messages, RefusedMessage};
use crate::layers::prefix::{self, PREFIX_BYTES, Prefix, length_of};
use crate::layers::replaced::Replaced;
use crate::sum::wire::WholeSum;

const EMPTY_MESSAGE: Bytes = Bytes::from_static(&[0; PREFIX_BYTES]);

/// The bytes, compressed and plain, after which other tasks get their turn. A message is decompressed at once, whatever its
/// size: so a worker has one decoder at a time.
const BYTES_A_TURN: usize = 1 << 20;

pub(super) struct Checks {
    pub(super) call: Arc<CallContext>,
    /// The bytes of the request memory that the current message has taken: those that are kept until it is complete.
    pub(super) held: usize,
    prefix: CutPrefix,
    /// The size of the current message.
    length: usize,
    /// Bytes of it to come.
    left: usize,
    current: Current,
    /// Messages that have begun.
    pub(super) messages: u64,
    /// The bytes that were decompressed, and that became of them, since the last long turn.
    decompressed: usize,
}

/// A prefix of which some bytes have come.
#[derive(Default)]
struct CutPrefix {
    bytes: Prefix,
    have: usize,
}

/// A message that may be read.
#[derive(Clone, Copy)]
struct Message {
    length: usize,
    encoding: Option<Encoding>,
}

/// The use of the current message's bytes.
enum Current {
    /// They are passed on.
    Passed,
    /// They are left out.
    Skipped,
    /// They are summed as they come.
    Summed(WholeSum),
    /// They are kept until the message is whole.
    Compressed(Encoding, Pieces),
}

impl Checks {
    pub(super) fn new(call: Arc<CallContext>) -> Self {
        Self {
            call,
            held: 0,
            prefix: CutPrefix::default(),
            length: 0,
            left: 0,
            current: Current::Passed,
            messages: 0,
            decompressed: 0,
        }
    }

    /// Takes checked bytes off the front of `rest`: up to a message that is replaced by an empty one, whose turn comes after
    /// those before it were read. A prefix is passed on once it is complete.
    pub(super) fn pass(&mut self, rest: &mut Bytes) -> Result<Bytes, FrameError> {
        if !matches!(self.current, Current::Passed) {
            return self.take(rest);
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
            let begins_at = at + missing.len();
            let message = self.check(prefix);
            let is_passed = message.as_ref().is_ok_and(|message| {
                let is_whole = rest.len() - begins_at >= message.length;
                message.encoding.is_none()
                    && match self.call.policy.contents {
                        Contents::Held => is_whole || at == 0,
                        Contents::Summed(_) => is_whole && have == 0,
                    }
            });
            if !is_passed {
                // The messages before it come out by themselves.
                if at > 0 {
                    break;
                }
                rest.advance(begins_at);
                return match message {
                    Ok(message) => self.replace(message, rest),
                    Err(error) => self.refuse(prefix, error),
                };
            }
            self.begin(length_of(prefix));
            if have > 0 {
                rest.advance(begins_at);
                return Ok(Bytes::copy_from_slice(&prefix));
            }
            at = begins_at;
        }
        let unfinished = if self.left > 0 {
            self.length - self.left
        } else {
            0
        };
        self.hold(unfinished)?;
        Ok(rest.split_to(at))
    }

    /// Whether the bytes that were passed may go to tonic: no message among them has more to come.
    pub(super) fn may_pass(&self) -> bool {
        self.left == 0 || !matches!(self.current, Current::Passed)
    }

    /// Checks the prefix of a message.
    fn check(&self, prefix: Prefix) -> Result<Message, FrameError> {
        if self.call.policy.requests == Messages::One && self.messages == 1 {
            return Err(FrameError::Count { at_least: 2 });
        }
        let encoding = match prefix[0] {
            prefix::PLAIN => None,
            prefix::COMPRESSED => Some(self.call.encoding.ok_or(FrameError::Compressed)?),
            other => return Err(FrameError::BadPrefix(other)),
        };
        let (bytes, max_bytes) = (length_of(prefix), self.call.max_message_bytes());
        if bytes > max_bytes {
            return Err(FrameError::TooLarge { bytes, max_bytes });
        }
        Ok(Message {
            length: bytes,
            encoding,
        })
    }

    fn begin(&mut self, length: usize) {
        self.prefix = CutPrefix::default();
        self.messages += 1;
        self.length = length;
        self.left = length;
    }

    /// Begins a message whose bytes are not passed on.
    fn replace(&mut self, message: Message, rest: &mut Bytes) -> Result<Bytes, FrameError> {
        self.begin(message.length);
        self.current = match message.encoding {
            None => Current::Summed(WholeSum::default()),
            Some(encoding) => Current::Compressed(encoding, Pieces::default()),
        };
        self.take(rest)
    }

    /// Takes bytes of a message that are not passed on. Returns the message in its place once it is whole.
    fn take(&mut self, rest: &mut Bytes) -> Result<Bytes, FrameError> {
        let part = rest.split_to(self.left.min(rest.len()));
        self.left -= part.len();
        if self.left > 0 {
            // A message that comes at once takes no memory.
            if matches!(self.current, Current::Compressed(..)) {
                self.hold(self.length - self.left)?;
            }
            self.keep(part);
            return Ok(Bytes::new());
        }
        self.hold(0)?;
        self.keep(part);
        match mem::replace(&mut self.current, Current::Passed) {
            Current::Passed | Current::Skipped => Ok(Bytes::new()),
            Current::Summed(sum) => Ok(self.summed(sum)),
            Current::Compressed(encoding, pieces) => self.decompress(encoding, &pieces.join()),
        }
    }

    fn keep(&mut self, part: Bytes) {
        match &mut self.current {
            Current::Passed | Current::Skipped => {}
            Current::Summed(sum) => {
                sum.feed(&part);
            }
            Current::Compressed(_, pieces) => pieces.push(part),
        }
    }

    fn summed(&self, sum: WholeSum) -> Bytes {
        let replaced = &self.call.replaced;
        replaced.set(self.messages, Replaced::Summed(sum.finish()));
        EMPTY_MESSAGE
    }

    /// Decompresses a message, and passes it on as a plain one. The contents of a sum take no memory.
    fn decompress(&mut self, encoding: Encoding, message: &[u8]) -> Result<Bytes, FrameError> {
        self.decompressed += message.len();
        let max_bytes = self.call.max_message_bytes();
        let is_summed = self.call.policy.contents.are_summed();
        let (mut sum, mut plain) = (WholeSum::default(), BytesMut::from(&EMPTY_MESSAGE[..]));
        let done = encoding.decompress(message, max_bytes, |part| {
            self.decompressed += part.len();
            if is_summed && !sum.feed(part) {
                return ControlFlow::Break(());
            }
            if !is_summed {
                plain.extend_from_slice(part);
            }
            ControlFlow::Continue(())
        });
        match done {
            Ok(()) if is_summed => Ok(self.summed(sum)),
            Ok(()) => {
                prefix::write(prefix::PLAIN, &mut plain);
                Ok(plain.freeze())
            }
            Err(DecodeError::TooLarge) => self.leave_out(
                self.messages,
                FrameError::DecompressedTooLarge { max_bytes },
            ),
            Err(DecodeError::Malformed(problem)) => {
                debug!(%problem, "a message cannot be decompressed");
                self.leave_out(self.messages, FrameError::Undecodable(encoding))
            }
        }
    }

    /// Whether so much was decompressed that other tasks have to get their turn.
    pub(super) fn was_long(&mut self) -> bool {
        let was_long = self.decompressed >= BYTES_A_TURN;
        if was_long {
            self.decompressed = 0;
        }
        was_long
    }

    /// Refuses a message for its prefix.
    fn refuse(&mut self, prefix: Prefix, error: FrameError) -> Result<Bytes, FrameError> {
        let empty = self.leave_out(self.messages + 1, error)?;
        self.begin(length_of(prefix));
        if self.left > 0 {
            self.current = Current::Skipped;
        }
        Ok(empty)
    }

    /// Puts an empty message in the place of one that is refused, if the method continues without it.
    fn leave_out(&self, number: u64, error: FrameError) -> Result<Bytes, FrameError> {
        let is_last = matches!(error, FrameError::BadPrefix(_));
        let is_skipped = self.call.policy.contents == Contents::Summed(RefusedMessage::IsSkipped);
        if is_last || !is_skipped {
            return Err(error);
        }
        self.call.replaced.set(number, Replaced::Refused(error));
        Ok(EMPTY_MESSAGE)
    }

    fn hold(&mut self, bytes: usize) -> Result<(), FrameError> {
        let memory = &self.call.connection.request_memory;
        memory.resize(&mut self.held, bytes)
    }

    /// Checks that a request may end here.
    pub(super) fn end(&self) -> Result<(), FrameError> {
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
        // There is always room for less.
        let _ = self.hold(0);
    }
}
