//! A replacement for the service config of other languages: round robin over the healthy servers,
//! and another attempt on the next server if one is unavailable.
//!
//! tonic's own `Channel::balance_list` keeps choosing servers that are down. So each server has a
//! channel of its own here, which reconnects by itself, and a task that watches its health.

use std::{
    error::Error as _,
    iter,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};
use tonic::{
    Code, Request, Response, Status, TimeoutExpired,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_types::StatusExt as _;

const MAX_ATTEMPTS: u32 = 4;
const INITIAL_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// Rotates over the servers that report themselves healthy. Clones share everything.
#[derive(Clone)]
pub struct Balancer {
    channels: Arc<[Channel]>,
    /// Whether the server of each channel is serving.
    serving: watch::Receiver<Vec<bool>>,
    turn: Arc<AtomicUsize>,
    /// Aborts the watching tasks when the last clone is dropped.
    _watchers: Arc<JoinSet<()>>,
}

impl Balancer {
    /// Needs a tokio runtime. Connects in the background: servers may come and go later.
    pub fn new(endpoints: Vec<Endpoint>, service: &'static str) -> Self {
        let (health, serving) = watch::channel(vec![false; endpoints.len()]);
        let mut watchers = JoinSet::new();
        let channels = endpoints.into_iter().enumerate().map(|(i, endpoint)| {
            let channel = endpoint
                .connect_timeout(Duration::from_secs(1))
                // Detects a machine that vanished without closing its connections.
                .http2_keep_alive_interval(Duration::from_secs(10))
                .keep_alive_timeout(Duration::from_secs(2))
                .connect_lazy();
            watchers.spawn(watch_health(channel.clone(), service, health.clone(), i));
            channel
        });
        Self {
            channels: channels.collect(),
            serving,
            turn: Arc::default(),
            _watchers: Arc::new(watchers),
        }
    }

    /// The channel of the next healthy server; waits until there is one.
    ///
    /// This is enough for a stream, which cannot be repeated once it has begun.
    pub async fn next(&self, deadline: Instant) -> Result<Channel, Status> {
        let mut serving = self.serving.clone();
        let any = timeout_at(deadline, serving.wait_for(|all| all.contains(&true)));
        let Ok(Ok(serving)) = any.await else {
            return Err(Status::deadline_exceeded("no server became healthy"));
        };
        let turn = self.turn.fetch_add(1, Relaxed);
        let healthy = (0..serving.len())
            .map(|offset| turn.wrapping_add(offset) % serving.len())
            .find(|&i| serving[i])
            .expect("one is healthy");
        Ok(self.channels[healthy].clone())
    }

    /// Makes a unary call; each attempt goes to the next healthy server. Use it only for requests
    /// that may be repeated: those that change nothing, or that carry an id by which the server
    /// recognizes a repeat.
    pub async fn call<Q: Clone, A>(
        &self,
        message: Q,
        timeout: Duration,
        method: impl AsyncFn(Channel, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<A, Status> {
        let deadline = Instant::now() + timeout;
        let mut backoff = Backoff::default();
        let mut attempt = 1;
        loop {
            let channel = self.next(deadline).await?;
            let mut request = Request::new(message.clone());
            // Sets the `grpc-timeout` header, so that the server gives up at the deadline, too.
            request.set_timeout(deadline - Instant::now());
            let status = match method(channel, request).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => by_the_book(status),
            };
            // An overloaded server says when to retry.
            let asked = status.get_details_retry_info().and_then(|r| r.retry_delay);
            let wait = asked.unwrap_or_else(|| backoff.next());
            if status.code() != Code::Unavailable
                || attempt == MAX_ATTEMPTS
                || Instant::now() + wait >= deadline
            {
                return Err(status);
            }
            sleep(wait).await;
            attempt += 1;
        }
    }
}

/// Keeps `health[i]` true while the server behind `channel` reports that `service` is serving.
async fn watch_health(
    channel: Channel,
    service: &'static str,
    health: watch::Sender<Vec<bool>>,
    i: usize,
) {
    let mut client = HealthClient::new(channel);
    let mut backoff = Backoff::default();
    loop {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        if let Ok(response) = client.watch(request).await {
            let mut updates = response.into_inner();
            while let Ok(Some(update)) = updates.message().await {
                health.send_modify(|all| all[i] = update.status() == ServingStatus::Serving);
                backoff = Backoff::default();
            }
        }
        health.send_modify(|all| all[i] = false);
        sleep(backoff.next()).await;
    }
}

/// Pauses between attempts: each twice the last, with jitter, so that the clients of a server that
/// died do not all come to the next one together.
pub struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(INITIAL_BACKOFF)
    }
}

impl Backoff {
    pub fn next(&mut self) -> Duration {
        let pause = self.0.mul_f64(0.8 + 0.4 * fastrand::f64());
        self.0 = MAX_BACKOFF.min(self.0 * 2);
        pause
    }
}

/// Gives a failure of the transport the code that gRPC has for it in other languages.
///
/// tonic reports a connection that broke under a call as UNKNOWN, INTERNAL or CANCELLED, and a
/// deadline that the client noticed as CANCELLED. Such a status has a source; one sent by a server
/// never has.
pub fn by_the_book(status: Status) -> Status {
    match iter::successors(status.source(), |&cause| cause.source()).last() {
        None => status,
        Some(cause) if cause.is::<TimeoutExpired>() => {
            Status::deadline_exceeded("the deadline has passed")
        }
        Some(cause) => Status::unavailable(format!("the connection failed: {cause}")),
    }
}
