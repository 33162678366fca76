use futures_util::FutureExt as _;
use futures_util::future::poll_fn;

use tonic::Code;

use super::*;

/// The next message or the end, if one is due.
fn next(outgoing: &ResponseQueue) -> Poll<Option<Result<proto::ForwardResponse, Status>>> {
    outgoing.poll_message(&mut Context::from_waker(Waker::noop()))
}

fn message(outgoing: &ResponseQueue) -> proto::ForwardResponse {
    let Poll::Ready(Some(message)) = next(outgoing) else {
        panic!("no message is due");
    };
    message.expect("a message")
}

/// A stream that has sent its version.
fn hello_sent() -> Arc<ResponseQueue> {
    let outgoing = ResponseQueue::new();
    assert_eq!(message(&outgoing).protocol, PROTOCOL);
    assert!(next(&outgoing).is_pending());
    outgoing
}

#[test]
fn answers_gather_up_to_a_bound() {
    let outgoing = hello_sent();
    let payload = Bytes::from(vec![0; MESSAGE_BYTES / 4]);
    for id in 0..10 {
        outgoing.reply(id, 1).send(Ok(payload.clone()));
    }
    let ids = |message: proto::ForwardResponse| -> Vec<_> {
        message
            .answers
            .into_iter()
            .map(|answer| answer.id)
            .collect()
    };
    assert_eq!(ids(message(&outgoing)), [0, 1, 2, 3]);
    assert_eq!(ids(message(&outgoing)), [4, 5, 6, 7]);
    assert_eq!(ids(message(&outgoing)), [8, 9]);
    assert!(next(&outgoing).is_pending());
}

/// Reading resumes once enough answers have been sent, and not before.
#[test]
fn what_is_held_is_bounded() {
    let has_room = |outgoing: &ResponseQueue| {
        let room = poll_fn(|cx| outgoing.poll_room(cx));
        room.now_or_never().is_some()
    };
    let outgoing = hello_sent();
    let calls = u64::try_from(MAX_HELD).expect("it is small");
    let replies: Vec<_> = (0..calls).map(|id| outgoing.reply(id, 0)).collect();
    assert!(!has_room(&outgoing));
    for reply in replies {
        reply.send(Ok(Bytes::new()));
    }
    assert!(!has_room(&outgoing), "they wait to be taken");
    message(&outgoing);
    assert!(has_room(&outgoing));
    while next(&outgoing).is_ready() {}

    let large = outgoing.reply(0, MAX_HELD_BYTES);
    assert!(!has_room(&outgoing));
    large.send(Ok(Bytes::from_static(b"small")));
    assert!(has_room(&outgoing));
}

/// The stream ends only after all due answers; a dropped reply is answered as unknown.
#[test]
fn the_end_comes_after_all_answers() {
    let outgoing = hello_sent();
    let first = outgoing.reply(1, 1);
    let second = outgoing.reply(2, 1);
    outgoing.end(Ok(()));
    assert!(next(&outgoing).is_pending(), "two are due");
    drop(first);
    let lost = message(&outgoing).answers;
    let Some(proto::answer::Result::Error(error)) = &lost[0].result else {
        panic!("{lost:?} is no error");
    };
    // The outcome is unknown. On this status, an earlier version carries out the call itself, under the same id.
    let status = status::from_encoded(error.clone());
    assert_eq!(status.code(), Code::Unavailable);
    let refusal = lost[0].refusal.and_then(|refusal| refusal.why);
    let unknown = proto::refusal::Why::Plain(proto::Plain::Unknown.into());
    assert_eq!(refusal, Some(unknown));
    assert!(next(&outgoing).is_pending(), "one is due");
    second.send(Ok(Bytes::new()));
    assert_eq!(message(&outgoing).answers[0].id, 2);
    assert!(matches!(next(&outgoing), Poll::Ready(None)), "the end");
}

/// A broken stream ends at once, because no answer can be sent.
#[test]
fn errors_end_a_stream_at_once() {
    let outgoing = hello_sent();
    let _due = outgoing.reply(1, 1);
    outgoing.end(Err(Status::cancelled("gone")));
    let Poll::Ready(Some(Err(end))) = next(&outgoing) else {
        panic!("it goes on");
    };
    assert_eq!(end.code(), Code::Cancelled);
}
