//! Frames of requests, split at any byte.

use proptest::prelude::*;

use super::super::connection::Connection;
use super::super::policy::{self, Policy};
use super::super::request_memory::RequestMemory;
use super::*;

const ADD: &str = "/sum.v1.SumService/Add";
const ADD_ALL: &str = "/sum.v1.SumService/AddAll";
const ADD_EACH: &str = "/sum.v1.SumService/AddEach";

/// The connection of calls whose messages have up to so many bytes each, and all of them together.
fn connection(max_message_size: u32, request_memory: usize) -> Arc<Connection> {
    Arc::new(Connection {
        request_memory: RequestMemory::new(request_memory),
        max_message_size,
        ..Connection::for_tests()
    })
}

fn checks_of(method: &str, connection: &Arc<Connection>) -> Checks {
    let policy: &'static Policy = policy::find(method).expect("a method");
    Checks::new(CallContext {
        policy,
        deadline: None,
        connection: connection.clone(),
    })
}

fn checks(method: &str, max_bytes: u32) -> Checks {
    checks_of(method, &connection(max_bytes, 1 << 20))
}

fn message(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("a short message");
    [&[0], &length.to_be_bytes()[..], bytes].concat()
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

/// Passes a body in pieces: the bytes that come out, and how it ends. Refused messages are taken as soon as they come out.
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
            let skipped = checks.skipped.as_ref();
            refused.extend(skipped.and_then(|skipped| skipped.take(checks.messages)));
        }
    }
    let end = checks.end();
    (out, refused, end)
}

proptest! {
    /// Messages within the limit come out as they went in. Those over it come out empty, each with its error.
    #[test]
    fn refused_messages_are_left_out(
        sizes in prop::collection::vec(0usize..30, 0..8),
        cuts in prop::collection::vec(any::<usize>(), 0..8),
    ) {
        const MAX: u32 = 15;
        let is_refused = |size: &usize| *size > MAX as usize;
        let body: Vec<u8> = sizes.iter().flat_map(|size| message(&vec![7; *size])).collect();
        let expected = sizes.iter().map(|size| if is_refused(size) { 0 } else { *size });
        let expected: Vec<u8> = expected.flat_map(|size| message(&vec![7; size])).collect();
        let errors = sizes.iter().copied().filter(is_refused).map(|size| FrameError::TooLarge {
            bytes: u32::try_from(size).expect("a short message"),
            max_bytes: MAX as usize,
        });
        let errors: Vec<_> = errors.collect();
        let passed = pass(&mut checks(ADD_EACH, MAX), &body, &cuts);
        prop_assert_eq!(passed, (expected, errors, Ok(())));
    }

    /// Messages before a fault come out, wherever the body is cut: a method answers these before its call ends.
    #[test]
    fn messages_before_a_fault_come_first(
        sizes in prop::collection::vec(0usize..10, 0..5),
        cuts in prop::collection::vec(any::<usize>(), 0..8),
    ) {
        let good: Vec<u8> = sizes.iter().flat_map(|size| message(&vec![7; *size])).collect();
        let body = [&good[..], &[2, 0, 0, 0, 1, 9]].concat();
        let passed = pass(&mut checks(ADD_ALL, 10), &body, &cuts);
        prop_assert_eq!(passed, (good, vec![], Err(FrameError::BadPrefix(2))));
    }

    /// A request that ends inside a message, or inside its prefix, is refused.
    #[test]
    fn a_cut_request_is_refused(size in 1usize..30, cut in any::<usize>()) {
        let body = message(&vec![7; size]);
        let cut = 1 + cut % (body.len() - 1);
        let (_, _, end) = pass(&mut checks(ADD, 100), &body[..cut], &[]);
        prop_assert_eq!(end, Err(FrameError::Truncated));
    }

    /// Unfinished messages take memory for the bytes that have come, and give all of it back.
    #[test]
    fn memory_is_given_back(
        sizes in prop::collection::vec(0usize..30, 0..8),
        cuts in prop::collection::vec(any::<usize>(), 0..8),
    ) {
        let body: Vec<u8> = sizes.iter().flat_map(|size| message(&vec![7; *size])).collect();
        let connection = connection(30, 29);
        let mut checks = checks_of(ADD_ALL, &connection);
        let (_, _, end) = pass(&mut checks, &body, &cuts);
        prop_assert_eq!(end, Ok(()));
        prop_assert_eq!(checks.held, 0);
        let half = &message(&[7; 20])[..15];
        let _ = pass(&mut checks, half, &[]);
        prop_assert_eq!(checks.held, 10);
        let mut other = checks_of(ADD_ALL, &connection);
        let refused = pass(&mut other, &message(&[7; 30])[..25], &[]);
        prop_assert_eq!(refused.2, Err(FrameError::MemoryFull { max_bytes: 29 }));
        drop((checks, other));
        let mut last = checks_of(ADD_ALL, &connection);
        let _ = pass(&mut last, &message(&[7; 30])[..34], &[]);
        prop_assert_eq!(last.held, 29);
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

/// A message that is claimed and does not come takes no memory.
#[test]
fn a_claim_takes_no_memory() {
    let connection = connection(1 << 24, 0);
    let mut checks = checks_of(ADD, &connection);
    let claim = [0, 1, 0, 0, 0];
    let (out, _, end) = pass(&mut checks, &claim, &[3]);
    assert_eq!((&out[..], checks.held), (&claim[..], 0));
    assert_eq!(end, Err(FrameError::Truncated));
    let full = checks.pass(&mut Bytes::from_static(b"a"));
    assert_eq!(full, Err(FrameError::MemoryFull { max_bytes: 0 }));
}

/// The body of a request, in pieces that come when they are asked for.
struct InPieces(VecDeque<Bytes>);

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

proptest! {
    /// However a body is cut, tonic gets each message when it is whole: at no moment does it have a part of one.
    #[test]
    fn messages_are_passed_on_whole(
        sizes in prop::collection::vec(0usize..40_000, 0..6),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let messages: Vec<_> = sizes.iter().map(|size| message(&vec![7; *size])).collect();
        let body = messages.concat();
        let mut frames = RequestFrames {
            body: InPieces(pieces(&body, &cuts).into()),
            checks: checks(ADD_ALL, 40_000),
            rest: Bytes::new(),
            unfinished: Pieces::default(),
        };
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut out = Vec::new();
        while let Poll::Ready(Some(frame)) = Pin::new(&mut frames).poll_frame(&mut context) {
            let data = frame.expect("no error").into_data().expect("data");
            prop_assert!(frames.checks.left == 0, "{} bytes are to come", frames.checks.left);
            out.extend_from_slice(&data);
        }
        prop_assert_eq!(out, body);
    }
}
