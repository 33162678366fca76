//! The sum from the wire is the sum of the values that prost decodes; messages that prost refuses are refused.

use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};

use super::*;
use crate::proto::sum::v1::AddAllRequest;

/// The sum of a whole message, decoded by prost.
fn decoded(message: &[u8]) -> Option<Total> {
    let values = AddAllRequest::decode(message).ok()?.values;
    Some(Total {
        sum: values.iter().map(|&value| i128::from(value)).sum(),
        count: values.len() as u64,
    })
}

/// The sum of a message by this module, if it comes cut at `cuts`.
fn summed(message: &[u8], cuts: &[usize]) -> Option<Total> {
    let mut sum = MessageSum::default();
    let mut start = 0;
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (message.len() + 1)).collect();
    cuts.sort_unstable();
    for end in cuts.into_iter().chain([message.len()]) {
        sum.feed(&message[start..end]).ok()?;
        start = end;
    }
    sum.finish().ok()
}

fn length_delimited(field: u32, content: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    encode_key(field, WireType::LengthDelimited, &mut message);
    encode_varint(content.len() as u64, &mut message);
    message.extend(content);
    message
}

fn packed_field(run: &[u8]) -> Vec<u8> {
    length_delimited(VALUES_FIELD, run)
}

fn run_of(values: &[u64]) -> Vec<u8> {
    let mut run = Vec::new();
    for &value in values {
        encode_varint(value, &mut run);
    }
    run
}

/// Values of one to ten bytes on the wire.
fn value() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0..64u32).prop_map(|(bits, shift)| bits >> shift)
}

/// A field: packed or single values, an unknown field of any wire type, a group, or noise.
fn field() -> impl Strategy<Value = Vec<u8>> {
    let keyed = |key: u8, content: Vec<u8>| [vec![key], content].concat();
    let field = prop_oneof![
        vec(value(), 0..200).prop_map(|values| packed_field(&run_of(&values))),
        value().prop_map(move |value| keyed(0x08, run_of(&[value]))),
        value().prop_map(move |value| keyed(0x10, run_of(&[value]))),
        any::<[u8; 8]>().prop_map(move |fixed| keyed(0x11, fixed.into())),
        any::<[u8; 4]>().prop_map(move |fixed| keyed(0x15, fixed.into())),
        vec(any::<u8>(), 0..100).prop_map(|bytes| length_delimited(2, &bytes)),
        vec(any::<u8>(), 1..4),
    ];
    (field, 0..10u8).prop_map(|(field, shape)| match shape {
        0 => [&[0x1b], &field[..], &[0x1c]].concat(),
        1 => [&[0x1b, 0x23], &field[..], &[0x24, 0x1c]].concat(),
        _ => field,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Messages of valid fields in any order, with some noise, have prost's sum wherever they are cut.
    #[test]
    fn messages_of_fields(fields in vec(field(), 0..8), cuts in vec(any::<usize>(), 0..6)) {
        let message = fields.concat();
        prop_assert_eq!(summed(&message, &cuts), decoded(&message));
    }

    /// Random bytes have prost's sum, or are refused as prost does.
    #[test]
    fn noise(message in vec(any::<u8>(), 0..40), cuts in vec(any::<usize>(), 0..4)) {
        prop_assert_eq!(summed(&message, &cuts), decoded(&message));
    }

    /// Packed runs of mostly continuation bytes, with varints too long or cut short, are summed or refused as prost
    /// does.
    #[test]
    fn packed_noise(
        run in vec(prop_oneof![8 => 0x80..=0xffu8, 1 => 0..=0x7fu8, 1 => 0..=1u8], 0..400),
        cuts in vec(any::<usize>(), 0..4),
    ) {
        let message = packed_field(&run);
        prop_assert_eq!(summed(&message, &cuts), decoded(&message));
    }

    /// Long runs have prost's sum. Values of one width are followed by others of another, so that every depth follows
    /// every other, over several strips, damaged or not, at every alignment.
    #[test]
    fn long_runs(
        widths in vec((0..64u32, 1..1_500usize), 1..6),
        seed in any::<u64>(),
        offset in 0..64usize,
        damage in proptest::option::of((any::<usize>(), any::<u8>())),
        cuts in vec(any::<usize>(), 0..3),
    ) {
        let mut bits = seed | 1;
        let mut values = Vec::new();
        for (shift, count) in widths {
            for _ in 0..count {
                bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                values.push((bits ^ (bits >> 29)) >> shift);
            }
        }
        let mut run = run_of(&values);
        if let Some((at, byte)) = damage {
            let at = at % run.len();
            run[at] = byte;
        }
        let message = [vec![0; offset], packed_field(&run)].concat();
        let message = &message[offset..];
        prop_assert_eq!(summed(message, &cuts), decoded(message));
    }

    /// The kernel of this machine and the portable one agree on every run.
    #[test]
    fn kernels_agree(run in vec(any::<u8>(), 0..300)) {
        let end = run.iter().rposition(|&byte| byte < 0x80).map_or(0, |last| last + 1);
        prop_assert_eq!(packed::sum(&run[..end]).ok(), packed::portable(&run[..end]).ok());
    }
}

/// Messages have prost's sum at every length around the sizes of a block and a strip, with every width of values, and
/// every cut. Long messages are cut at every place in a block.
#[test]
fn every_length_and_cut() {
    for width in [1, 2, 3, 4, 5, 9, 10] {
        let value = if width == 10 {
            u64::MAX
        } else {
            (1 << (7 * width - 1)) + 5
        };
        for count in (0..70).chain([205, 409, 410, 820]) {
            let message = packed_field(&run_of(&vec![value; count]));
            let expected = decoded(&message);
            assert!(expected.is_some());
            // 13 has no factor in common with the size of a block or a strip.
            let step = if count < 70 { 1 } else { 13 };
            for cut in (0..message.len()).step_by(step) {
                assert_eq!(
                    summed(&message, &[cut]),
                    expected,
                    "{width} × {count} cut at {cut}"
                );
            }
        }
    }
}

/// A varint may have ten bytes, the tenth at most 1, anywhere in a run.
#[test]
fn the_longest_varints() {
    let fits = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    let zero = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00];
    let too_large = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02];
    let too_long = [
        0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00,
    ];
    for before in 0..200 {
        let message = |varint: &[u8]| packed_field(&[&vec![1; before], varint, &[7; 100]].concat());
        let sum = |varint: &[u8]| summed(&message(varint), &[]).map(|total| total.sum);
        assert_eq!(sum(&fits), Some(before as i128 - 1 + 700));
        assert_eq!(sum(&zero), Some(before as i128 + 700));
        assert_eq!(sum(&too_large), None);
        assert_eq!(sum(&too_long), None);
    }
}

/// Groups nest as deeply as prost allows, and no deeper.
#[test]
fn deep_groups() {
    for depth in [1, 99, 100, 101, 102] {
        let empty = [vec![0x1b; depth], vec![0x1c; depth]].concat();
        assert_eq!(summed(&empty, &[]), decoded(&empty), "{depth} empty groups");
        let full = [vec![0x1b; depth], vec![0x20, 1], vec![0x1c; depth]].concat();
        assert_eq!(summed(&full, &[]), decoded(&full), "{depth} groups");
    }
}

/// An error is reported at the byte that causes it, not at the end of the message.
#[test]
fn errors_name_what_is_wrong() {
    let error = |bytes: &[u8]| MessageSum::default().feed(bytes).unwrap_err();
    assert_eq!(error(&[0x0d, 1]), Malformed::ValuesWireType(5));
    assert_eq!(error(&[0x07]), Malformed::Key(7));
    assert_eq!(error(&[0x00]), Malformed::Key(0));
    assert_eq!(error(&[0x1c]), Malformed::UnexpectedEndGroup);
    assert_eq!(
        error(&[
            0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2
        ]),
        Malformed::VarintTooLong
    );
    assert_eq!(error(&[0x0a, 1, 0x80]), Malformed::Truncated);
    let mut half = MessageSum::default();
    half.feed(&[0x0a, 9, 1]).unwrap();
    assert_eq!(half.finish(), Err(Malformed::Truncated));
}
