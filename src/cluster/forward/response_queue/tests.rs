use futures_util::FutureExt as _;
use futures_util::future::poll_fn;
use prost::Message as _;

use super::*;

/// The next message or the end, if one is due.
fn next(outgoing: &ResponseQueue) -> Option<Result<proto::ForwardResponse, Status>> {
    let next = poll_fn(|cx| outgoing.poll_message(cx)).now_or_never()?;
    Some(next.map(|framed| {
        let message = framed.slice(5..);
        proto::ForwardResponse::decode(message).expect("a message")
    }))
}

fn message(outgoing: &ResponseQueue) -> proto::ForwardResponse {
    let next = next(outgoing).expect("something is to be said");
    next.expect("it goes on")
}

/// A stream that has sent its version.
fn hello_sent() -> Arc<ResponseQueue> {
    let outgoing = ResponseQueue::new();
    assert_eq!(message(&outgoing).protocol, PROTOCOL);
    assert!(next(&outgoing).is_none());
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
    assert!(next(&outgoing).is_none());
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
    while next(&outgoing).is_some() {}

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
    outgoing.end(Status::ok(""));
    assert!(next(&outgoing).is_none(), "two are due");
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
    assert!(next(&outgoing).is_none(), "one is due");
    second.send(Ok(Bytes::new()));
    assert_eq!(message(&outgoing).answers[0].id, 2);
    let end = next(&outgoing).expect("the end").expect_err("it is one");
    assert_eq!(end.code(), Code::Ok);
}

/// A broken stream ends at once, because no answer can be sent.
#[test]
fn errors_end_a_stream_at_once() {
    let outgoing = hello_sent();
    let _due = outgoing.reply(1, 1);
    outgoing.end(Status::cancelled("gone"));
    let end = next(&outgoing).expect("the end").expect_err("it is one");
    assert_eq!(end.code(), Code::Cancelled);
}
