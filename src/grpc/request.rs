//! Out of a request's body.

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt as _;
use prost::Message;
use tonic::Status;

use super::error::FrameError;

const PREFIX_BYTES: usize = 5;

/// What stands before a message, as it comes in.
#[derive(Debug, Default)]
pub struct Prefix {
    bytes: [u8; PREFIX_BYTES],
    have: usize,
}

impl Prefix {
    /// Takes bytes off the front of `body`, and gives the flag and length once they are complete.
    pub fn feed(&mut self, body: &mut &[u8]) -> Option<(u8, u32)> {
        let (part, rest) = body.split_at(body.len().min(PREFIX_BYTES - self.have));
        *body = rest;
        self.bytes[self.have..self.have + part.len()].copy_from_slice(part);
        self.have += part.len();
        let [flag, length @ ..] = self.bytes;
        (self.have == PREFIX_BYTES).then(|| (flag, u32::from_be_bytes(length)))
    }

    /// Nothing has come yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.have == 0
    }
}

/// The messages of a request, whole.
pub struct Messages<B> {
    body: B,
    max_message_bytes: usize,
    /// Received and not yet read.
    bytes: BytesMut,
}

impl<B> Messages<B>
where
    B: Body<Data = Bytes, Error = Status> + Unpin,
{
    /// Reads messages up to a size.
    pub fn new(body: B, max_message_bytes: usize) -> Self {
        Self {
            body,
            max_message_bytes,
            bytes: BytesMut::new(),
        }
    }

    /// The only message of a request that has one.
    ///
    /// # Errors
    /// Where there is none, or more than one, or it is not what it should be.
    pub async fn only<M: Message + Default>(&mut self) -> Result<M, Status> {
        let only = self
            .next()
            .await?
            .ok_or(FrameError::Count { at_least: 0 })?;
        match self.next::<M>().await? {
            Some(_) => Err(FrameError::Count { at_least: 2 }.into()),
            None => Ok(only),
        }
    }

    /// The next message; `None` at the request's end. Dropping the future loses nothing.
    ///
    /// # Errors
    /// Where a message is not what it should be, or the request ends otherwise than by its end.
    pub async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        let Some(message) = self.next_encoded().await? else {
            return Ok(None);
        };
        let message = M::decode(message);
        message
            .map(Some)
            .map_err(|error| FrameError::Malformed(error.to_string()).into())
    }

    /// The bytes of the next message; `None` at the request's end. Dropping the future loses nothing.
    ///
    /// # Errors
    /// Where there is no message, or the request ends otherwise than by its end.
    pub async fn next_encoded(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = self.take_received()? {
                return Ok(Some(message));
            }
            match next_bytes(&mut self.body).await? {
                Some(bytes) if self.bytes.is_empty() => {
                    // Nearly always it is the only one that has a hold of them.
                    self.bytes = bytes
                        .try_into_mut()
                        .unwrap_or_else(|shared| shared[..].into());
                }
                Some(bytes) => self.bytes.extend_from_slice(&bytes),
                None if self.bytes.is_empty() => return Ok(None),
                None => return Err(FrameError::Truncated.into()),
            }
        }
    }

    /// The next message, if all of it was received.
    fn take_received(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some((flag, length)) = Prefix::default().feed(&mut &self.bytes[..]) else {
            return Ok(None);
        };
        let length_bytes = length as usize;
        match flag {
            0 if length_bytes > self.max_message_bytes => Err(FrameError::TooLarge {
                bytes: length,
                max_bytes: self.max_message_bytes,
            }),
            0 if self.bytes.len() - PREFIX_BYTES < length_bytes => Ok(None),
            0 => {
                let mut message = self.bytes.split_to(PREFIX_BYTES + length_bytes);
                let _prefix = message.split_to(PREFIX_BYTES);
                Ok(Some(message.freeze()))
            }
            1 => Err(FrameError::Compressed),
            other => Err(FrameError::BadPrefix(other)),
        }
    }
}

/// The next bytes of a request; `None` at its end.
///
/// # Errors
/// As the body has them.
pub async fn next_bytes<B>(body: &mut B) -> Result<Option<Bytes>, Status>
where
    B: Body<Data = Bytes, Error = Status> + Unpin,
{
    while let Some(frame) = body.frame().await {
        // Trailers of a request say nothing in gRPC.
        if let Ok(bytes) = frame?.into_data() {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}
