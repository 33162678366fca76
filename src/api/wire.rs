//! Request messages that are read straight from the wire: prost would allocate memory for their contents.

use bytes::{Buf as _, Bytes};
use tonic::Status;
use tonic::codec::DecodeBuf;

use crate::codec::WireDecode;
use crate::sum::wire::{Malformed, Total, WholeSum};

/// The sum of the values of an `AddRequest`, `AddAllRequest` or `AddEachRequest`. A malformed message is an error here, and
/// not one of the decoder, which would end an `AddEach`.
#[derive(Clone, Copy, Debug)]
pub struct Sum(pub Result<Total, Malformed>);

impl WireDecode for Sum {
    fn decode(message: &mut DecodeBuf<'_>) -> Result<Self, Status> {
        let mut sum = WholeSum::default();
        while message.has_remaining() {
            let bytes = message.chunk();
            sum.feed(bytes);
            let length = bytes.len();
            message.advance(length);
        }
        Ok(Self(sum.finish()))
    }
}

/// A `RecordIncrementsRequest` as received: its increments may be forwarded to other nodes unchanged.
#[derive(Clone, Debug)]
pub struct Encoded(pub Bytes);

impl WireDecode for Encoded {
    fn decode(message: &mut DecodeBuf<'_>) -> Result<Self, Status> {
        let length = message.remaining();
        Ok(Self(message.copy_to_bytes(length)))
    }
}
