use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::poll_fn;

use super::super::Kind;
use super::*;

type CallResults = oneshot::Receiver<CallResult>;

fn call(payload: impl Into<Bytes>) -> Call {
    Call {
        kind: Kind::Set,
        payload: payload.into(),
        deadline: None,
        own_id: false,
    }
}

/// The next message, if there is one.
fn message(line: &PeerQueue, epoch: u64) -> Option<proto::ForwardRequest> {
    let next = poll_fn(|cx| line.poll_message(epoch, cx));
    next.now_or_never().flatten()
}

fn ids(message: Option<proto::ForwardRequest>) -> Vec<u64> {
    let calls = message.expect("a message").calls;
    calls.into_iter().map(|call| call.id).collect()
}

fn answer(line: &PeerQueue, id: u64) {
    let result = Some(proto::answer::Result::Ok(Bytes::new()));
    line.answered(vec![proto::Answer {
        id,
        result,
        refusal: None,
    }]);
}

fn error(outcome: &mut CallResults) -> Option<ForwardError> {
    let told = outcome.try_recv().ok()?;
    Some(told.expect_err("there is no answer"))
}

/// A queue whose connection has sent its first message.
fn open() -> (PeerQueue, u64) {
    let line = PeerQueue::default();
    let epoch = line.begin();
    assert_eq!(message(&line, epoch).map(|it| it.protocol), Some(PROTOCOL));
    line.open();
    (line, epoch)
}

/// Calls wait for the first connection. If it cannot be made, they are refused until there is one.
#[test]
fn calls_wait_for_the_first_connection_only() {
    let line = PeerQueue::default();
    let epoch = line.begin();
    let early = line.push(call("x")).expect("it waits");
    assert!(ids(message(&line, epoch)).is_empty(), "a greeting");
    line.open();
    let sent = ids(message(&line, epoch));
    answer(&line, sent[0]);
    assert!(early.now_or_never().expect("answered").is_ok());

    let line = PeerQueue::default();
    line.begin();
    let mut early = line.push(call("x")).expect("it waits");
    line.fail();
    let not_sent = ForwardError::NotSent(NotSent::NotConnected);
    assert_eq!(error(&mut early), Some(not_sent));
    line.begin();
    assert_eq!(line.push(call("x")).err(), Some(NotSent::NotConnected));
}

/// A slot that is used again gets a new id, so a late or repeated answer reaches no other call.
#[test]
fn ids_are_not_used_twice() {
    let (line, epoch) = open();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..10 {
        let first = line.push(call("x")).expect("it is open");
        let mut second = line.push(call("y")).expect("it is open");
        let ids = ids(message(&line, epoch));
        for stale in &seen {
            answer(&line, *stale);
        }
        answer(&line, ids[0]);
        answer(&line, ids[0]);
        assert!(first.now_or_never().expect("answered").is_ok());
        assert!(second.try_recv().is_err(), "nobody has answered this one");
        answer(&line, ids[1]);
        assert!(second.try_recv().is_ok());
        assert!(ids.into_iter().all(|id| seen.insert(id)));
    }
    assert!(!line.tick(Instant::now()), "nothing is left");
}

/// The stream of an earlier connection gets no calls, since it would never send them.
#[test]
fn earlier_connections_get_nothing() {
    let (line, first) = open();
    let mut sent = line.push(call("x")).expect("it is open");
    assert_eq!(ids(message(&line, first)).len(), 1);
    let mut waits = line.push(call("y")).expect("it is open");
    let second = line.begin();
    assert_eq!(error(&mut sent), Some(ForwardError::Unknown(Doubt::Broken)));
    let not_sent = ForwardError::NotSent(NotSent::NotConnected);
    assert_eq!(error(&mut waits), Some(not_sent));
    line.open();
    let _third = line.push(call("z")).expect("it is open");
    assert_eq!(message(&line, first), None);
    assert_eq!(ids(message(&line, second)).len(), 1);
}

/// A message holds calls in their order, up to its size.
#[test]
fn messages_are_bounded() {
    let (line, epoch) = open();
    let payload = vec![0; MESSAGE_BYTES / 4];
    let outcomes: Vec<_> = (0..10).map(|_| line.push(call(payload.clone()))).collect();
    let counts: Vec<_> = (0..3).map(|_| ids(message(&line, epoch)).len()).collect();
    assert_eq!(counts, [4, 4, 2]);
    assert_eq!(message(&line, epoch), None);
    drop(outcomes);
}

#[test]
fn what_waits_is_bounded() {
    let (line, epoch) = open();
    let waiting: Vec<_> = (0..MAX_CALLS)
        .map(|_| line.push(call("")).expect("there is room"))
        .collect();
    assert_eq!(line.push(call("")).err(), Some(NotSent::Full));
    let ids = ids(message(&line, epoch));
    assert_eq!(
        line.push(call("")).err(),
        Some(NotSent::Full),
        "not answered yet"
    );
    answer(&line, ids[0]);
    drop(waiting);
    let large = vec![0; MAX_PAYLOAD_BYTES];
    line.tick(Instant::now());
    let count = MAX_CALLS_BYTES / MAX_PAYLOAD_BYTES;
    let all: Vec<_> = (0..count).map(|_| line.push(call(large.clone()))).collect();
    assert!(
        all.iter().all(Result::is_ok),
        "what nobody waits for has gone"
    );
    assert_eq!(line.push(call("x")).err(), Some(NotSent::Full));
}

/// A waiting caller is served when there is capacity, and refused when there will never be.
#[test]
fn a_turn_comes_with_room() {
    let (line, epoch) = open();
    let fill = || line.push(call(vec![0; MAX_PAYLOAD_BYTES]));
    let taken: Vec<_> = (0..MAX_CALLS_BYTES / MAX_PAYLOAD_BYTES)
        .map(|_| fill())
        .collect();
    assert!(taken.iter().all(Result::is_ok));
    let mut turns = [0, 1].map(|_| Box::pin(line.push_ordered(call("x"))));
    for turn in &mut turns {
        assert!(turn.now_or_never().is_none(), "there is no room");
    }
    answer(&line, ids(message(&line, epoch))[0]);
    let [first, second] = &mut turns;
    assert!(first.now_or_never().is_some_and(|pushed| pushed.is_ok()));
    assert!(second.now_or_never().is_some_and(|pushed| pushed.is_ok()));

    assert!(fill().is_err());
    let mut late = Box::pin(line.push_ordered(call(vec![0; MAX_PAYLOAD_BYTES])));
    assert!((&mut late).now_or_never().is_none(), "there is no room");
    line.fail();
    let told = late.now_or_never().expect("told");
    assert_eq!(told.err(), Some(NotSent::NotConnected));
}

/// Calls without callers are dropped, and overdue calls are refused.
#[test]
fn what_is_late_is_swept_away() {
    let (line, epoch) = open();
    let now = Instant::now();
    let until = |time| Call {
        deadline: Some(now + time),
        ..call("x")
    };
    drop(line.push(call("gone")));
    let mut late = line.push(until(Duration::from_secs(5))).expect("open");
    assert!(line.tick(now + Duration::from_secs(4)));
    assert!(!line.tick(now + Duration::from_secs(5)));
    let not_sent = ForwardError::NotSent(NotSent::Late);
    assert_eq!(error(&mut late), Some(not_sent));
    assert_eq!(message(&line, epoch), None);

    let mut sent = line.push(until(Duration::from_secs(50))).expect("open");
    let sent_message = message(&line, epoch).expect("a message");
    assert!((49_000..=50_000).contains(&sent_message.calls[0].timeout_ms));
    let mut for_ever = line.push(call("x")).expect("open");
    assert_eq!(ids(message(&line, epoch)).len(), 1);
    line.tick(now + Duration::from_secs(50));
    let no_answer = ForwardError::Unknown(Doubt::NoAnswer);
    assert_eq!(error(&mut sent), Some(no_answer));
    for _ in 0..=ANSWER_TICKS {
        line.tick(now);
    }
    assert_eq!(error(&mut for_ever), Some(no_answer));
}

/// A quiet connection sends keepalives, so that neither side treats the stream as idle.
#[test]
fn idle_connections_show_signs_of_life() {
    let (line, epoch) = open();
    let mut signs = 0;
    for _ in 0..IDLE_TICKS * 3 + 3 {
        line.tick(Instant::now());
        signs += usize::from(message(&line, epoch).is_some());
    }
    assert!((2..=3).contains(&signs), "{signs}");
}

/// The stream of a closed queue ends after the sent calls, and their answers still come.
#[test]
fn closing_waits_for_answers() {
    let (line, epoch) = open();
    let sent = line.push(call("x")).expect("it is open");
    let ids = ids(message(&line, epoch));
    let mut waits = line.push(call("y")).expect("it is open");
    line.close();
    assert!(!line.is_open());
    let not_sent = ForwardError::NotSent(NotSent::NotConnected);
    assert_eq!(error(&mut waits), Some(not_sent));
    let end = poll_fn(|cx| line.poll_message(epoch, cx)).now_or_never();
    assert_eq!(end, Some(None));
    answer(&line, ids[0]);
    assert!(sent.now_or_never().expect("answered").is_ok());
}
