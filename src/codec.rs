//! The codec between tonic and the services: prost's messages, or types that read the wire themselves.

use std::marker::PhantomData;

use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, DecodeBuf, Decoder};
use tonic_prost::ProstEncoder;

use crate::status::Reason;

/// Buffer sizes of a call: a small answer fits the first; answers that are ready together share a frame up to the
/// second.
const BUFFERS: fn() -> BufferSettings = || BufferSettings::new(512, 16 << 10);

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
        M::decode(message).map_err(malformed)
    }
}

/// The status of a malformed message.
#[allow(clippy::needless_pass_by_value)]
pub fn malformed(problem: impl ToString) -> Status {
    let message = format!("the message is malformed: {}", problem.to_string());
    Reason::MalformedMessage.error(message).into()
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
    type Encoder = ProstEncoder<A>;
    type Decoder = WireDecoder<R>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BUFFERS())
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
        BUFFERS()
    }
}
