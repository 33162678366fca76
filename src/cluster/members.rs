//! Membership: each node keeps a key under a lease, and watches the keys of the others.
//!
//! The lease only tells which nodes are alive; no correctness depends on it. If a node loses its lease, as after a long
//! time without etcd, it takes another one. While etcd cannot be reached, the last view stays.

mod format;
mod registrar;
mod watcher;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::{ClockState, Clocks, InvalidNode, Node, Peers, View, clocks};
use crate::etcd::{Client, Error};
use registrar::{Problem, Registrar, State, Wish};

/// Time after which a silent node is no longer considered alive.
pub const DEFAULT_TTL: Duration = Duration::from_secs(5);

/// The options of a member.
#[derive(Clone, Debug)]
pub struct Options {
    /// The prefix of the cluster's keys; nodes are at `<prefix>/nodes/<id>`.
    pub prefix: String,
    /// The number of lanes to divide among the nodes.
    pub lanes: u16,
    /// Time after its last keepalive for which the node is considered alive, some seconds.
    pub ttl: Duration,
}

/// A member of the cluster. When it is dropped, its keepalives stop, and the other nodes consider it dead after its
/// lease has expired.
pub struct Members {
    view: watch::Receiver<Arc<View>>,
    wish: watch::Sender<Wish>,
    state: watch::Receiver<State>,
    /// The registrar, the watcher, and other tasks that end with it.
    tasks: Vec<AbortOnDropHandle<()>>,
}

/// The reason why a node cannot join.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// Its id or address is invalid.
    #[error(transparent)]
    Invalid(InvalidNode),
    /// Another node with the same id is alive.
    #[error("node {id} is already running, at {address}: each node needs its own id (--node-id)")]
    Taken {
        /// The id.
        id: String,
        /// The address of the other node.
        address: String,
    },
    /// etcd refused, or could not be asked.
    #[error("cannot join the cluster: {0}")]
    Etcd(Error),
    /// The deadline passed without an answer.
    #[error("cannot join the cluster: etcd did not answer in time")]
    Late,
}

impl Members {
    /// Registers a node, and waits until its own view contains it.
    ///
    /// If another node at another address holds the id, waits for it until the deadline: a dead node holds its id until
    /// its lease expires, and a draining one until it leaves. Fails earlier if that node is seen to be alive and is not
    /// draining. A key that this node left before a restart is taken over at once. A full etcd is waited for until the
    /// deadline, too.
    ///
    /// # Errors
    /// Returns an error if the node has not joined by the deadline, or cannot join.
    pub async fn join(
        client: &Client,
        options: &Options,
        node: Node,
        deadline: Instant,
    ) -> Result<Self, JoinError> {
        node.check().map_err(JoinError::Invalid)?;
        let id = node.id.clone();
        let folder = format!("{}/nodes/", options.prefix);
        let (views, view) = watch::channel(Arc::new(View::new(0, Vec::new(), options.lanes)));
        let watcher = watcher::follow(client.clone(), folder.clone(), views);
        let (wish, wished) = watch::channel(Wish::Serve(node.clock));
        let (states, state) = watch::channel(State::Out(None));
        let registrar = Registrar {
            client: client.clone(),
            key: format!("{folder}{id}").into(),
            node,
            ttl: options.ttl,
            wish: wished,
            state: states,
            view: view.clone(),
            rival: None,
            was_in: false,
        };
        let format = format::raise(client.clone(), options.prefix.clone(), folder, view.clone());
        let mut members = Self {
            view,
            wish,
            state,
            tasks: vec![
                AbortOnDropHandle::new(tokio::spawn(registrar.run())),
                AbortOnDropHandle::new(tokio::spawn(watcher)),
                AbortOnDropHandle::new(tokio::spawn(format)),
            ],
        };
        let joined = timeout_at(deadline, members.joined(&id)).await;
        let problem = match joined {
            Ok(Ok(())) => return Ok(members),
            Ok(Err(problem)) => Some(problem),
            Err(_) => members.state.borrow().problem(),
        };
        Err(match problem {
            Some(Problem::Taken { address, .. }) => JoinError::Taken { id, address },
            Some(Problem::Etcd(error)) => JoinError::Etcd(error),
            None => JoinError::Late,
        })
    }

    async fn joined(&mut self, id: &str) -> Result<(), Problem> {
        let settled = self.state.wait_for(|state| match state {
            State::In { .. } => true,
            State::Out(problem) => problem.as_ref().is_some_and(Problem::is_final),
            State::Left => false,
        });
        let problem = settled.await.ok().and_then(|state| state.problem());
        if let Some(problem) = problem {
            return Err(problem);
        }
        // The view is dropped only with `self`.
        let _ = self.view.wait_for(|view| view.node(id).is_some()).await;
        Ok(())
    }

    /// The nodes, now and as they change.
    #[must_use]
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// Reports the state of this node's clock to the others from now on, compared with their clocks. While the clock is
    /// off, the node owns no lanes.
    pub fn watch_clock(&mut self, own_id: &str, refuses_ids: impl Fn() -> bool + Send + 'static) {
        let wish = self.wish.clone();
        let tell = move |now: ClockState| {
            wish.send_if_modified(|wish| match wish {
                Wish::Serve(clock) => std::mem::replace(clock, now) != now,
                Wish::Drain | Wish::Leave { .. } => false,
            });
        };
        let (clocks, id, view) = (Clocks::default(), own_id.to_owned(), self.view());
        // Other runtimes connect to peers only when a client calls. These connections exist without clients.
        let peers = Peers::with_clocks(id.clone(), view.clone(), clocks.clone());
        let judge = clocks::judge(clocks, id, view, refuses_ids, tell);
        self.tasks
            .push(AbortOnDropHandle::new(tokio::spawn(async move {
                let _peers = peers;
                judge.await;
            })));
    }

    /// Tells the other nodes that this one is about to stop: they own its lanes as soon as they hear it. Once this
    /// future has been polled, the announcement is made even if the future is dropped.
    ///
    /// # Errors
    /// Returns an error if the announcement was not made by the deadline.
    pub async fn announce_draining(&self, deadline: Instant) -> Result<(), JoinError> {
        self.wish.send_if_modified(|wish| {
            let serves = matches!(wish, Wish::Serve(_));
            if serves {
                *wish = Wish::Drain;
            }
            serves
        });
        let drains = |state: &State| matches!(state, State::In { draining: true } | State::Left);
        self.reach(drains, deadline).await
    }

    /// Leaves the cluster. The other nodes hear of it at once.
    ///
    /// # Errors
    /// Returns an error if etcd has not confirmed it by the deadline. The lease then expires.
    pub async fn leave(self, deadline: Instant) -> Result<(), JoinError> {
        self.wish.send_replace(Wish::Leave { deadline });
        self.reach(|state| *state == State::Left, deadline).await
    }

    async fn reach(
        &self,
        reached: impl FnMut(&State) -> bool,
        deadline: Instant,
    ) -> Result<(), JoinError> {
        let mut state = self.state.clone();
        match timeout_at(deadline, state.wait_for(reached)).await {
            Ok(Ok(_)) => Ok(()),
            // Too late, or the registrar has given up.
            Ok(Err(_)) | Err(_) => Err(match self.state.borrow().problem() {
                Some(Problem::Etcd(error)) => JoinError::Etcd(error),
                _ => JoinError::Late,
            }),
        }
    }
}
