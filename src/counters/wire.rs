//! A message of a session, read straight from the wire: a generated type would allocate memory for each increment.

use std::ops::Range;

use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost::{Message as _, encoding};
use prost_types::Timestamp;

use super::convert::limits;
use crate::model::{Increments, Invalid, check_name};

/// Maximum number of increments in a message.
pub(super) const MAX_INCREMENTS: usize = 1000;

/// A `RecordIncrementsRequest` with validated increments.
#[derive(Debug, Default)]
pub(super) struct RecordMessage {
    pub(super) session_id: String,
    pub(super) session_time: Option<Timestamp>,
    pub(super) sequence: u64,
    pub(super) acknowledged: u64,
    pub(super) increments: Increments,
    /// The position of each increment's field in the message; empty unless it is asked for.
    pub(super) fields: Vec<Range<usize>>,
}

/// An increment is at least some twenty bytes.
const TYPICAL_INCREMENT_BYTES: usize = 20;

impl RecordMessage {
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::decode_some::<false>(bytes)
    }

    /// Decodes a message and the positions of its increments, for a node that may have to forward them.
    pub(super) fn decode_with_fields(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::decode_some::<true>(bytes)
    }

    /// Decodes a message with the increments of several parts, part after part. `sizes` are the numbers of increments
    /// of the parts. Returns the increments separately; `None` if there are more or fewer.
    pub(super) fn decode_parts(
        bytes: &[u8],
        sizes: &[usize],
    ) -> Result<Option<(Self, Vec<Increments>)>, DecodeError> {
        let all = sizes.iter().sum::<usize>();
        let name_bytes = |size| bytes.len() * size / all.max(1);
        let room = |size| Increments::with_capacity(size, name_bytes(size));
        let mut parts: Vec<_> = sizes.iter().map(|&size| room(size)).collect();
        let (mut part, mut count) = (0, 0);
        let message = Self::read(bytes, |increment, _| {
            while sizes
                .get(part)
                .is_some_and(|size| parts[part].len() == *size)
            {
                part += 1;
            }
            count += 1;
            let part = parts.get_mut(part);
            part.map_or(Ok(()), |part| push_increment(increment, part))
        });
        Ok((count == all).then_some((message?, parts)))
    }

    fn decode_some<const FIELDS: bool>(bytes: &[u8]) -> Result<Self, DecodeError> {
        let expected = (bytes.len() / TYPICAL_INCREMENT_BYTES).min(MAX_INCREMENTS);
        let mut increments = Increments::with_capacity(expected, bytes.len());
        let mut fields = Vec::with_capacity(if FIELDS { expected } else { 0 });
        let message = Self::read(bytes, |increment, field| {
            // One too many is enough to refuse the message.
            if increments.len() > MAX_INCREMENTS {
                return Ok(());
            }
            if FIELDS {
                fields.push(field);
            }
            push_increment(increment, &mut increments)
        })?;
        Ok(Self {
            increments,
            fields,
            ..message
        })
    }

    /// Reads all fields but the increments. Each increment is passed to `take`, with its position.
    fn read(
        mut bytes: &[u8],
        mut take: impl FnMut(&[u8], Range<usize>) -> Result<(), DecodeError>,
    ) -> Result<Self, DecodeError> {
        let length = bytes.len();
        let context = DecodeContext::default();
        let mut message = Self::default();
        while !bytes.is_empty() {
            let start = length - bytes.len();
            let (tag, wire_type) = decode_key(&mut bytes)?;
            match tag {
                1 => {
                    let id = &mut message.session_id;
                    encoding::string::merge(wire_type, id, &mut bytes, context.clone())?;
                }
                2 => {
                    let time = delimited(wire_type, &mut bytes)?;
                    message.session_time.get_or_insert_default().merge(time)?;
                }
                3 => message.sequence = varint(wire_type, &mut bytes)?,
                4 => message.acknowledged = varint(wire_type, &mut bytes)?,
                5 => {
                    let increment = delimited(wire_type, &mut bytes)?;
                    take(increment, start..length - bytes.len())?;
                }
                _ => skip_field(wire_type, tag, &mut bytes, context.clone())?,
            }
        }
        Ok(message)
    }
}

/// Reads an `Increment`. An invalid field fails the increment, not the message.
fn push_increment(mut bytes: &[u8], increments: &mut Increments) -> Result<(), DecodeError> {
    let mut name: &[u8] = &[];
    let (mut delta, mut min, mut max, mut on_limit) = (0, None, None, 0);
    while !bytes.is_empty() {
        let (tag, wire_type) = decode_key(&mut bytes)?;
        match tag {
            1 => name = delimited(wire_type, &mut bytes)?,
            2 => delta = zigzag(varint(wire_type, &mut bytes)?),
            3 => min = Some(zigzag(varint(wire_type, &mut bytes)?)),
            4 => max = Some(zigzag(varint(wire_type, &mut bytes)?)),
            // An enum is an int32; a varint may have more bits.
            #[allow(clippy::cast_possible_truncation)]
            5 => on_limit = varint(wire_type, &mut bytes)? as i32,
            _ => skip_field(wire_type, tag, &mut bytes, DecodeContext::default())?,
        }
    }
    let checked = std::str::from_utf8(name)
        .map_err(|_| Invalid::NotUtf8)
        .and_then(|name| check_name(name).map(|()| name).map_err(Invalid::Name))
        .and_then(|name| Ok((name, limits(min, max, on_limit)?)));
    match checked {
        Ok((name, limits)) => increments.push(name, delta, limits),
        Err(invalid) => increments.push_invalid(delta, invalid),
    }
    Ok(())
}

fn varint(wire_type: WireType, bytes: &mut &[u8]) -> Result<u64, DecodeError> {
    encoding::check_wire_type(WireType::Varint, wire_type)?;
    decode_varint(bytes)
}

fn delimited<'a>(wire_type: WireType, bytes: &mut &'a [u8]) -> Result<&'a [u8], DecodeError> {
    encoding::check_wire_type(WireType::LengthDelimited, wire_type)?;
    let length = usize::try_from(decode_varint(bytes)?).unwrap_or(usize::MAX);
    let (field, rest) = bytes.split_at_checked(length).ok_or_else(cut_off)?;
    *bytes = rest;
    Ok(field)
}

/// The error for a length beyond the end. Only prost itself can make such an error.
fn cut_off() -> DecodeError {
    let beyond: &[u8] = &[10, 1];
    Timestamp::decode(beyond).expect_err("a field of one byte has one byte")
}

fn zigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}
