//! Clients of every kind, running concurrently.

use std::collections::HashMap;

use fastrand::Rng;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;

use super::finding::found;
use super::history::{History, Wanted};
use super::link::{Context, Link};
use super::operation::{Add, Name, Operation};
use super::readers::Ends;
use super::{readers, sessions, writers};
use crate::support::PATIENCE;

/// The watched counters: whole groups, or some counters of one group by name.
const WATCHED: [(Option<usize>, &str); 6] = [
    (None, "hot"),
    (None, "some"),
    (None, "tally"),
    (None, "replaced"),
    (Some(5), "replaced"),
    (Some(10), "bank"),
];

/// Number of clients that send no ids.
const UNNAMED: usize = 6;

pub struct Crowd {
    context: Context,
    clients: JoinSet<History>,
    watchers: JoinSet<History>,
    ends: watch::Sender<HashMap<Name, i64>>,
}

impl Crowd {
    pub fn start(context: &Context, rng: &mut Rng) -> Self {
        let (ends, seen) = watch::channel(HashMap::new());
        Self {
            context: context.clone(),
            clients: start_clients(context, rng),
            watchers: start_watchers(context, rng, &seen),
            ends,
        }
    }

    /// Adds a client, which has to end when told to stop.
    pub fn join(&mut self, client: impl Future<Output = History> + Send + 'static) {
        self.clients.spawn(client);
    }

    /// Fails if a client ends before it is told to.
    pub async fn early(&mut self) {
        let early = tokio::select! {
            Some(early) = self.clients.join_next() => early,
            Some(early) = self.watchers.join_next() => early,
        };
        history_of(early);
        panic!("somebody has ended early");
    }

    /// Waits until all have ended after being told to stop: first the clients, then the watchers, once they have
    /// received the last changes.
    pub async fn go_home(mut self, rng: &mut Rng) -> History {
        let mut history = History::default();
        // Before that, a client that waits in vain fails with the reason.
        let patience = self.context.servers.outage + PATIENCE;
        let mut next = timeout(patience, self.clients.join_next()).await;
        while let Some(done) = next.expect("clients come to their end") {
            history.add(history_of(done));
            next = timeout(patience, self.clients.join_next()).await;
        }
        let mut link = Link::new(self.context.clone(), rng.fork());
        let mut last = HashMap::new();
        for (_, group) in WATCHED {
            let counter = self.context.names.of(group, 0);
            let operation = Operation::Increment(Add::new(counter.clone(), 0));
            let revision = writers::change(&mut link, operation, &mut history).await;
            last.insert(counter, revision);
        }
        self.ends.send(last).expect("watchers wait for it");
        loop {
            match timeout(PATIENCE, self.watchers.join_next()).await {
                Ok(Some(done)) => history.add(history_of(done)),
                Ok(None) => return history,
                Err(_) => {
                    let operation =
                        Operation::Increment(Add::new(self.context.names.of("hot", 0), 0));
                    writers::change(&mut link, operation, &mut history).await;
                    found("watchers are not told of the last changes, while others are answered");
                }
            }
        }
    }
}

/// The history of a client, or its panic.
fn history_of(done: Result<History, JoinError>) -> History {
    done.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()))
}

fn start_clients(context: &Context, rng: &mut Rng) -> JoinSet<History> {
    let mut clients = JoinSet::new();
    let mut link = || Link::new(context.clone(), rng.fork());
    for (work, count) in writers::WORKS {
        for _ in 0..count {
            clients.spawn(writers::with_ids(link(), work));
        }
    }
    for who in 0..UNNAMED {
        clients.spawn(writers::without_ids(link(), who));
    }
    for who in 0..sessions::RECORDERS {
        clients.spawn(sessions::record(link(), who));
    }
    for _ in 0..readers::READERS {
        clients.spawn(readers::read(link()));
    }
    clients
}

fn start_watchers(context: &Context, rng: &mut Rng, ends: &Ends) -> JoinSet<History> {
    let mut watchers = JoinSet::new();
    let names = &context.names;
    for (named, group) in WATCHED {
        let wanted = match named {
            Some(count) => Wanted::Names((0..count).map(|i| names.of(group, i)).collect()),
            None => Wanted::Prefix(names.prefix(group)),
        };
        let link = Link::new(context.clone(), rng.fork());
        let end = names.of(group, 0);
        watchers.spawn(readers::watch(link, wanted, end, ends.clone()));
    }
    watchers
}
