//! Request messages that are read straight from the wire: prost would allocate memory for their contents.

use bytes::{Buf as _, Bytes};
use tonic::Status;
use tonic::codec::DecodeBuf;

use crate::codec::WireDecode;
use crate::status;
use crate::sum::wire::{Malformed, MessageSum, Total};

/// The sum of a message's values: an `AddRequest` or an `AddAllRequest`.
#[derive(Clone, Copy, Debug)]
pub struct Sum(pub Total);

impl WireDecode for Sum {
    fn decode(message: &mut DecodeBuf<'_>) -> Result<Self, Status> {
        add(message)
            .map(Self)
            .map_err(|problem| status::malformed(&problem))
    }
}

/// The sum of an `AddEachRequest`. A malformed message fails alone, and does not end its call.
#[derive(Clone, Copy, Debug)]
pub struct EachSum(pub Result<Total, Malformed>);

impl WireDecode for EachSum {
    fn decode(message: &mut DecodeBuf<'_>) -> Result<Self, Status> {
        Ok(Self(add(message)))
    }
}

fn add(message: &mut DecodeBuf<'_>) -> Result<Total, Malformed> {
    let mut sum = MessageSum::default();
    let mut result = Ok(());
    while message.has_remaining() {
        let bytes = message.chunk();
        if result.is_ok() {
            result = sum.feed(bytes);
        }
        let length = bytes.len();
        message.advance(length);
    }
    result.and_then(|()| sum.finish())
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
