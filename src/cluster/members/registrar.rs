//! Keeps the key of a node registered.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::super::{ClockState, Node, View};
use crate::etcd::{Client, Doubt, Error, Lease, LeaseId, Outcome, Refusal, at_revision, get};
use crate::proto::etcd::etcdserverpb::{PutRequest, TxnRequest};

/// Timeout of one answer of etcd.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause between two attempts to register.
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// Keepalives of another node after which it is considered alive. A single one may come from a new leader of etcd,
/// which restarts all leases.
const SIGNS_OF_LIFE: u32 = 2;

/// The state that a node wants the others to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Serve(ClockState),
    Drain,
    Leave { deadline: Instant },
}

/// The state that the others can see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The node's present key is not registered; with the reason, if known.
    Out(Option<Problem>),
    In {
        draining: bool,
    },
    /// The node has left for good.
    Left,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// Another node has the id. It is alive if `lives` is set, or else may have died.
    Taken {
        address: String,
        lives: bool,
    },
    Etcd(Error),
}

impl State {
    pub(super) fn problem(&self) -> Option<Problem> {
        match self {
            Self::Out(problem) => problem.clone(),
            Self::In { .. } | Self::Left => None,
        }
    }
}

impl Problem {
    fn is_taken_by(&self, by: &str) -> bool {
        matches!(self, Self::Taken { address, .. } if address == by)
    }

    /// Whether waiting cannot help. A full etcd has room again after an operator has made some, or after this node has
    /// compacted it; a failed start would stop the node from doing so.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::Taken { lives, .. } => *lives,
            Self::Etcd(error) => {
                let is_full = error.outcome == Outcome::Unknown(Doubt::NoSpace);
                !error.is_passing() && !is_lost(error) && !is_full
            }
        }
    }
}

pub(super) struct Registrar {
    pub(super) client: Client,
    pub(super) key: Bytes,
    pub(super) node: Node,
    pub(super) ttl: Duration,
    pub(super) wish: watch::Receiver<Wish>,
    pub(super) state: watch::Sender<State>,
    pub(super) view: watch::Receiver<Arc<View>>,
    pub(super) rival: Option<Rival>,
    /// The node was registered once, so its start is complete. Only a start fails because another node is alive.
    pub(super) was_in: bool,
}

/// The lease of another node that holds the id.
pub(super) struct Rival {
    lease: LeaseId,
    /// The lease expires before this time, unless its node keeps it alive.
    end: Instant,
    signs_of_life: u32,
}

impl Registrar {
    pub(super) async fn run(mut self) {
        let mut lease = None;
        loop {
            let wish = *self.wish.borrow_and_update();
            if let Wish::Leave { deadline } = wish {
                self.leave(lease, deadline).await;
                return;
            }
            self.node.draining = wish == Wish::Drain;
            if let Wish::Serve(clock) = wish {
                self.node.clock = clock;
            }
            match self.register(&mut lease).await {
                Ok(revision) => {
                    let draining = self.node.draining;
                    self.was_in = true;
                    self.state.send_replace(State::In { draining });
                    self.rest(&mut lease, revision).await;
                }
                Err(problem) => {
                    self.failed(problem);
                    tokio::select! {
                        () = sleep(RETRY_DELAY) => {}
                        _ = self.wish.changed() => {}
                    }
                }
            }
        }
    }

    /// Waits until the key has to be written again.
    async fn rest(&mut self, held: &mut Option<Lease>, revision: i64) {
        let Some(lease) = held else { return };
        let id = &self.node.id;
        let (mut views, started) = (self.view.clone(), self.node.started);
        // The key may have been deleted, by an operator or with another node of the same id and address.
        let is_gone = |view: &Arc<View>| view.revision() >= revision && view.node(id).is_none();
        let gone = async {
            // The watcher runs as long as this node is a member.
            let _ = self.view.wait_for(is_gone).await;
        };
        let is_another = |node: &Node| node.started != started;
        let replaced = async {
            // The other node has this one's address, as this one would have after a restart. Both go on, and the key is
            // that of the last one.
            let is_replaced = |view: &Arc<View>| {
                view.revision() >= revision && view.node(id).is_some_and(is_another)
            };
            if views.wait_for(is_replaced).await.is_ok() {
                warn!(
                    id,
                    address = self.node.address,
                    "another node with this id and address has replaced this one: each node needs its own (--node-id, \
                     --advertise)"
                );
            }
            pending::<()>().await;
        };
        tokio::select! {
            () = replaced => {}
            () = lease.lost() => *held = None,
            () = gone => warn!("the node's key was deleted, although its lease still exists"),
            _ = self.wish.changed() => {}
        }
    }

    /// Writes the key, and returns its revision. Reads it first, because an earlier attempt may have had any outcome.
    async fn register(&mut self, held: &mut Option<Lease>) -> Result<i64, Problem> {
        let deadline = || Instant::now() + ANSWER_TIMEOUT;
        if held
            .as_ref()
            .is_none_or(|lease| lease.held_until().is_none())
        {
            let granted = self.client.grant(self.ttl, deadline()).await;
            *held = Some(granted.map_err(Problem::Etcd)?);
        }
        let lease = held.as_ref().map_or(0, Lease::id);
        let found = self.client.range(get(self.key.clone()), deadline()).await;
        let found = found.map_err(Problem::Etcd)?.kvs.into_iter().next();
        let value = self.node.to_value();
        let mut expected = 0;
        if let Some(found) = found {
            if found.lease == lease && found.value == value {
                return Ok(found.mod_revision);
            }
            // A value that is no valid node does not hold the id.
            let other = Node::from_value(&found.value).ok();
            let other = other.filter(|other| other.address != self.node.address);
            if let Some(other) = other.filter(|_| found.lease != lease) {
                let address = other.address;
                // A draining node is about to leave, so its id is waited for.
                let lives = !self.was_in && !other.draining && self.lives(found.lease).await;
                return Err(Problem::Taken { address, lives });
            }
            expected = found.mod_revision;
        }
        let put = PutRequest {
            key: self.key.clone(),
            value: value.into(),
            lease,
            ..PutRequest::default()
        };
        let request = TxnRequest {
            compare: vec![at_revision(self.key.clone(), expected)],
            success: vec![put.into()],
            failure: Vec::new(),
        };
        match self.client.txn(request, deadline()).await {
            Ok(done) if done.succeeded => {
                info!(
                    id = self.node.id,
                    draining = self.node.draining,
                    "registered"
                );
                Ok(done.header.map_or(0, |header| header.revision))
            }
            // Another writer was faster: the key is read again.
            Ok(_) => Err(Problem::Etcd(raced())),
            Err(error) => {
                if is_lost(&error) {
                    *held = None;
                }
                Err(Problem::Etcd(error))
            }
        }
    }

    /// Whether another node keeps its lease alive, as far as observed. A dead node does not, and its id is free once
    /// the lease has expired.
    async fn lives(&mut self, lease: LeaseId) -> bool {
        let asked = Instant::now();
        let left = self.client.time_left(lease, asked + ANSWER_TIMEOUT).await;
        let Ok(left) = left else {
            // It is asked again, and the start has a deadline.
            return false;
        };
        // The time left is given in whole seconds.
        let (at_least, before) = (asked + left, Instant::now() + left + Duration::from_secs(1));
        let known = self.rival.take().filter(|known| known.lease == lease);
        let (end, signs_of_life) = match known {
            Some(known) if at_least > known.end => (before, known.signs_of_life + 1),
            Some(known) => (known.end, known.signs_of_life),
            None => (before, 0),
        };
        self.rival = Some(Rival {
            lease,
            end,
            signs_of_life,
        });
        signs_of_life >= SIGNS_OF_LIFE
    }

    /// Records a problem, and logs it once.
    fn failed(&self, problem: Problem) {
        self.state.send_if_modified(|state| {
            let known = state.problem();
            match &problem {
                Problem::Taken { address, .. }
                    if !known
                        .as_ref()
                        .is_some_and(|known| known.is_taken_by(address)) =>
                {
                    warn!(
                        id = self.node.id,
                        address,
                        "another node with this id is alive, or died some seconds ago (--node-id)"
                    );
                }
                Problem::Etcd(error) if known.is_none() => warn!("cannot register: {error}"),
                _ => debug!("cannot register: {problem:?}"),
            }
            *state = State::Out(Some(problem));
            true
        });
    }

    async fn leave(&self, lease: Option<Lease>, deadline: Instant) {
        if let Some(lease) = lease
            && let Err(error) = lease.revoke(deadline).await
        {
            warn!("cannot revoke the node's lease, so it has to expire: {error}");
            self.state
                .send_replace(State::Out(Some(Problem::Etcd(error))));
            return;
        }
        self.state.send_replace(State::Left);
    }
}

fn is_lost(error: &Error) -> bool {
    error.outcome == Outcome::Definite(Refusal::LeaseNotFound)
}

/// A transient error: the registration is repeated.
fn raced() -> Error {
    Error {
        outcome: Outcome::Definite(Refusal::Overloaded),
        endpoint: None,
        code: None,
        message: "the node's key has changed in the meantime".to_owned(),
    }
}
