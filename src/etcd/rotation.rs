//! The endpoint in use, until another one takes its place.
//!
//! tonic can balance over several endpoints, but goes on choosing dead ones.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tonic::transport::Channel;
use tracing::{debug, info};

use super::dial::connect_to_any;
use super::token::Token;
use super::{Error, Host, Options};
use crate::backoff::Backoff;

/// Bounds of the pause between two failed rounds over all endpoints.
pub(super) const BACKOFF: Backoff = Backoff {
    min: Duration::from_millis(25),
    max: Duration::from_secs(1),
};

/// A connection in use, and its generation.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) channel: Channel,
    pub(super) host: Host,
    generation: u64,
}

pub(super) struct Rotation {
    options: Options,
    state: Mutex<State>,
    /// Held while connecting, so that one caller connects for all.
    dialing: tokio::sync::Mutex<Dialing>,
}

struct State {
    current: Option<Connection>,
    generation: u64,
    /// The endpoint to begin with when there is no connection.
    next: usize,
    /// The error of the last failed round.
    problem: Option<Error>,
}

struct Dialing {
    /// Rounds in a row over all endpoints that have failed.
    failures: u32,
    not_before: Instant,
}

impl Rotation {
    pub(super) fn new(options: Options) -> Self {
        Self {
            state: Mutex::new(State {
                current: None,
                generation: 0,
                // The many clients of one cluster should not all begin with the same member.
                next: fastrand::usize(..options.endpoints.len()),
                problem: None,
            }),
            dialing: tokio::sync::Mutex::new(Dialing {
                failures: 0,
                not_before: Instant::now(),
            }),
            options,
        }
    }

    pub(super) fn options(&self) -> &Options {
        &self.options
    }

    /// The connection, which is made if there is none. The call waits until there is one, and may be cancelled at any
    /// time. A token, if it is known, serves to ask endpoints for their status.
    pub(super) async fn connection(&self, token: Token) -> Connection {
        if let Some(connection) = self.current() {
            return connection;
        }
        let mut dialing = self.dialing.lock().await;
        loop {
            // Another caller may have made it.
            if let Some(connection) = self.current() {
                return connection;
            }
            sleep_until(dialing.not_before).await;
            // The next caller begins elsewhere, since this one may be cancelled.
            let first = self.next();
            match connect_to_any(first, &self.options, &token).await {
                Ok((index, channel)) => {
                    dialing.failures = 0;
                    return self.connected(index, channel);
                }
                Err(error) => {
                    debug!("{error}");
                    dialing.not_before = Instant::now() + BACKOFF.after(dialing.failures);
                    dialing.failures = dialing.failures.saturating_add(1);
                    self.state().problem = Some(error);
                }
            }
        }
    }

    /// Leaves a connection for the next endpoint, unless it was left before. Calls in flight on it go on.
    pub(super) fn leave(&self, connection: &Connection) {
        let mut state = self.state();
        let current = state.current.as_ref();
        if current.is_some_and(|current| current.generation == connection.generation) {
            info!(endpoint = %connection.host, "leaving this endpoint of etcd");
            state.current = None;
        }
    }

    /// The endpoint in use.
    pub(super) fn endpoint(&self) -> Option<Host> {
        self.current().map(|current| current.host)
    }

    /// The reason why there is no connection.
    pub(super) fn not_connected(&self) -> Error {
        let problem = self.state().problem.clone();
        problem.unwrap_or_else(|| Error::not_connected("no connection in time".to_owned()))
    }

    fn current(&self) -> Option<Connection> {
        self.state().current.clone()
    }

    fn next(&self) -> usize {
        let mut state = self.state();
        let next = state.next;
        state.next = (next + 1) % self.options.endpoints.len();
        next
    }

    pub(super) fn connected(&self, index: usize, channel: Channel) -> Connection {
        let mut state = self.state();
        let host = self.options.endpoints[index].clone();
        info!(endpoint = %host, "connected to etcd");
        state.generation += 1;
        state.next = (index + 1) % self.options.endpoints.len();
        state.problem = None;
        let connection = Connection {
            channel,
            host,
            generation: state.generation,
        };
        state.current = Some(connection.clone());
        connection
    }

    /// Never held across an await, and valid after any panic.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tonic::transport::Endpoint;

    use super::*;

    /// The first of the calls that fail on a connection leaves it. Others that fail later do not leave the next
    /// connection.
    #[tokio::test]
    async fn a_connection_is_left_once() {
        let address = "etcd://a:2379,b:2379".parse().expect("an address");
        let rotation = Rotation::new(Options::new(&address));
        let connect = |index| {
            let channel = Endpoint::from_static("http://localhost").connect_lazy();
            rotation.connected(index, channel)
        };
        let first = connect(0);
        rotation.leave(&first);
        assert!(rotation.endpoint().is_none());
        let second = connect(1);
        rotation.leave(&first);
        assert_eq!(rotation.endpoint(), Some(second.host.clone()));
        rotation.leave(&second);
        assert!(rotation.endpoint().is_none());
    }

    /// If no endpoint is fit, all are tried again after a pause, and not at once.
    #[tokio::test]
    async fn rounds_that_fail_are_apart() {
        let closed = super::super::dial::tests::closed();
        let host = closed.local_addr().expect("it is bound");
        let address = format!("etcd://{host}").parse().expect("an address");
        let rotation = Rotation::new(Options::new(&address));
        let begun = Instant::now();
        let connected = rotation.connection(Token::default());
        let some_rounds = tokio::time::timeout(BACKOFF.min * 10, connected);
        assert!(some_rounds.await.is_err());
        let dialing = rotation.dialing.lock().await;
        // At least 12 ms pass, then 25 ms, and so on, however late this is checked.
        let rounds = 2_u32.saturating_pow(dialing.failures.saturating_sub(1)) - 1;
        assert!(BACKOFF.min / 2 * rounds <= begun.elapsed());
    }
}
