//! The codec between tonic and the services: prost's messages, or types that read the wire themselves.

use std::marker::PhantomData;

use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, DecodeBuf, Decoder, EncodeBuf, Encoder};

use crate::status;

/// Buffer sizes of a call: a small answer fits the first; answers that are ready together share a frame up to the
/// second.
fn buffers() -> BufferSettings {
    BufferSettings::new(512, 16 << 10)
}

/// A request message.
pub trait WireDecode: Sized {
    /// Decodes a message. It must read `message` to its end, as tonic expects.
    ///
    /// # Errors
    /// Returns a status, which ends the call, if the message cannot be decoded.
    fn decode(message: &mut DecodeBuf<'_>) -> Result<Self, Status>;
}

impl<M: Message + Default> WireDecode for M {
    fn decode(message: &mut DecodeBuf<'_>) -> Result<Self, Status> {
        M::decode(message).map_err(|error| status::malformed(&error))
    }
}

/// The codec of the generated servers, for answers `A` and requests `R`.
pub struct Codec<A, R>(PhantomData<(A, R)>);

impl<A, R> Default for Codec<A, R> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<A, R> tonic::codec::Codec for Codec<A, R>
where
    A: Message + Send + 'static,
    R: WireDecode + Send + 'static,
{
    type Encode = A;
    type Decode = R;
    type Encoder = ReservingEncoder<A>;
    type Decoder = WireDecoder<R>;

    fn encoder(&mut self) -> Self::Encoder {
        ReservingEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        WireDecoder(PhantomData)
    }
}

/// The decoder of a request type.
pub struct WireDecoder<R>(PhantomData<R>);

impl<R: WireDecode> Decoder for WireDecoder<R> {
    type Item = R;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<R>, Status> {
        R::decode(message).map(Some)
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

/// The encoder of an answer type. It allocates once for each answer: prost's would grow its buffer step by step.
pub struct ReservingEncoder<A>(PhantomData<A>);

impl<A: Message> Encoder for ReservingEncoder<A> {
    type Item = A;
    type Error = Status;

    fn encode(&mut self, answer: A, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(answer.encoded_len());
        let encoded = answer.encode(buffer);
        encoded.map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}
