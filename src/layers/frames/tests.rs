//! Frames of requests, split at any byte.

use std::sync::Arc;

use proptest::prelude::*;

use super::super::connection::Connection;
use super::super::encoding::Encoding;
use super::super::frame_error::FrameError;
use super::super::policy;
use super::super::prefix::{self, PREFIX_BYTES, plain as message};
use super::super::replaced::{LastReplaced, Replaced};
use super::super::request_memory::RequestMemory;
use super::fuzzing::InPieces;
use super::*;
use crate::sum::wire::Malformed;

const ADD: &str = "/sum.v1.SumService/Add";
const ADD_ALL: &str = "/sum.v1.SumService/AddAll";
const ADD_EACH: &str = "/sum.v1.SumService/AddEach";
const GET: &str = "/sum.v1.CounterService/GetCounter";
/// A method of many messages, which are held until they are whole.
const RECORD: &str = "/sum.v1.CounterService/RecordIncrements";
/// A method with a limit of its own.
const INFO: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const INFO_BYTES: usize = 64 << 10;

/// The connection of calls whose messages have up to so many bytes each, and all of them together.
fn connection(max_message_size: u32, request_memory: usize) -> Arc<Connection> {
    Arc::new(Connection {
        request_memory: RequestMemory::new(request_memory),
        max_message_size,
        ..Connection::for_tests()
    })
}

fn checks_of(method: &str, encoding: Option<Encoding>, connection: &Arc<Connection>) -> Checks {
    let policy = policy::find(method).expect("a method");
    Checks::new(Arc::new(CallContext {
        policy,
        deadline: None,
        encoding,
        answer_encoding: None,
        replaced: LastReplaced::default(),
        connection: connection.clone(),
    }))
}

fn checks(method: &str, max_bytes: u32) -> Checks {
    checks_of(method, None, &connection(max_bytes, 1 << 20))
}

/// Checks of a request that is compressed.
fn unpacking(method: &str, encoding: Encoding, max_bytes: u32) -> Checks {
    checks_of(method, Some(encoding), &connection(max_bytes, 1 << 20))
}

/// A message that the request's encoding has compressed.
fn compressed(encoding: Encoding, bytes: &[u8]) -> Vec<u8> {
    let mut message = vec![0; PREFIX_BYTES];
    encoding.compress(bytes, &mut message);
    prefix::write(prefix::COMPRESSED, &mut message);
    message
}

/// A message of so many values.
fn sevens(count: usize) -> Vec<u8> {
    [0x08, 7].repeat(count)
}

/// The pieces of a body that is cut at some bytes.
fn pieces(body: &[u8], cuts: &[usize]) -> Vec<Bytes> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (body.len() + 1)).collect();
    cuts.sort_unstable();
    let ends = cuts.iter().copied().chain([body.len()]);
    let starts = [0].into_iter().chain(cuts.iter().copied());
    let pieces = starts.zip(ends).map(|(start, end)| &body[start..end]);
    pieces.map(Bytes::copy_from_slice).collect()
}

/// Passes a body in pieces: the bytes that come out, and how it ends. Replaced messages are taken as soon as they come out,
/// and a sum is put back in its place.
fn pass(
    checks: &mut Checks,
    body: &[u8],
    cuts: &[usize],
) -> (Vec<u8>, Vec<FrameError>, Result<(), FrameError>) {
    let (mut out, mut refused) = (Vec::new(), Vec::new());
    for mut piece in pieces(body, cuts) {
        while !piece.is_empty() {
            match checks.pass(&mut piece) {
                Ok(bytes) => out.extend_from_slice(&bytes),
                Err(error) => return (out, refused, Err(error)),
            }
            match checks.call.replaced.take(checks.messages) {
                Some(Replaced::Refused(error)) => refused.push(error),
                Some(Replaced::Summed(sum)) => {
                    let total = sum.expect("a valid message");
                    assert_eq!(total.sum, 7 * i128::from(total.count));
                    assert!(out.ends_with(&[0; PREFIX_BYTES]));
                    out.truncate(out.len() - PREFIX_BYTES);
                    let count = usize::try_from(total.count).expect("a short message");
                    out.extend(message(&sevens(count)));
                }
                None => {}
            }
        }
    }
    let end = checks.end();
    (out, refused, end)
}

proptest! {
    /// Messages within the limit come out as they went in, or are summed. Those over it come out empty, each with its error.
    #[test]
    fn refused_messages_are_left_out(
        counts in prop::collection::vec(0usize..15, 0..8),
        cuts in prop::collection::vec(any::<usize>(), 0..8),
    ) {
        const MAX: u32 = 7;
        let is_refused = |count: &usize| *count > MAX as usize;
        let body: Vec<u8> = counts.iter().flat_map(|count| message(&sevens(*count))).collect();
        let expected = counts.iter().map(|count| if is_refused(count) { 0 } else { *count });
        let expected: Vec<u8> = expected.flat_map(|count| message(&sevens(count))).collect();
        let errors = counts.iter().copied().filter(is_refused).map(|count| FrameError::TooLarge {
            bytes: 2 * count,
            max_bytes: 2 * MAX as usize,
        });
        let errors: Vec<_> = errors.collect();
        let passed = pass(&mut checks(ADD_EACH, 2 * MAX), &body, &cuts);
        prop_assert_eq!(passed, (expected, errors, Ok(())));
    }

    /// Messages before a fault come out, wherever the body is cut: a method answers these before its call ends.
    #[test]
    fn messages_before_a_fault_come_first(
        counts in prop::collection::vec(0usize..5, 0..5),
        cuts in prop::collection::vec(any::<usize>(), 0..8),
    ) {
        let good: Vec<u8> = counts.iter().flat_map(|count| message(&sevens(*count))).collect();
        let body = [&good[..], &[2, 0, 0, 0, 1, 9]].concat();
        for method in [ADD_ALL, ADD_EACH, RECORD] {
            let passed = pass(&mut checks(method, 10), &body, &cuts);
            prop_assert_eq!(passed, (good.clone(), vec![], Err(FrameError::BadPrefix(2))));
        }
    }

    /// A request that ends inside a message, or inside its prefix, is refused.
    #[test]
    fn a_cut_request_is_refused(count in 1usize..15, cut in any::<usize>()) {
        let body = message(&sevens(count));
        let cut = 1 + cut % (body.len() - 1);
        for method in [ADD, GET] {
            let (_, _, end) = pass(&mut checks(method, 100), &body[..cut], &[]);
            prop_assert_eq!(end, Err(FrameError::Truncated));
        }
    }

    /// Unfinished messages that are held take memory for the bytes that have come, and give all of it back.
    #[test]
    fn memory_is_given_back(
        sizes in prop::collection::vec(0usize..30, 0..8),
        cuts in prop::collection::vec(any::<usize>(), 0..8),
    ) {
        let body: Vec<u8> = sizes.iter().flat_map(|size| message(&vec![7; *size])).collect();
        let connection = connection(30, 29);
        let mut checks = checks_of(RECORD, None, &connection);
        let (_, _, end) = pass(&mut checks, &body, &cuts);
        prop_assert_eq!(end, Ok(()));
        prop_assert_eq!(checks.held, 0);
        let half = &message(&[7; 20])[..15];
        let _ = pass(&mut checks, half, &[]);
        prop_assert_eq!(checks.held, 10);
        let mut other = checks_of(RECORD, None, &connection);
        let refused = pass(&mut other, &message(&[7; 30])[..25], &[]);
        prop_assert_eq!(refused.2, Err(FrameError::MemoryFull { max_bytes: 29 }));
        drop((checks, other));
        let mut last = checks_of(RECORD, None, &connection);
        let _ = pass(&mut last, &message(&[7; 30])[..34], &[]);
        prop_assert_eq!(last.held, 29);
    }

    /// A sum takes no memory, wherever it is cut. A malformed one fails when it is whole, and not the messages around it.
    #[test]
    fn sums_take_no_memory(
        counts in prop::collection::vec(0usize..100, 0..8),
        cuts in prop::collection::vec(any::<usize>(), 0..8),
        cut in 1usize..8,
    ) {
        let body: Vec<u8> = counts.iter().flat_map(|count| message(&sevens(*count))).collect();
        let mut checks = checks_of(ADD_EACH, None, &connection(200, 0));
        let passed = pass(&mut checks, &body, &cuts);
        prop_assert_eq!(passed, (body, vec![], Ok(())));

        let malformed = message(&[0x08, 7, 0x0a]);
        let (mut first, mut second) = (malformed[..cut].to_vec().into(), malformed[cut..].to_vec().into());
        prop_assert_eq!(checks.pass(&mut first), Ok(Bytes::new()));
        prop_assert_eq!(checks.pass(&mut second), Ok(Bytes::from_static(&[0; PREFIX_BYTES])));
        let error = Replaced::Summed(Err(Malformed::Truncated));
        prop_assert_eq!(checks.call.replaced.take(checks.messages), Some(error));
        let passed = pass(&mut checks, &message(&sevens(3)), &[]);
        prop_assert_eq!(passed, (message(&sevens(3)), vec![], Ok(())));
    }

    /// Compressed messages come out as plain ones, wherever the body is cut, among plain ones in any order.
    #[test]
    fn compressed_messages_come_out_plain(
        messages in prop::collection::vec((0usize..50, any::<bool>()), 0..8),
        cuts in prop::collection::vec(any::<usize>(), 0..8),
        is_gzip in any::<bool>(),
    ) {
        let encoding = if is_gzip { Encoding::Gzip } else { Encoding::Zstd };
        let plain: Vec<u8> = messages.iter().flat_map(|(count, _)| message(&sevens(*count))).collect();
        let body = messages.iter().flat_map(|(count, is_plain)| if *is_plain {
            message(&sevens(*count))
        } else {
            compressed(encoding, &sevens(*count))
        });
        let body: Vec<u8> = body.collect();
        for method in [RECORD, ADD_ALL, ADD_EACH] {
            let mut checks = unpacking(method, encoding, 100);
            let passed = pass(&mut checks, &body, &cuts);
            prop_assert_eq!(passed, (plain.clone(), vec![], Ok(())));
            prop_assert_eq!(checks.held, 0);
        }
    }
}

/// A unary call has exactly one message, of the right kind and size.
#[test]
fn a_unary_call_has_one_message() {
    let refused = |body: &[u8]| pass(&mut checks(ADD, 10), body, &[]).2.unwrap_err();
    assert_eq!(refused(&[]), FrameError::Count { at_least: 0 });
    let two = [message(b"a"), message(b"b")].concat();
    assert_eq!(refused(&two), FrameError::Count { at_least: 2 });
    assert_eq!(refused(&[1, 0, 0, 0, 0]), FrameError::Compressed);
    assert_eq!(refused(&[2, 0, 0, 0, 0]), FrameError::BadPrefix(2));
    let large = FrameError::TooLarge {
        bytes: 11,
        max_bytes: 10,
    };
    assert_eq!(refused(&message(&[7; 11])), large);
    let whole = message(&[7; 10]);
    let passed = pass(&mut checks(ADD, 10), &whole, &[]);
    assert_eq!(passed, (whole, vec![], Ok(())));
}

/// The limit of a message holds for its decompressed size. An `AddEach` goes on after a message that is over it, or that
/// cannot be decompressed; other calls end.
#[test]
fn compressed_messages_are_checked() {
    for encoding in [Encoding::Gzip, Encoding::Zstd] {
        let max_bytes = INFO_BYTES;
        let expands = compressed(encoding, &sevens(max_bytes / 2 + 1));
        assert!(expands.len() < 1000, "a bomb");
        let mut broken = compressed(encoding, &sevens(30));
        broken.pop();
        prefix::write(prefix::COMPRESSED, &mut broken);
        for (bad, error) in [
            (expands, FrameError::DecompressedTooLarge { max_bytes }),
            (broken, FrameError::Undecodable(encoding)),
        ] {
            let body = [&bad[..], &message(&sevens(3))].concat();
            let limit = u32::try_from(max_bytes).expect("a limit");
            let checks = |method| unpacking(method, encoding, limit);
            for method in [ADD_ALL, INFO] {
                let passed = pass(&mut checks(method), &body, &[]);
                assert_eq!(passed, (vec![], vec![], Err(error.clone())), "{method}");
            }
            let left = [message(&[]), message(&sevens(3))].concat();
            let passed = pass(&mut checks(ADD_EACH), &body, &[]);
            assert_eq!(passed, (left, vec![error], Ok(())));
        }
    }
}

/// A message that is claimed and does not come takes no memory.
#[test]
fn a_claim_takes_no_memory() {
    let connection = connection(1 << 24, 0);
    let claim = [0, 0, 1, 0, 0];
    let mut held = checks_of(GET, None, &connection);
    let (out, _, end) = pass(&mut held, &claim, &[3]);
    assert_eq!((&out[..], held.held), (&claim[..], 0));
    assert_eq!(end, Err(FrameError::Truncated));
    let full = held.pass(&mut Bytes::from_static(b"a"));
    assert_eq!(full, Err(FrameError::MemoryFull { max_bytes: 0 }));
    // Nor does one that has to be decompressed.
    let mut held = checks_of(ADD, Some(Encoding::Zstd), &connection);
    let (out, _, end) = pass(&mut held, &[1, 0, 1, 0, 0], &[3]);
    assert_eq!((out, held.held), (vec![], 0));
    assert_eq!(end, Err(FrameError::Truncated));
    let full = held.pass(&mut Bytes::from_static(b"a"));
    assert_eq!(full, Err(FrameError::MemoryFull { max_bytes: 0 }));
}

/// The frames of a body that is polled as tonic does, each with the message that it replaces.
fn frames(
    method: &str,
    encoding: Option<Encoding>,
    body: &[u8],
    cuts: &[usize],
) -> Vec<(Bytes, Option<Replaced>)> {
    let mut frames = RequestFrames {
        body: InPieces(pieces(body, cuts).into()),
        checks: checks_of(method, encoding, &connection(40_000, 1 << 20)),
        rest: Bytes::new(),
        unfinished: Pieces::default(),
        turns: encoding.map(|_| Turns::default()),
    };
    let mut context = Context::from_waker(std::task::Waker::noop());
    let mut out = Vec::new();
    loop {
        match Pin::new(&mut frames).poll_frame(&mut context) {
            Poll::Ready(Some(frame)) => {
                let data = frame.expect("no error").into_data().expect("data");
                assert!(frames.checks.may_pass(), "a message has more to come");
                let number = frames.checks.messages;
                out.push((data, frames.checks.call.replaced.take(number)));
            }
            Poll::Ready(None) => return out,
            // Other tasks get their turn.
            Poll::Pending => {}
        }
    }
}

proptest! {
    /// However a body is cut, tonic gets the first piece of a message once its last has come.
    #[test]
    fn messages_are_passed_on_whole(
        sizes in prop::collection::vec(0usize..40_000, 0..6),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let messages: Vec<_> = sizes.iter().map(|size| message(&vec![7; *size])).collect();
        let body = messages.concat();
        let frames = frames(RECORD, None, &body, &cuts);
        prop_assert!(frames.iter().all(|(_, replaced)| replaced.is_none()));
        let out: Vec<u8> = frames.into_iter().flat_map(|(data, _)| data).collect();
        prop_assert_eq!(out, body);
    }

    /// A message that is replaced comes by itself, as an empty one, so that its content is there when that is read.
    #[test]
    fn replaced_messages_come_by_themselves(
        messages in prop::collection::vec((0usize..25_000, any::<bool>()), 0..6),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let (mut body, mut expected) = (Vec::new(), Vec::new());
        for (count, is_plain) in messages {
            let plain = message(&sevens(count));
            expected.push(if count > 20_000 { None } else { Some(count as u64) });
            body.extend(if is_plain { plain } else { compressed(Encoding::Zstd, &sevens(count)) });
        }
        let mut read = Vec::new();
        for (data, replaced) in frames(ADD_EACH, Some(Encoding::Zstd), &body, &cuts) {
            let mut left = &data[..];
            match replaced {
                Some(replaced) => {
                    prop_assert_eq!(left, &[0; PREFIX_BYTES]);
                    read.push(match replaced {
                        Replaced::Summed(sum) => Some(sum.expect("a valid message").count),
                        Replaced::Refused(_) => None,
                    });
                }
                None => while let Some(prefix) = left.first_chunk() {
                    let length = prefix::length_of(*prefix);
                    read.push(Some(length as u64 / 2));
                    left = &left[PREFIX_BYTES + length..];
                }
            }
        }
        prop_assert_eq!(read, expected);
    }
}

/// Few bytes that become many give the worker's other tasks their turn, although these wait for sockets.
#[tokio::test]
async fn decompression_takes_turns() {
    let bomb = compressed(Encoding::Zstd, &sevens(15_000));
    let mut frames = RequestFrames {
        body: InPieces([bomb.repeat(1000).into()].into()),
        checks: unpacking(ADD_ALL, Encoding::Zstd, 40_000),
        rest: Bytes::new(),
        unfinished: Pieces::default(),
        turns: Some(Turns::default()),
    };
    let turns = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counted = turns.clone();
    let other = tokio::spawn(async move {
        loop {
            tokio::task::yield_now().await;
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    });
    let mut messages = 0;
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut frames).poll_frame(cx)).await {
        frame.expect("no error");
        messages += 1;
    }
    other.abort();
    assert_eq!(messages, 1000);
    let turns = turns.load(std::sync::atomic::Ordering::Relaxed);
    assert!(turns >= 20, "{turns} turns for 30 MB");
}

/// A compressed message that comes at once takes no memory.
#[test]
fn compressed_messages_at_once_take_no_memory() {
    let connection = connection(100, 0);
    for method in [ADD, GET] {
        let mut checks = checks_of(method, Some(Encoding::Gzip), &connection);
        let body = compressed(Encoding::Gzip, &sevens(30));
        let passed = pass(&mut checks, &body, &[]);
        assert_eq!(passed, (message(&sevens(30)), vec![], Ok(())));
    }
}
