//! Who is there: each node keeps a key under a lease, and watches those of the others.
//!
//! The lease tells who lives, and nothing else depends on it. Where it is lost, as after a long time without etcd, the node
//! takes another one; while etcd cannot be reached, the last view stays.

mod format;
mod registrar;
mod watcher;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::{ClockState, Clocks, InvalidNode, Node, Peers, View, clocks};
use crate::etcd::{Client, Error};
use registrar::{Problem, Registrar, State, Wish};

/// For how long a node that has fallen silent counts as one that lives.
pub const DEFAULT_TTL: Duration = Duration::from_secs(5);

/// How a node takes part.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the keys of this cluster begin with; those of nodes are `<prefix>/nodes/<id>`.
    pub prefix: String,
    /// How many lanes there are to be shared.
    pub lanes: u16,
    /// For how long the node counts as one that lives after its last sign of life, some seconds.
    pub ttl: Duration,
}

/// A node that takes part. Dropped, it falls silent, and the others take it for dead when its lease has run out.
pub struct Members {
    view: watch::Receiver<Arc<View>>,
    wish: watch::Sender<Wish>,
    state: watch::Receiver<State>,
    /// The registrar, the watcher, and others that end with it.
    tasks: Vec<AbortOnDropHandle<()>>,
}

/// A node cannot take part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinError {
    /// What it tells of itself is wrong.
    Invalid(InvalidNode),
    /// Another node of the same id lives.
    Taken {
        /// The id.
        id: String,
        /// Where the other one is.
        address: String,
    },
    /// etcd refuses, or could not be asked.
    Etcd(Error),
    /// Nothing was heard in time.
    Late,
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(invalid) => invalid.fmt(f),
            Self::Taken { id, address } => {
                write!(
                    f,
                    "the node {id} lives already, at {address}: each node needs an id of its own (--node-id)"
                )
            }
            Self::Etcd(error) => write!(f, "cannot join the cluster: {error}"),
            Self::Late => f.write_str("cannot join the cluster: etcd has not answered in time"),
        }
    }
}

impl std::error::Error for JoinError {}

impl Members {
    /// Registers a node, and waits until its own view has it. An id that another node holds, at another address, is waited
    /// for until the deadline, or until that node is seen to live and does not drain: one that has died holds it for as long as
    /// its lease runs, and one that drains until it goes. Its own, left from before a restart, the node takes over at once. A full
    /// etcd is waited for until the deadline, too.
    ///
    /// # Errors
    /// Returns an error if that has not come about before the deadline, or never will.
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
        // It only ends with us.
        let _ = self.view.wait_for(|view| view.node(id).is_some()).await;
        Ok(())
    }

    /// The nodes, now and from now on.
    #[must_use]
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// Tells the others, from now on, what is known of the clock of this node, given those of the others: while it is off, the
    /// node owns no lanes.
    pub fn watch_clock(&mut self, own_id: &str, refuses_ids: impl Fn() -> bool + Send + 'static) {
        let wish = self.wish.clone();
        let tell = move |now: ClockState| {
            wish.send_if_modified(|wish| match wish {
                Wish::Serve(clock) => std::mem::replace(clock, now) != now,
                Wish::Drain | Wish::Leave { .. } => false,
            });
        };
        let (clocks, id, view) = (Clocks::default(), own_id.to_owned(), self.view());
        // Threads have ways to other nodes once a client has called there. This one is there whatever clients do.
        let peers = Peers::with_clocks(id.clone(), view.clone(), clocks.clone());
        let judge = clocks::judge(clocks, id, view, refuses_ids, tell);
        self.tasks
            .push(AbortOnDropHandle::new(tokio::spawn(async move {
                let _peers = peers;
                judge.await;
            })));
    }

    /// Tells the others that this node is about to stop: its lanes are theirs as soon as they hear of it. Once it has been
    /// called, what it is about will be done, whether it is waited for or not.
    ///
    /// # Errors
    /// Where that is not so before the deadline.
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

    /// Goes: the others hear of it at once.
    ///
    /// # Errors
    /// Where etcd has not said so before the deadline. The lease then runs out by itself.
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
            // Late, or given up.
            Ok(Err(_)) | Err(_) => Err(match self.state.borrow().problem() {
                Some(Problem::Etcd(error)) => JoinError::Etcd(error),
                _ => JoinError::Late,
            }),
        }
    }
}
