//! The one endpoint that is asked, until another one takes its place.
//!
//! tonic can balance over several by itself, but goes on choosing dead ones.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tonic::transport::Channel;
use tracing::{debug, info};

use super::dial::connect_to_any;
use super::token::Token;
use super::{Error, Host, Options};

/// Between two rounds over all endpoints of which none would do: it grows from the one to the other.
const MIN_BACKOFF: Duration = Duration::from_millis(25);
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// A connection in use, and which one it is.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) channel: Channel,
    pub(super) host: Host,
    generation: u64,
}

pub(super) struct Rotation {
    options: Options,
    state: Mutex<State>,
    /// Held while connecting, so that one connects for all.
    dialing: tokio::sync::Mutex<Dialing>,
}

struct State {
    current: Option<Connection>,
    generation: u64,
    /// The endpoint to begin with, when there is no connection.
    next: usize,
    /// Why no endpoint would do, the last time.
    problem: Option<Error>,
}

struct Dialing {
    /// Rounds over all endpoints, one after the other, that have failed.
    failures: u32,
    not_before: Instant,
}

impl Rotation {
    pub(super) fn new(options: Options) -> Self {
        Self {
            state: Mutex::new(State {
                current: None,
                generation: 0,
                // Many clients of one cluster should not all begin with the same member.
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

    /// The connection, which is made if there is none: this comes back when there is one, and may be given up at any
    /// time. The token, if there is one already, is for asking how an endpoint is.
    pub(super) async fn connection(&self, token: Token) -> Connection {
        if let Some(connection) = self.current() {
            return connection;
        }
        let mut dialing = self.dialing.lock().await;
        loop {
            // Somebody else may have made it.
            if let Some(connection) = self.current() {
                return connection;
            }
            sleep_until(dialing.not_before).await;
            // Whoever comes next does not begin where this one may have been given up.
            let first = self.next();
            match connect_to_any(first, &self.options, &token).await {
                Ok((index, channel)) => {
                    dialing.failures = 0;
                    return self.connected(index, channel);
                }
                Err(error) => {
                    debug!("{error}");
                    dialing.not_before = Instant::now() + backoff(dialing.failures);
                    dialing.failures = dialing.failures.saturating_add(1);
                    self.state().problem = Some(error);
                }
            }
        }
    }

    /// Leaves a connection for the next endpoint, unless that was done before. Calls in flight on it go on.
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

    /// Why there has been no connection.
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

    fn connected(&self, index: usize, channel: Channel) -> Connection {
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

    /// Never held across a wait, and whole whatever panics.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long to wait after so many failures: twice as long each time, and at random, so that many clients do not come
/// back all at once.
pub(super) fn backoff(failures: u32) -> Duration {
    let longest = MIN_BACKOFF * 2_u32.saturating_pow(failures.min(16));
    let longest = longest.min(MAX_BACKOFF);
    longest.mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use tonic::transport::Endpoint;

    use super::*;

    /// Of all the calls that fail on a connection the first leaves it. The others, however late they fail, do not leave the
    /// next one for that.
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

    /// While no endpoint would do, all are tried again after a while, and not at once.
    #[tokio::test]
    async fn rounds_that_fail_are_apart() {
        let closed = super::super::dial::tests::closed();
        let host = closed.local_addr().expect("it is bound");
        let address = format!("etcd://{host}").parse().expect("an address");
        let rotation = Rotation::new(Options::new(&address));
        let begun = Instant::now();
        let connected = rotation.connection(Token::default());
        let some_rounds = tokio::time::timeout(MIN_BACKOFF * 10, connected);
        assert!(some_rounds.await.is_err());
        let dialing = rotation.dialing.lock().await;
        // 12 ms go by at least, then 25 ms, and so on, however late this is looked at.
        let rounds = 2_u32.saturating_pow(dialing.failures.saturating_sub(1)) - 1;
        assert!(MIN_BACKOFF / 2 * rounds <= begun.elapsed());
    }

    #[test]
    fn backoff_grows_and_ends() {
        for failures in [0, 1, 5, 6, 31, 32, u32::MAX] {
            let longest = MIN_BACKOFF * 2_u32.saturating_pow(failures.min(16));
            let wait = backoff(failures);
            assert!(wait <= longest.min(MAX_BACKOFF) && wait >= MIN_BACKOFF / 2);
        }
    }
}
