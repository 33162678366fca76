//! Clients that change counters.

use std::time::Duration;

use fastrand::Rng;
use sumd::lane::{Decided, LaneError};
use sumd::model::{Effect, Limits, Millis, OnLimit, Rejection, Request};
use tokio::time::{Instant, sleep};

use super::history::{Add, Bit, End, Failing, History, Named, Span, What};
use super::nodes::{Answer, Cluster, Node, PROMPT};
use super::plan::{BITS, Bits, NAMED, NAMES};

/// One client.
pub struct Client {
    pub cluster: Cluster,
    pub rng: Rng,
    pub history: History,
}

/// The result of one attempt.
enum Tried {
    Effect(Decided),
    Rejection(Rejection),
    /// This attempt was certainly not carried out.
    NotApplied,
    Unknown,
}

impl Client {
    pub fn new(cluster: &Cluster, rng: Rng) -> Self {
        Self {
            cluster: cluster.clone(),
            rng,
            history: History::default(),
        }
    }

    pub async fn rest(&mut self) {
        let most = self.cluster.plan.rest.as_millis();
        let most = u64::try_from(most).expect("a short time");
        sleep(Duration::from_millis(self.rng.u64(..most))).await;
    }

    pub fn problem(&mut self, what: String) {
        self.history.problems.push(what);
    }

    /// Calls some node once.
    async fn attempt(&mut self, what: &What, id: Option<(&str, Option<Millis>)>) -> Tried {
        let Some(node) = self.cluster.any(&mut self.rng) else {
            sleep(Duration::from_millis(50)).await;
            return Tried::NotApplied;
        };
        let operation = what.operation();
        let lane = self.cluster.lane(operation.group());
        let hasher = super::rows::hasher();
        let id = id.map(|(id, time)| hasher.id(id, time, &operation));
        let request = Request { id, operation };
        let patience = Duration::from_millis([300, 2_000, 10_000, 40_000][self.rng.usize(..4)]);
        match node.ask(lane, request, patience, &mut self.rng).await {
            Answer::Effect(decided) => Tried::Effect(decided),
            Answer::Failed(LaneError::Refused(refused)) => Tried::Rejection(refused),
            Answer::Failed(LaneError::Unknown(_)) | Answer::Lost => Tried::Unknown,
            Answer::Failed(
                LaneError::NotOwner
                | LaneError::Unavailable(_)
                | LaneError::Overloaded
                | LaneError::Closed,
            )
            | Answer::NotSent => Tried::NotApplied,
        }
    }

    /// Calls one node until there is an answer; `None` if the node has ended, or gives no answer although all is well.
    async fn persist(&mut self, node: &Node, id: &str, what: &What) -> Option<Decided> {
        let begun = Instant::now();
        loop {
            let operation = what.operation();
            let lane = self.cluster.lane(operation.group());
            let id = Some(super::rows::hasher().id(id, None, &operation));
            let request = Request { id, operation };
            let problem = match node.ask(lane, request, PROMPT, &mut self.rng).await {
                Answer::Effect(decided) => return Some(decided),
                Answer::Failed(problem) => problem,
                Answer::Lost | Answer::NotSent => return None,
            };
            if begun.elapsed() > PROMPT {
                self.problem(format!(
                    "{what:?} was refused for {PROMPT:?}, and all is well: {problem:?}"
                ));
                return None;
            }
            sleep(Duration::from_millis(self.rng.u64(1..300))).await;
        }
    }

    /// Calls nodes until there is an answer.
    async fn insist(&mut self, id: &str, what: &What) -> (Decided, usize) {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.attempt(what, Some((id, None))).await {
                Tried::Effect(decided) => return (decided, attempts),
                Tried::Rejection(refused) => {
                    self.problem(format!("{id} was refused: {refused:?}"));
                    sleep(Duration::from_secs(1)).await;
                }
                Tried::NotApplied | Tried::Unknown => {
                    sleep(Duration::from_millis(self.rng.u64(1..300))).await;
                }
            }
        }
    }
}

/// Changes counters with ids, each until it is answered, and often repeats one.
pub async fn with_ids(mut client: Client, who: usize) -> History {
    for number in 0..client.cluster.plan.operations {
        let id = format!("{who}-{number}");
        let what = what(&mut client.rng);
        let asked = Instant::now();
        let (answer, attempts) = if client.rng.u8(..4) == 0 {
            hedged(&mut client, &id, &what).await
        } else {
            client.insist(&id, &what).await
        };
        let span = Span {
            asked,
            answered: Instant::now(),
        };
        if attempts == 1 && answer.answer.replayed {
            client.problem(format!("{id} is said to have come before"));
        }
        if client.rng.u8(..4) == 0 {
            again(&mut client, &id, &what, &answer).await;
        }
        client.history.named.push(Named {
            id,
            what,
            span,
            answer,
        });
        client.rest().await;
    }
    client.history
}

/// Sends the same request twice at the same time, which must make no difference.
async fn hedged(client: &mut Client, id: &str, what: &What) -> (Decided, usize) {
    let mut other = Client::new(&client.cluster, client.rng.fork());
    let (one, two) = tokio::join!(client.insist(id, what), other.insist(id, what));
    client.history.add(other.history);
    same(client, id, &one.0, &two.0);
    let (first, second) = (&one.0.answer, &two.0.answer);
    if !first.replayed && !second.replayed {
        client.problem(format!("{id} was carried out twice: {one:?}, {two:?}"));
    }
    (one.0, one.1 + two.1)
}

/// Repeats an id that was answered, sometimes with other contents.
async fn again(client: &mut Client, id: &str, what: &What, first: &Decided) {
    client.rest().await;
    let other = What::Set("na/0".into(), -12345);
    let forged = client.rng.u8(..3) == 0 && what.operation().group() == "na";
    let sent = if forged { &other } else { what };
    match client.attempt(sent, Some((id, None))).await {
        Tried::Effect(_) if forged => client.problem(format!("{id} was forged")),
        Tried::Effect(second) => {
            same(client, id, first, &second);
            if !second.answer.replayed {
                client.problem(format!("{id} was carried out again: {second:?}"));
            }
        }
        Tried::Rejection(Rejection::IdReused) if forged => {}
        Tried::Rejection(refused) => client.problem(format!("{id} was refused then: {refused:?}")),
        Tried::NotApplied | Tried::Unknown => {}
    }
}

fn same(client: &mut Client, id: &str, one: &Decided, two: &Decided) {
    let known = |decided: &Decided| (decided.answer.done.clone(), decided.revision);
    if known(one) != known(two) {
        client.problem(format!("{id} was answered {one:?}, and {two:?}"));
    }
}

fn what(rng: &mut Rng) -> What {
    let of = NAMED[rng.usize(..NAMED.len())];
    let name = |rng: &mut Rng| format!("{of}/{}", rng.usize(..NAMES));
    match rng.u8(..10) {
        0..=5 => {
            let name = name(rng);
            What::Add(add(rng, name))
        }
        6 | 7 => What::Batch(
            (0..rng.usize(1..5))
                .map(|_| {
                    let name = name(rng);
                    add(rng, name)
                })
                .collect(),
        ),
        8 => What::Set(name(rng), rng.i64(-100..100)),
        _ => What::Delete(name(rng)),
    }
}

fn add(rng: &mut Rng, name: String) -> Add {
    let mut limits = Limits::default();
    if rng.u8(..3) == 0 {
        let min = rng.i64(-60..60);
        limits.min = rng.bool().then_some(min);
        limits.max = rng.bool().then(|| min + rng.i64(0..60));
        if rng.bool() {
            limits.on_limit = OnLimit::Saturate;
        }
    }
    let delta = if rng.u8(..30) == 0 {
        [i64::MAX, i64::MIN][rng.usize(..2)]
    } else {
        rng.i64(-50..50)
    };
    Add {
        name,
        delta,
        limits,
    }
}

/// Adds bits without ids, which are sent once, and makes increments that fail.
pub async fn without_ids(mut client: Client, bits: Bits) -> History {
    for _ in 0..client.cluster.plan.operations {
        if client.rng.u8(..4) == 0 {
            failing(&mut client).await;
        }
        let group = BITS[client.rng.usize(..BITS.len())];
        let (counter, delta) = bits.next(group);
        let what = bit(&counter, delta);
        let asked = Instant::now();
        let end = match client.attempt(&what, None).await {
            Tried::Effect(decided) => End::Effect(decided),
            Tried::Unknown => End::Unknown,
            Tried::NotApplied => End::NotApplied,
            Tried::Rejection(refused) => {
                client.problem(format!("{what:?} was refused: {refused:?}"));
                End::NotApplied
            }
        };
        let answered = Instant::now();
        client.history.bits.push(Bit {
            counter,
            delta,
            span: Span { asked, answered },
            end,
        });
        client.rest().await;
    }
    client.history
}

fn bit(counter: &str, delta: i64) -> What {
    What::Add(Add {
        name: counter.to_owned(),
        delta,
        limits: Limits::default(),
    })
}

async fn failing(client: &mut Client) {
    let of = NAMED[client.rng.usize(..NAMED.len())];
    let add = Add {
        name: format!("{of}/{}", client.rng.usize(..NAMES)),
        delta: 1,
        limits: Limits {
            max: Some(i64::MIN),
            ..Limits::default()
        },
    };
    if let Tried::Effect(answer) = client.attempt(&What::Add(add.clone()), None).await {
        if !matches!(answer.answer.done, Effect::Failed(_)) {
            client.problem(format!("{add:?} was answered {answer:?}"));
        }
        client.history.failing.push(Failing { add, answer });
    }
}

/// Adds bits with ids that have a time, and is late sometimes: a request that is too old by then is refused, and not
/// repeated.
pub async fn with_times(mut client: Client, bits: Bits, who: usize) -> History {
    for number in 0..client.cluster.plan.operations {
        let id = format!("timed-{who}-{number}");
        let group = BITS[client.rng.usize(..BITS.len())];
        let (counter, delta) = bits.next(group);
        let what = bit(&counter, delta);
        let time = client.cluster.now() + client.rng.i64(-2_000..2_000);
        let asked = Instant::now();
        let mut in_doubt = false;
        let end = loop {
            match client.attempt(&what, Some((&id, Some(time)))).await {
                Tried::Effect(decided) => break End::Effect(decided),
                Tried::Rejection(Rejection::TooOld { .. }) if in_doubt => break End::Unknown,
                Tried::Rejection(Rejection::TooOld { .. }) => break End::NotApplied,
                // From a node whose clock is wrong; others are right.
                Tried::Rejection(Rejection::FromFuture { .. }) if client.cluster.plan.jump > 0 => {}
                Tried::Rejection(refused) => {
                    client.problem(format!("{id} was refused: {refused:?}"));
                    break End::Unknown;
                }
                Tried::Unknown => in_doubt = true,
                Tried::NotApplied => {}
            }
            let most = [300, 30_000, 120_000][client.rng.usize(..3)];
            let most = if client.cluster.healed.is_cancelled() {
                300
            } else {
                most
            };
            sleep(Duration::from_millis(client.rng.u64(1..most))).await;
        };
        let answered = Instant::now();
        // Repeated late, it gets the same answer, or is refused.
        if matches!(end, End::Effect(_)) && client.rng.u8(..3) == 0 {
            let late = [1_000, 30_000, 120_000][client.rng.usize(..3)];
            sleep(Duration::from_millis(client.rng.u64(1..late))).await;
            let again = client.attempt(&what, Some((&id, Some(time)))).await;
            if let (End::Effect(first), Tried::Effect(second)) = (&end, &again)
                && (!second.answer.replayed || first.revision != second.revision)
            {
                client.problem(format!("{id} was carried out again: {first:?}, {second:?}"));
            }
        }
        client.history.bits.push(Bit {
            counter,
            delta,
            span: Span { asked, answered },
            end,
        });
        client.rest().await;
    }
    client.history
}

/// Makes a request in every group on every node, once all is well: after any history, a node gives answers, not only
/// refusals.
pub async fn probe(mut client: Client) -> History {
    let nodes = 0..client.cluster.plan.nodes;
    let mut all: Vec<_> = nodes
        .flat_map(|at| NAMED.map(|group| (at, group)))
        .collect();
    client.rng.shuffle(&mut all);
    for (at, group) in all {
        let Some(node) = client.cluster.node(at) else {
            continue;
        };
        let id = format!("probe-{at}-{group}");
        let what = What::Add(Add {
            name: format!("{group}/0"),
            delta: 1,
            limits: Limits::default(),
        });
        let asked = Instant::now();
        let answer = match client.persist(&node, &id, &what).await {
            Some(decided) => decided,
            // Some node answers.
            None => client.insist(&id, &what).await.0,
        };
        let answered = Instant::now();
        client.history.named.push(Named {
            id,
            what,
            span: Span { asked, answered },
            answer,
        });
    }
    client.history
}
