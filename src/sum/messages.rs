//! The messages of a gRPC body, each summed while its bytes go by.

use super::error::SumError;
use super::wire::{MessageSum, Total};
use crate::grpc::{FrameError, Prefix};

enum State {
    /// Between messages, or inside a prefix.
    Prefix(Prefix),
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
            state: State::Prefix(Prefix::default()),
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
        if let State::Prefix(prefix) = &mut self.state {
            let Some((flag, length)) = prefix.feed(body) else {
                return Ok(None);
            };
            self.state = self.begin(flag, length)?;
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
        let ended = std::mem::replace(&mut self.state, State::Prefix(Prefix::default()));
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
        match &self.state {
            State::Prefix(prefix) if prefix.is_empty() => Ok(()),
            _ => Err(FrameError::Truncated.into()),
        }
    }

    fn begin(&self, flag: u8, length: u32) -> Result<State, SumError> {
        let sum = match flag {
            0 if length as usize > self.max_message_bytes => Err(FrameError::TooLarge {
                bytes: length,
                max_bytes: self.max_message_bytes,
            }
            .into()),
            0 => Ok(MessageSum::default()),
            1 => Err(FrameError::Compressed.into()),
            other => return Err(FrameError::BadPrefix(other).into()),
        };
        Ok(State::Message(length, sum))
    }
}
