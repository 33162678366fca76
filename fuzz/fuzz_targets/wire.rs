//! Whatever the bytes and wherever they are cut, the sum from the wire is the sum of what prost decodes,
//! and what prost refuses is refused.

#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use sumd::proto::sum::v1::AddAllRequest;
use sumd::sum::wire::{MessageSum, Total};

fuzz_target!(|input: (u16, bool, &[u8])| {
    let (cut, packed, bytes) = input;
    // Half of the inputs are one packed field, which random bytes rarely begin.
    let message = if packed {
        let mut message = vec![0x0a];
        prost::encoding::encode_varint(bytes.len() as u64, &mut message);
        message.extend(bytes);
        message
    } else {
        bytes.to_vec()
    };
    let (head, tail) = message.split_at(usize::from(cut) % (message.len() + 1));

    let decoded = AddAllRequest::decode(&*message).ok().map(|request| Total {
        sum: request.values.iter().map(|&value| i128::from(value)).sum(),
        count: request.values.len() as u64,
    });
    let mut sum = MessageSum::default();
    let fed = sum.feed(head).and_then(|()| sum.feed(tail));
    assert_eq!(fed.and_then(|()| sum.finish()).ok(), decoded);
});
