//! Leases: keys that expire with their owner.

use std::time::Duration;

use futures_util::stream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status};
use tracing::{debug, warn};

use super::call::{Caller, Kind};
use super::{Client, Error, Outcome, Refusal};
use crate::proto::etcd::etcdserverpb::lease_client::LeaseClient;
use crate::proto::etcd::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseRevokeRequest, LeaseRevokeResponse, LeaseTimeToLiveRequest,
};

/// The id of a lease, never 0.
pub type LeaseId = i64;

/// Keep-alives in a time to live: two may get lost.
const KEEP_ALIVES: u32 = 3;

/// A lease that is kept alive until it is dropped, and then expires.
pub struct Lease {
    id: LeaseId,
    caller: Caller,
    state: watch::Receiver<State>,
    _task: AbortOnDropHandle<()>,
}

/// The known state of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// etcd keeps it until then at least.
    Until(Instant),
    /// etcd has answered that the lease no longer exists.
    Lost,
}

impl Client {
    /// Takes a lease that expires after `ttl` without a keep-alive; etcd may prolong that.
    ///
    /// # Errors
    /// Returns an error if no endpoint has answered before the deadline, or etcd refuses. A lease that was granted all
    /// the same expires.
    pub async fn grant(&self, ttl: Duration, deadline: Instant) -> Result<Lease, Error> {
        let request = LeaseGrantRequest {
            ttl: i64::try_from(ttl.as_secs().max(1)).unwrap_or(i64::MAX),
            // The id is chosen here, so a repeated request is for the same lease.
            id: fastrand::i64(1..),
        };
        let asked = Instant::now();
        let send =
            |channel, request| async move { LeaseClient::new(channel).lease_grant(request).await };
        let answer = self.caller.call(Kind::Repeatable, deadline, request, send);
        let ttl = seconds(granted(answer.await, &request)?);
        let (sender, state) = watch::channel(State::Until(asked + ttl));
        let keeper = Keeper {
            id: request.id,
            caller: self.caller.clone(),
            state: sender,
        };
        Ok(Lease {
            id: request.id,
            caller: self.caller.clone(),
            state,
            _task: AbortOnDropHandle::new(tokio::spawn(keeper.run(asked, ttl))),
        })
    }

    /// The time that any lease has left without another keep-alive, rounded down to the second.
    ///
    /// # Errors
    /// Returns an error if no endpoint has answered before the deadline, or etcd refuses.
    pub async fn time_left(&self, lease: LeaseId, deadline: Instant) -> Result<Duration, Error> {
        let request = LeaseTimeToLiveRequest {
            id: lease,
            keys: false,
        };
        let send = |channel, request| async move {
            LeaseClient::new(channel).lease_time_to_live(request).await
        };
        let asked = self.caller.call(Kind::Repeatable, deadline, request, send);
        Ok(seconds(asked.await?.ttl))
    }
}

impl Lease {
    /// Its id, for the keys that expire with it.
    #[must_use]
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// The time until which etcd keeps the lease at least, as far as is known now; it may keep it longer. `None` once
    /// the lease is lost.
    #[must_use]
    pub fn held_until(&self) -> Option<Instant> {
        match *self.state.borrow() {
            State::Until(end) => Some(end),
            State::Lost => None,
        }
    }

    /// Waits until the lease and its keys are lost, and its owner may take a new one. While etcd cannot be reached
    /// nobody knows, and this waits.
    pub async fn lost(&self) {
        let mut state = self.state.clone();
        // The task ends only after it has reported the loss.
        let _ = state.wait_for(|state| *state == State::Lost).await;
    }

    /// Revokes the lease, which deletes its keys at once.
    ///
    /// # Errors
    /// Returns an error if no endpoint has answered before the deadline, or etcd refuses. The lease then expires.
    pub async fn revoke(self, deadline: Instant) -> Result<(), Error> {
        let request = LeaseRevokeRequest { id: self.id };
        let send =
            |channel, request| async move { LeaseClient::new(channel).lease_revoke(request).await };
        let answer = self.caller.call(Kind::Repeatable, deadline, request, send);
        revoked(answer.await)
    }
}

struct Keeper {
    id: LeaseId,
    caller: Caller,
    state: watch::Sender<State>,
}

impl Keeper {
    /// Keeps the lease alive. Each keep-alive is a stream of its own, on any endpoint that is fit.
    async fn run(self, mut asked: Instant, mut ttl: Duration) {
        loop {
            sleep_until(next_sign(asked, ttl)).await;
            asked = Instant::now();
            let request = LeaseKeepAliveRequest { id: self.id };
            let answer = self
                .caller
                .call(Kind::Repeatable, asked + ttl, request, keep_alive);
            match time_left(answer.await) {
                Ok(Some(more)) => {
                    ttl = more;
                    self.state.send_replace(State::Until(asked + ttl));
                }
                Ok(None) => break,
                Err(error) => {
                    // Only etcd knows whether the lease has expired: a new leader restarts all leases.
                    debug!(lease = self.id, "{error}");
                }
            }
        }
        warn!(lease = self.id, "a lease has expired");
        self.state.send_replace(State::Lost);
    }
}

/// The time of the next keep-alive of a lease with this time to live.
fn next_sign(asked: Instant, ttl: Duration) -> Instant {
    asked + ttl / KEEP_ALIVES
}

/// The time to live of a lease from its request on; `None` if it is gone.
fn time_left(answer: Result<LeaseKeepAliveResponse, Error>) -> Result<Option<Duration>, Error> {
    match answer {
        Ok(answer) => Ok((answer.ttl > 0).then(|| seconds(answer.ttl))),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A lease that etcd does not know counts as revoked.
fn revoked(answer: Result<LeaseRevokeResponse, Error>) -> Result<(), Error> {
    match answer {
        Err(error) if !is_not_found(&error) => Err(error),
        _ => Ok(()),
    }
}

fn is_not_found(error: &Error) -> bool {
    error.outcome == Outcome::Definite(Refusal::LeaseNotFound)
}

async fn keep_alive(
    channel: tonic::transport::Channel,
    request: Request<LeaseKeepAliveRequest>,
) -> Result<Response<LeaseKeepAliveResponse>, Status> {
    let request = request.map(|message| stream::iter([message]));
    let mut answers = LeaseClient::new(channel)
        .lease_keep_alive(request)
        .await?
        .into_inner();
    let answer = answers.message().await?;
    let answer = answer.ok_or_else(|| Status::unavailable("the stream ended without an answer"))?;
    Ok(Response::new(answer))
}

/// The time to live of a requested lease, whichever copy of the request made it.
fn granted(
    answer: Result<LeaseGrantResponse, Error>,
    request: &LeaseGrantRequest,
) -> Result<i64, Error> {
    match answer {
        Ok(granted) => Ok(granted.ttl),
        Err(error) if error.outcome == Outcome::Definite(Refusal::LeaseExists) => Ok(request.ttl),
        Err(error) => Err(error),
    }
}

fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(u64::try_from(ttl).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(refusal: Refusal) -> Error {
        Error::new(Outcome::Definite(refusal), String::new())
    }

    /// Two keep-alives may be lost, and no more of them are sent than that takes.
    #[test]
    fn signs_of_life_are_apart() {
        let asked = Instant::now();
        let next = next_sign(asked, Duration::from_secs(9));
        assert_eq!(next, asked + Duration::from_secs(3));
    }

    /// A lease is gone only if etcd says so. An error proves nothing, since a new leader restarts all leases.
    #[test]
    fn a_lease_is_gone_when_etcd_says_so() {
        let alive = |ttl| {
            let answer = LeaseKeepAliveResponse {
                ttl,
                ..LeaseKeepAliveResponse::default()
            };
            time_left(Ok(answer))
        };
        assert_eq!(alive(9), Ok(Some(Duration::from_secs(9))));
        assert_eq!(alive(0), Ok(None));
        assert_eq!(alive(-1), Ok(None));
        let away = refused(Refusal::NotConnected);
        assert_eq!(time_left(Err(away.clone())), Err(away.clone()));
        assert_eq!(time_left(Err(refused(Refusal::LeaseNotFound))), Ok(None));

        assert_eq!(revoked(Ok(LeaseRevokeResponse::default())), Ok(()));
        assert_eq!(revoked(Err(refused(Refusal::LeaseNotFound))), Ok(()));
        assert_eq!(revoked(Err(away.clone())), Err(away));
    }

    /// If the answer to the first copy is lost, the next copy finds the lease there, since the client chooses its id.
    #[test]
    fn a_lease_that_an_earlier_copy_has_made_is_granted() {
        let request = LeaseGrantRequest { ttl: 9, id: 7 };
        let longer = LeaseGrantResponse {
            ttl: 12,
            ..LeaseGrantResponse::default()
        };
        assert_eq!(granted(Ok(longer), &request), Ok(12));
        let exists = refused(Refusal::LeaseExists);
        assert_eq!(granted(Err(exists), &request), Ok(9));
        let denied = refused(Refusal::Denied);
        assert_eq!(granted(Err(denied.clone()), &request), Err(denied));
    }
}
