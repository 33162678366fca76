//! The bodies of requests, before tonic parses them.

// A panic is how a target reports what it found.
#![allow(clippy::missing_panics_doc)]

use std::collections::VecDeque;
use std::sync::Arc;

use super::super::connection::Connection;
use super::super::encoding::Encoding;
use super::super::frame_error::FrameError;
use super::super::policy;
use super::super::prefix::{PREFIX_BYTES, length_of};
use super::super::replaced::{LastReplaced, Replaced};
use super::super::request_memory::RequestMemory;
use super::{
    Body, Bytes, CallContext, Checks, Context, Frame, Pieces, Pin, Poll, RequestFrames, Status,
};
use crate::sum::wire::{Total, WholeSum};

const METHODS: [&str; 4] = [
    "/sum.v1.SumService/Add",
    "/sum.v1.SumService/AddAll",
    "/sum.v1.SumService/AddEach",
    "/sum.v1.CounterService/RecordIncrements",
];
const ENCODINGS: [Option<Encoding>; 3] = [None, Some(Encoding::Gzip), Some(Encoding::Zstd)];
/// The limit of a sum's messages. Methods of counters have their own.
const MAX_MESSAGE_BYTES: u32 = 64;

/// The body of a request, in pieces that come when they are asked for.
pub struct InPieces(pub VecDeque<Bytes>);

impl Body for InPieces {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Ready(self.0.pop_front().map(|data| Ok(Frame::data(data))))
    }
}

/// A message as its method reads it.
#[derive(Debug, PartialEq, Eq)]
enum Message {
    Held(Vec<u8>),
    /// The sum of a message, whether it came out as bytes or was replaced; `None` if the message is malformed.
    Summed(Option<Total>),
    Refused(FrameError),
}

/// However a body is cut, the same messages come out, each once it is whole, and the same error. No message is larger
/// than the limit, decompressed or not, and all memory is given back. The first byte chooses the method and the encoding,
/// and the next two are the cuts.
pub fn frames(bytes: &[u8]) {
    let Some(([kind, cuts @ ..], body)) = bytes.split_first_chunk::<3>() else {
        return;
    };
    let kind = usize::from(*kind);
    let method = METHODS[kind % METHODS.len()];
    let encoding = ENCODINGS[kind / METHODS.len() % ENCODINGS.len()];
    let [first, second] = cuts.map(|cut| usize::from(cut) % (body.len() + 1));
    let body = Bytes::copy_from_slice(body);
    let (first, second) = (first.min(second), first.max(second));
    let pieces = [
        body.slice(..first),
        body.slice(first..second),
        body.slice(second..),
    ];
    assert_eq!(
        pass(method, encoding, pieces),
        pass(method, encoding, [body])
    );
}

/// The messages that come out, and the text of the error.
fn pass(
    method: &str,
    encoding: Option<Encoding>,
    pieces: impl Into<VecDeque<Bytes>>,
) -> (Vec<Message>, Option<String>) {
    let pieces = pieces.into();
    // However the body is cut, there is room for all of it.
    let memory_bytes = pieces.iter().map(Bytes::len).sum();
    let memory = RequestMemory::new(memory_bytes);
    let connection = Connection {
        request_memory: memory.clone(),
        max_message_size: MAX_MESSAGE_BYTES,
        ..Connection::for_tests()
    };
    let call = CallContext {
        policy: policy::find(method).expect("a method"),
        deadline: None,
        encoding,
        answer_encoding: None,
        replaced: LastReplaced::default(),
        connection: Arc::new(connection),
    };
    let is_summed = call.policy.contents.are_summed();
    let max_bytes = call.max_message_bytes();
    let mut frames = RequestFrames {
        body: InPieces(pieces),
        checks: Checks::new(Arc::new(call)),
        rest: Bytes::new(),
        unfinished: Pieces::default(),
        turns: None,
    };
    let mut context = Context::from_waker(std::task::Waker::noop());
    let (mut messages, mut unread) = (Vec::new(), Vec::new());
    let error = loop {
        let data = match Pin::new(&mut frames).poll_frame(&mut context) {
            Poll::Ready(Some(Ok(frame))) => frame.into_data().expect("data"),
            Poll::Ready(Some(Err(status))) => break Some(status.message().to_owned()),
            Poll::Ready(None) => break None,
            // Other tasks get their turn.
            Poll::Pending => continue,
        };
        assert!(frames.checks.may_pass());
        let number = frames.checks.messages;
        if let Some(replaced) = frames.checks.call.replaced.take(number) {
            assert!(unread.is_empty() && data[..] == [0; PREFIX_BYTES]);
            messages.push(match replaced {
                Replaced::Refused(error) => Message::Refused(error),
                Replaced::Summed(sum) => Message::Summed(sum.ok()),
            });
        } else {
            unread.extend_from_slice(&data);
            read(&mut unread, is_summed, max_bytes, &mut messages);
        }
    };
    assert!(unread.is_empty(), "a part of a message came out");
    drop(frames);
    assert!(memory.resize(&mut 0, memory_bytes).is_ok());
    (messages, error)
}

/// Takes the whole messages off the front of `unread`.
fn read(unread: &mut Vec<u8>, is_summed: bool, max_bytes: usize, messages: &mut Vec<Message>) {
    while let Some(prefix) = unread.first_chunk::<PREFIX_BYTES>() {
        assert_eq!(prefix[0], 0, "a compressed message came out");
        let length = length_of(*prefix);
        assert!(length <= max_bytes);
        let Some(message) = unread.get(PREFIX_BYTES..PREFIX_BYTES + length) else {
            return;
        };
        messages.push(if is_summed {
            let mut sum = WholeSum::default();
            sum.feed(message);
            Message::Summed(sum.finish().ok())
        } else {
            Message::Held(message.to_vec())
        });
        unread.drain(..PREFIX_BYTES + length);
    }
}
