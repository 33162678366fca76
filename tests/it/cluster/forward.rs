//! Forwarded calls are carried out at most once, get their own answers, and are given up when they are overdue.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use sumd::cluster::{
    Answer, Call, Doubt, Executor, ForwardError, IncomingCalls, Kind, Node, Nodes, NotSent,
    PROTOCOL, PeerRefusal, Peers, Reply, View,
};
use sumd::proto::sumd::cluster::v1::{self as proto, refusal::Why};
use sumd::server::Services;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::node;
use crate::etcd::proxy::{Proxy, Way};
use crate::support::{TestServer, eventually, soon};

type Outcome = Result<Answer, ForwardError>;

/// An executor that records its calls and answers each with its own payload: at once, or when the test says so.
#[derive(Clone, Default)]
struct Echo(Arc<Shared>);

#[derive(Default)]
struct Shared {
    begun: AtomicUsize,
    holds: bool,
    held: Mutex<Vec<(Call, Reply)>>,
}

impl Executor for Echo {
    fn execute(&self, call: Call, reply: Reply) {
        self.0.begun.fetch_add(1, Ordering::Relaxed);
        if self.0.holds || call.payload == "held" {
            self.0.held.lock().expect("no panic").push((call, reply));
        } else if call.payload == "refused" {
            reply.send(Err(refused()));
        } else if call.payload != "lost" {
            reply.send(Ok(call.payload));
        }
    }

    fn for_this_runtime(&self) -> Arc<dyn Executor> {
        Arc::new(self.clone())
    }
}

fn refused() -> PeerRefusal {
    PeerRefusal {
        why: Why::Acknowledged(7),
        status: Status::out_of_range("for earlier versions"),
    }
}

impl Echo {
    fn holding() -> Self {
        Self(Arc::new(Shared {
            holds: true,
            ..Shared::default()
        }))
    }

    fn begun(&self) -> usize {
        self.0.begun.load(Ordering::Relaxed)
    }

    fn take_held(&self) -> Vec<(Call, Reply)> {
        std::mem::take(&mut self.0.held.lock().expect("no panic"))
    }

    fn release(&self) {
        for (call, reply) in self.take_held() {
            reply.send(Ok(call.payload));
        }
    }
}

async fn serve(service: IncomingCalls, flags: &[&str]) -> TestServer {
    let alone = Nodes::alone(node("b", "b.example:1"));
    TestServer::start_with(flags, |services| Services {
        nodes: Some(alone),
        peers: Some(service),
        ..services
    })
    .await
}

/// Two nodes, a called one and a calling one, connected through a proxy that can be cut.
struct Pair {
    server: TestServer,
    echo: Echo,
    proxy: Proxy,
    peer: Node,
    view: watch::Sender<Arc<View>>,
    peers: Peers,
}

impl Pair {
    async fn start(echo: Echo) -> Self {
        Self::start_with(echo, &[]).await
    }

    async fn start_with(echo: Echo, flags: &[&str]) -> Self {
        let service = IncomingCalls::new(Arc::new(echo.clone()));
        let server = serve(service, flags).await;
        let proxy = Proxy::start(server.address.parse().expect("a host")).await;
        let peer = node("b", &proxy.host.to_string());
        let nodes = vec![node("a", "a.example:1"), peer.clone()];
        let (view, seen) = watch::channel(Arc::new(View::new(1, nodes, 256)));
        let pair = Self {
            server,
            echo,
            proxy,
            peer,
            view,
            peers: Peers::new("a".to_owned(), seen),
        };
        pair.reachable(true).await;
        pair
    }

    async fn reachable(&self, expected: bool) {
        let is = || self.peers.is_reachable(&self.peer) == expected;
        eventually("another reachability", is).await;
    }

    fn ask<P: Into<Bytes>>(&self, payload: P) -> impl Future<Output = Outcome> + use<P> {
        self.ask_until(payload, None)
    }

    fn ask_until<P: Into<Bytes>>(
        &self,
        payload: P,
        deadline: Option<Instant>,
    ) -> impl Future<Output = Outcome> + use<P> {
        let (peers, peer) = (self.peers.clone(), self.peer.clone());
        let call = Call {
            kind: Kind::Increment,
            payload: payload.into(),
            deadline,
            own_id: false,
        };
        async move { soon(peers.call(&peer, call)).await }
    }

    /// Makes a call, and waits until it has arrived.
    async fn ask_and_hold(&self) -> tokio::task::JoinHandle<Outcome> {
        let before = self.echo.begun();
        let asked = tokio::spawn(self.ask("held"));
        let begun = || self.echo.begun() == before + 1;
        eventually("the call", begun).await;
        asked
    }
}

fn error(outcome: Outcome) -> ForwardError {
    outcome.expect_err("there should be no answer")
}

#[tokio::test]
async fn answers_come_back_as_they_were() {
    let pair = Pair::start(Echo::default()).await;
    for payload in [
        Bytes::new(),
        Bytes::from_static(b"x"),
        vec![7; 2 << 20].into(),
    ] {
        let answer = pair.ask(payload.clone()).await.expect("it is asked");
        assert_eq!(answer.expect("it is answered"), payload);
    }
    let refused = pair.ask("refused").await.expect("it is answered");
    assert_eq!(refused.expect_err("with an error"), Why::Acknowledged(7));
    let lost = pair.ask("lost").await.expect("it is answered");
    let unknown = Why::Plain(proto::Plain::Unknown.into());
    assert_eq!(lost.expect_err("by nobody"), unknown);
    let large = pair.ask(vec![7; (2 << 20) + 1]).await;
    assert_eq!(error(large), ForwardError::NotSent(NotSent::TooLarge));
    assert_eq!(pair.echo.begun(), 5);
}

/// Many concurrent calls with payloads of all sizes: each gets its own answer, and each is carried out once.
#[tokio::test]
async fn many_at_once_are_each_answered_once() {
    let pair = Pair::start(Echo::default()).await;
    for _ in 0..5 {
        let before = pair.echo.begun();
        let mut calls = tokio::task::JoinSet::new();
        for i in 0..2000_u32 {
            let mut payload = vec![0; (i % 97 * 11) as usize];
            payload.extend(i.to_be_bytes());
            let asked = pair.ask(payload.clone());
            calls.spawn(async move { (payload, asked.await) });
        }
        while let Some(done) = calls.join_next().await {
            let (payload, outcome) = done.expect("no panic");
            assert_eq!(outcome.expect("it is asked").expect("an answer"), payload);
        }
        assert_eq!(pair.echo.begun(), before + 2000);
    }
}

/// The called node gets the deadline of a call, or learns that it has none.
#[tokio::test]
async fn deadlines_go_with_the_call() {
    let pair = Pair::start(Echo::holding()).await;
    let until = Instant::now() + Duration::from_mins(1);
    let with = tokio::spawn(pair.ask_until("a", Some(until)));
    eventually("the call", || pair.echo.begun() == 1).await;
    let without = tokio::spawn(pair.ask("b"));
    eventually("the call", || pair.echo.begun() == 2).await;
    let held = pair.echo.take_held();
    let deadlines: Vec<_> = held.iter().map(|(call, _)| call.deadline).collect();
    let carried = deadlines[0].expect("it has one");
    let far = carried.max(until) - carried.min(until);
    assert!(far < Duration::from_secs(20), "{far:?} from what it was");
    assert_eq!(deadlines[1], None);
    for (call, reply) in held {
        assert_eq!(call.kind, Kind::Increment);
        reply.send(Ok(call.payload));
    }
    with.await
        .expect("no panic")
        .expect("asked")
        .expect("answered");
    without
        .await
        .expect("no panic")
        .expect("asked")
        .expect("answered");

    let late = pair.ask_until("c", Some(Instant::now())).await;
    assert_eq!(error(late), ForwardError::NotSent(NotSent::Late));
    let waits = pair.ask_until("d", Some(Instant::now() + Duration::from_secs(1)));
    assert_eq!(error(waits.await), ForwardError::Unknown(Doubt::NoAnswer));
    assert_eq!(pair.echo.begun(), 3, "the late one was not sent");
}

/// After a connection is cut, sent calls are in doubt, and later ones fail at once as not sent. The connection is made
/// again, and no call is sent twice.
#[tokio::test]
async fn a_cut_leaves_doubt_about_what_was_sent_only() {
    let pair = Pair::start(Echo::default()).await;
    for _ in 0..3 {
        let before = pair.echo.begun();
        let sent = pair.ask_and_hold().await;
        pair.proxy.set(Way::Closed);
        let broken = soon(sent).await.expect("no panic");
        assert_eq!(error(broken), ForwardError::Unknown(Doubt::Broken));
        pair.reachable(false).await;
        let not_sent = pair.ask("x").await;
        assert_eq!(
            error(not_sent),
            ForwardError::NotSent(NotSent::NotConnected)
        );
        pair.echo.release();
        pair.proxy.set(Way::Open);
        pair.reachable(true).await;
        pair.ask("y").await.expect("asked").expect("answered");
        assert_eq!(pair.echo.begun(), before + 2);
    }
}

/// A peer that accepts everything and answers nothing, as a stopped process does, is noticed before an answer is
/// overdue; so is one that only seems to accept.
#[tokio::test]
async fn silence_is_noticed() {
    for way in [Way::Mute, Way::Silent] {
        let pair = Pair::start(Echo::default()).await;
        pair.proxy.set(way);
        let outcome = pair.ask("x").await;
        assert_eq!(
            error(outcome),
            ForwardError::Unknown(Doubt::Broken),
            "{way:?}"
        );
        let not_sent = pair.ask("y").await;
        assert_eq!(
            error(not_sent),
            ForwardError::NotSent(NotSent::NotConnected)
        );
        pair.proxy.set(Way::Open);
        pair.reachable(true).await;
        pair.ask("z").await.expect("asked").expect("answered");
        let ran = pair.echo.begun();
        assert!(ran <= 2, "{ran} of those that were sent, each once");
    }
}

/// A peer that stops reading fills its own queue, and no other peer's.
#[tokio::test]
async fn a_full_queue_says_so() {
    let pair = Pair::start(Echo::holding()).await;
    let other = Echo::default();
    let service = IncomingCalls::new(Arc::new(other.clone()));
    let server = serve(service, &[]).await;
    let third = node("c", &server.address);
    let nodes = vec![pair.peer.clone(), third.clone()];
    pair.view.send_replace(Arc::new(View::new(2, nodes, 256)));
    eventually("a third", || pair.peers.is_reachable(&third)).await;

    let mut calls = tokio::task::JoinSet::new();
    let payload = Bytes::from(vec![7; 1 << 20]);
    for _ in 0..40 {
        calls.spawn(pair.ask(payload.clone()));
    }
    for _ in 0..24 {
        let full = soon(calls.join_next())
            .await
            .expect("one")
            .expect("no panic");
        assert_eq!(error(full), ForwardError::NotSent(NotSent::Full));
    }
    let call = Call {
        kind: Kind::Set,
        payload: Bytes::from_static(b"x"),
        deadline: None,
        own_id: false,
    };
    let answer = soon(pair.peers.call(&third, call)).await;
    assert_eq!(answer.expect("asked").expect("answered"), "x");
    eventually("the calls", || pair.echo.begun() == 16).await;
    pair.echo.release();
    while let Some(done) = calls.join_next().await {
        done.expect("no panic").expect("asked").expect("answered");
    }
    assert_eq!(pair.echo.begun(), 16);
    server.assert_well().await;
}

/// A draining node gets no more calls, and answers those that it has accepted.
#[tokio::test]
async fn draining_answers_what_was_taken() {
    let mut pair = Pair::start(Echo::default()).await;
    let asked = pair.ask_and_hold().await;
    pair.server.stop();
    pair.reachable(false).await;
    let not_sent = pair.ask("x").await;
    assert_eq!(
        error(not_sent),
        ForwardError::NotSent(NotSent::NotConnected)
    );
    pair.echo.release();
    let answer = soon(asked).await.expect("no panic").expect("asked");
    assert_eq!(answer.expect("answered"), "held");
    pair.server.ended().await;
    assert_eq!(pair.echo.begun(), 1);
}

/// A connection past its maximum age is replaced by another one, and leaves no call in doubt.
#[tokio::test]
async fn old_connections_answer_what_they_took() {
    let pair = Pair::start_with(Echo::default(), &["--max-connection-age", "500ms"]).await;
    let asked = pair.ask_and_hold().await;
    pair.reachable(false).await;
    pair.echo.release();
    let answer = soon(asked).await.expect("no panic").expect("asked");
    assert_eq!(answer.expect("answered"), "held");
    pair.reachable(true).await;
}

/// A node that has left the membership gets no more calls, and its earlier calls are still waited for.
#[tokio::test]
async fn members_that_go_are_let_go() {
    let pair = Pair::start(Echo::default()).await;
    let asked = pair.ask_and_hold().await;
    pair.view
        .send_replace(Arc::new(View::new(2, Vec::new(), 256)));
    pair.reachable(false).await;
    pair.echo.release();
    let answer = soon(asked).await.expect("no panic").expect("asked");
    assert_eq!(answer.expect("answered"), "held");
    let again = vec![pair.peer.clone()];
    pair.view.send_replace(Arc::new(View::new(3, again, 256)));
    pair.reachable(true).await;
    pair.ask("x").await.expect("asked").expect("answered");
    // At another address it is another peer.
    let mut moved = pair.peer.clone();
    moved.address = pair.server.address.clone();
    let nodes = vec![moved.clone()];
    pair.view.send_replace(Arc::new(View::new(4, nodes, 256)));
    eventually("the new address", || pair.peers.is_reachable(&moved)).await;
    assert!(!pair.peers.is_reachable(&pair.peer));
}

/// Calls of kinds that only a newer node knows are refused, so that the sender carries them out; others are answered.
#[tokio::test]
async fn unknown_kinds_are_for_the_sender_to_do() {
    let pair = Pair::start(Echo::default()).await;
    let channel = pair.server.channel().await;
    let mut client = proto::peer_service_client::PeerServiceClient::new(channel);
    let call = |id, kind| proto::Call {
        id,
        kind,
        payload: Bytes::from_static(b"x"),
        timeout_ms: 0,
        own_id: false,
    };
    let request = proto::ForwardRequest {
        calls: vec![call(5, 99), call(6, proto::Kind::Delete.into()), call(7, 0)],
        protocol: 9,
    };
    let answers = soon(client.forward(tokio_stream::iter([request]))).await;
    let mut answers = answers.expect("it is taken").into_inner();
    let greeting = soon(answers.message()).await.expect("well").expect("one");
    assert_eq!(greeting.protocol, PROTOCOL);
    let mut seen = greeting.answers;
    while let Some(more) = soon(answers.message()).await.expect("well") {
        assert_eq!(more.protocol, 0, "only once");
        seen.extend(more.answers);
    }
    seen.sort_by_key(|answer| answer.id);
    let code = |answer: &proto::Answer| match &answer.result {
        Some(proto::answer::Result::Ok(ok)) if ok == "x" => Code::Ok,
        Some(proto::answer::Result::Error(error)) => {
            sumd::status::from_encoded(error.clone()).code()
        }
        other => panic!("{other:?} is no answer"),
    };
    let codes: Vec<_> = seen
        .iter()
        .map(|answer| (answer.id, code(answer)))
        .collect();
    let expected = [
        (5, Code::Unimplemented),
        (6, Code::Ok),
        (7, Code::Unimplemented),
    ];
    assert_eq!(codes, expected);
    assert_eq!(pair.echo.begun(), 1);
}
