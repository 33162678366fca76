//! The properties of the decoders that outside bytes reach, for any bytes: a function for each target of `fuzz/`. Tests
//! replay the corpus. The module exists only in tests and under fuzzing, so that decoders stay private.

// A panic is how a target reports what it found.
#![allow(clippy::missing_panics_doc)]

#[cfg(test)]
mod tests;

use prost::Message as _;

pub use crate::api::fuzzing::{answer, page_token, request};
pub use crate::cluster::fuzzing::node;
pub use crate::counters::fuzzing::{bulk, parts};
pub use crate::layers::fuzzing::frames;
pub use crate::model::fuzzing::{batch, session};
use crate::proto::sum::v1::AddAllRequest;
pub use crate::store::fuzzing::row;
use crate::sum::wire::{MessageSum, Total};

/// A message of a sum: its sum from the wire is that of the values that prost decodes, wherever the message is cut, and
/// a message that prost refuses is refused.
pub fn sum(bytes: &[u8]) {
    let Some(([packed, cut @ ..], values)) = bytes.split_first_chunk::<3>() else {
        return;
    };
    // Half of the inputs are one packed field, with which random bytes rarely begin.
    let mut message = Vec::new();
    if packed % 2 == 1 {
        message.push(0x0a);
        prost::encoding::encode_varint(values.len() as u64, &mut message);
    }
    message.extend_from_slice(values);
    let cut = usize::from(u16::from_le_bytes(*cut)) % (message.len() + 1);
    let (head, tail) = message.split_at(cut);

    let decoded = AddAllRequest::decode(&*message).ok().map(|request| Total {
        sum: request.values.iter().map(|&value| i128::from(value)).sum(),
        count: request.values.len() as u64,
    });
    let mut sum = MessageSum::default();
    let fed = sum.feed(head).and_then(|()| sum.feed(tail));
    assert_eq!(fed.and_then(|()| sum.finish()).ok(), decoded);
}
