//! The length-prefixed messages of a gRPC body, each summed while its bytes go by.
//!
//! Framing: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>: one byte that says whether
//! the message is compressed, four of its length, big-endian, then the message.

use super::error::SumError;
use super::wire::{MessageSum, Total};

const PREFIX_BYTES: usize = 5;

enum State {
    /// Between messages, or inside a prefix of which so many bytes have come.
    Prefix([u8; PREFIX_BYTES], usize),
    /// Inside a message with so many bytes to come. One that was refused is skipped to its end.
    Message(u32, Result<MessageSum, SumError>),
}

/// Splits a body into messages.
pub(super) struct Messages {
    max_message_bytes: usize,
    state: State,
}

impl Messages {
    pub(super) fn new(max_message_bytes: usize) -> Self {
        Self {
            max_message_bytes,
            state: State::Prefix([0; PREFIX_BYTES], 0),
        }
    }

    /// Takes bytes off the front of `body` up to the end of a message, and gives its sum; `None` where
    /// the message goes on beyond them. A message that has no sum costs only itself.
    ///
    /// # Errors
    /// Where the body has no messages any more: nothing behind that point can be understood.
    pub(super) fn next(
        &mut self,
        body: &mut &[u8],
    ) -> Result<Option<Result<Total, SumError>>, SumError> {
        if let State::Prefix(prefix, have) = &mut self.state {
            let (part, rest) = body.split_at(body.len().min(PREFIX_BYTES - *have));
            *body = rest;
            prefix[*have..*have + part.len()].copy_from_slice(part);
            *have += part.len();
            if *have < PREFIX_BYTES {
                return Ok(None);
            }
            let [flag, length @ ..] = *prefix;
            self.state = self.begin(flag, u32::from_be_bytes(length))?;
        }
        let State::Message(left, sum) = &mut self.state else {
            unreachable!("a prefix that is complete has begun a message");
        };
        let (part, rest) = body.split_at(body.len().min(*left as usize));
        *body = rest;
        *left -= u32::try_from(part.len()).expect("a part is not longer than what is left");
        if let Ok(message) = sum
            && let Err(malformed) = message.feed(part)
        {
            *sum = Err(malformed.into());
        }
        if *left > 0 {
            return Ok(None);
        }
        let ended = std::mem::replace(&mut self.state, State::Prefix([0; PREFIX_BYTES], 0));
        let State::Message(_, sum) = ended else {
            unreachable!("the state was a message above");
        };
        Ok(Some(sum.and_then(|sum| Ok(sum.finish()?))))
    }

    /// Why the message that is being read will have no sum, if that is known before its end.
    pub(super) fn refused(&self) -> Option<&SumError> {
        match &self.state {
            State::Message(_, Err(error)) => Some(error),
            _ => None,
        }
    }

    /// What is wrong with a body that ends here, if it is not between two messages.
    pub(super) fn check_end(&self) -> Result<(), SumError> {
        match self.state {
            State::Prefix(_, 0) => Ok(()),
            _ => Err(SumError::TruncatedBody),
        }
    }

    fn begin(&self, flag: u8, length: u32) -> Result<State, SumError> {
        let sum = match flag {
            0 if length as usize > self.max_message_bytes => Err(SumError::MessageTooLarge {
                bytes: length,
                max_bytes: self.max_message_bytes,
            }),
            0 => Ok(MessageSum::default()),
            1 => Err(SumError::Compressed),
            other => return Err(SumError::BadPrefix(other)),
        };
        Ok(State::Message(length, sum))
    }
}
