//! Calls: which requests are sent again, and to which endpoint.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::dial;
use super::login::Tokens;
use super::rotation::{BACKOFF, Connection, Rotation};
use super::token::Token;
use super::{Error, Fault, Host, Options};

/// The maximum size of an answer. etcd has no bound of its own for reads, so readers ask for pages that are far
/// smaller.
pub(super) const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Fresh tokens that are refused in a row before the refusal is believed.
pub(super) const MAX_LOGINS: u32 = 3;

/// The state that all calls of a client share.
#[derive(Clone)]
pub(super) struct Caller(Arc<Shared>);

struct Shared {
    rotation: Rotation,
    tokens: Tokens,
}

/// The harm that sending a request twice may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// There is none.
    Repeatable,
    /// The request is executed twice, or late. It is sent again only if it certainly has not arrived, or its token was
    /// refused.
    Once,
}

/// A request that is ready to be sent.
pub(super) struct Prepared<Q> {
    pub(super) connection: Connection,
    pub(super) token: Token,
    pub(super) request: Request<Q>,
}

impl Caller {
    pub(super) fn new(options: Options) -> Self {
        let tokens = Tokens::new(options.login.clone());
        let rotation = Rotation::new(options);
        Self(Arc::new(Shared { rotation, tokens }))
    }

    pub(super) fn rotation(&self) -> &Rotation {
        &self.0.rotation
    }

    pub(super) fn options(&self) -> &Options {
        self.0.rotation.options()
    }

    /// Connects and logs in if necessary.
    pub(super) async fn prepare<Q>(&self, message: Q) -> Result<Prepared<Q>, Fault> {
        let token = self.0.tokens.known();
        let connection = self.rotation().connection(token).await;
        let token = self.0.tokens.token(&connection);
        let token = timeout(self.options().timeouts.attempt, token).await;
        let token = token
            .unwrap_or_else(|_| Err(Fault::late(&connection.host).before_sending()))
            .inspect_err(|fault| self.leave(&connection, fault))?;
        let mut request = Request::new(message);
        token.put(&mut request);
        // With this, a member without a leader reports that at once instead of letting the call wait.
        let yes = MetadataValue::from_static("true");
        request.metadata_mut().insert("hasleader", yes);
        Ok(Prepared {
            connection,
            token,
            request,
        })
    }

    /// Asks one member once, over a connection of its own. The request is sent again only if its token was refused or
    /// missing, since the member has done nothing then. The new token comes from the same member: no other may be fit.
    pub(super) async fn call_at<Q: Clone, A, F>(
        &self,
        host: &Host,
        deadline: Instant,
        message: Q,
        send: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<A, Error>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let asked = async {
            let channel = dial::connect(host, self.options()).await?;
            let ask = |token: Token| {
                let mut request = Request::new(message.clone());
                token.put(&mut request);
                send(channel.clone(), request)
            };
            let answer = match ask(self.0.tokens.known()).await {
                Err(status) if Fault::new(&status, host).token => {
                    let fresh = self.0.tokens.token_at(&channel, host).await;
                    ask(fresh.map_err(|fault| fault.error)?).await
                }
                answer => answer,
            };
            let answer = answer.map_err(|status| Fault::new(&status, host).error);
            answer.map(Response::into_inner)
        };
        let answer = timeout_at(deadline, asked).await;
        answer.unwrap_or_else(|_| Err(Fault::late(host).error))
    }

    /// Leaves the endpoint if it is to blame.
    pub(super) fn leave(&self, connection: &Connection, fault: &Fault) {
        if fault.leave {
            self.rotation().leave(connection);
        }
    }

    /// Forgets the token if it is to blame; `false` if another one would be no better.
    pub(super) async fn renew(&self, token: &Token, fault: &Fault) -> bool {
        fault.token && self.0.tokens.refused(token).await
    }

    /// Asks one endpoint after the other until there is a final answer, or until the deadline.
    pub(super) async fn call<Q: Clone, A, F>(
        &self,
        kind: Kind,
        deadline: Instant,
        message: Q,
        send: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<A, Error>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let mut last = None;
        let mut failures = 0;
        let mut logins = 0;
        loop {
            let prepared = timeout_at(deadline, self.prepare(message.clone())).await;
            let fault = match prepared {
                Err(_) => return Err(last.unwrap_or_else(|| self.rotation().not_connected())),
                Ok(Err(fault)) => fault,
                Ok(Ok(prepared)) => {
                    let end = self.end(kind, failures, deadline);
                    let Prepared {
                        connection,
                        token,
                        request,
                    } = prepared;
                    let answer = timeout_at(end, send(connection.channel.clone(), request)).await;
                    let fault = match answer {
                        Ok(Ok(answer)) => return Ok(answer.into_inner()),
                        Ok(Err(status)) => Fault::new(&status, &connection.host),
                        Err(_) => Fault::late(&connection.host),
                    };
                    self.leave(&connection, &fault);
                    if logins < MAX_LOGINS && self.renew(&token, &fault).await {
                        logins += 1;
                        continue;
                    }
                    fault
                }
            };
            if Instant::now() >= deadline || !self.again(kind, failures, &fault) {
                return Err(fault.error);
            }
            last = Some(fault.error);
            failures += 1;
            if let Some(pause) = self.pause(failures) {
                let _ = timeout_at(deadline, sleep(pause)).await;
            }
        }
    }

    /// The time until which the answer of one endpoint is waited for.
    fn end(&self, kind: Kind, failures: u32, deadline: Instant) -> Instant {
        match kind {
            // No other endpoint could be asked.
            Kind::Once => deadline,
            Kind::Repeatable => {
                let attempt = self.options().timeouts.attempt;
                let longer = attempt.saturating_mul(2_u32.saturating_pow(failures.min(16)));
                deadline.min(Instant::now() + longer)
            }
        }
    }

    /// The pause before the next attempt. The next endpoint is asked at once; only after all have failed is there a
    /// pause.
    fn pause(&self, failures: u32) -> Option<Duration> {
        let round = u32::try_from(self.options().endpoints.len()).unwrap_or(u32::MAX);
        failures
            .checked_sub(round)
            .map(|failures| BACKOFF.after(failures))
    }

    fn again(&self, kind: Kind, failures: u32, fault: &Fault) -> bool {
        let elsewhere = usize::try_from(failures).is_ok_and(|n| n < self.options().endpoints.len());
        let worth_it = fault.error.is_passing() || (fault.leave && elsewhere);
        worth_it && (kind == Kind::Repeatable || fault.unsent)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tonic::Code;
    use tonic::transport::Endpoint;

    use super::super::login::tests::know_token;
    use super::super::{Doubt, Login, Outcome, Refusal};
    use super::*;

    fn caller() -> Caller {
        let address = "etcd://one,two,three".parse().expect("an address");
        Caller::new(Options::new(&address))
    }

    pub fn fault(outcome: Outcome, leave: bool, unsent: bool) -> Fault {
        Fault {
            error: Error::new(outcome, "as a test has it".to_owned()),
            leave,
            unsent,
            token: false,
        }
    }

    /// Connects to the first endpoint, to which nothing is sent.
    fn connect(caller: &Caller) {
        let channel = Endpoint::from_static("http://localhost").connect_lazy();
        caller.rotation().connected(0, channel);
    }

    /// A call is tried again until there is an answer, and ever more slowly once all endpoints have failed.
    #[tokio::test(start_paused = true)]
    async fn a_call_is_tried_again_with_pauses() {
        let caller = caller();
        connect(&caller);
        let tries = AtomicU32::new(0);
        let send = |_, _| {
            let earlier = tries.fetch_add(1, Ordering::Relaxed);
            assert!(earlier < 100, "no pause");
            // Or it would look for another endpoint.
            connect(&caller);
            async move {
                if earlier < 10 {
                    return Err(Status::unavailable("it is not well"));
                }
                Ok(Response::new(()))
            }
        };
        let begun = Instant::now();
        let far = begun + Duration::from_hours(1);
        let answer = caller.call(Kind::Repeatable, far, (), send).await;
        assert_eq!(answer, Ok(()));
        let paused: Duration = (3..=10).filter_map(|n| caller.pause(n)).sum();
        assert!(begun.elapsed() > paused / 4, "{:?}", begun.elapsed());
    }

    /// An endpoint that fails is not asked again at once.
    #[tokio::test]
    async fn an_endpoint_that_fails_is_left() {
        let caller = caller();
        for (code, is_left) in [(Code::Unavailable, true), (Code::ResourceExhausted, false)] {
            connect(&caller);
            let send = |_, _| async move {
                let full = "etcdserver: mvcc: database space exceeded";
                Err::<Response<()>, _>(Status::new(code, full))
            };
            let far = Instant::now() + Duration::from_hours(1);
            let failed = caller.call(Kind::Once, far, (), send).await;
            assert!(failed.is_err());
            assert_eq!(caller.rotation().endpoint().is_none(), is_left, "{code:?}");
        }
    }

    /// A new token is asked for a few times, if one after the other is refused.
    #[tokio::test(start_paused = true)]
    async fn logging_in_comes_to_an_end() {
        let address = "etcd://one".parse().expect("an address");
        let mut options = Options::new(&address);
        options.login = Some(Login {
            user: "sumd".to_owned(),
            password: "pass".to_owned(),
        });
        let caller = Caller::new(options);
        connect(&caller);
        know_token(&caller.0.tokens, 0);
        let tries = AtomicU32::new(0);
        let send = |_, _| {
            let earlier = tries.fetch_add(1, Ordering::Relaxed);
            assert!(earlier < 100, "no end");
            // Or it would log in by itself.
            know_token(&caller.0.tokens, earlier + 1);
            async move {
                Err::<Response<()>, _>(Status::unauthenticated("etcdserver: invalid auth token"))
            }
        };
        let far = Instant::now() + Duration::from_hours(1);
        let refused = caller.call(Kind::Repeatable, far, (), send).await;
        let refused = refused.expect_err("no token will do");
        assert_eq!(refused.outcome, Outcome::Definite(Refusal::NotLoggedIn));
        assert_eq!(tries.into_inner(), 1 + MAX_LOGINS);
    }

    /// A repeatable request waits twice as long each time, but never beyond its caller's deadline. Any other request
    /// waits until that deadline.
    #[tokio::test(start_paused = true)]
    async fn attempts_get_longer() {
        let caller = caller();
        let now = Instant::now();
        let attempt = caller.options().timeouts.attempt;
        let far = now + Duration::from_hours(1);
        for (failures, factor) in [(0, 1), (1, 2), (5, 32)] {
            let end = caller.end(Kind::Repeatable, failures, far);
            assert_eq!(end, now + attempt * factor);
        }
        assert_eq!(caller.end(Kind::Repeatable, u32::MAX, far), far);
        assert_eq!(caller.end(Kind::Once, 0, far), far);
    }

    /// There is no pause until every endpoint has failed once; then there is one before each attempt, which grows.
    #[tokio::test]
    async fn there_is_a_pause_once_all_endpoints_have_failed() {
        let caller = caller();
        let pauses = [1, 2, 3, 5, 8].map(|failures| caller.pause(failures));
        assert_eq!(pauses[..2], [None; 2]);
        assert!(
            pauses[2..].iter().all(Option::is_some) && pauses.is_sorted(),
            "{pauses:?}"
        );
    }

    /// A request is sent again after a passing error, and to each of the other endpoints after an error of one of them.
    /// A request that must not happen twice is sent again only if it certainly was not sent.
    #[tokio::test]
    async fn a_request_is_sent_again_if_that_does_no_harm() {
        let caller = caller();
        let passing = Outcome::Unknown(Doubt::Unavailable);
        let refused = Outcome::Definite(Refusal::Unsupported);
        let (again, once) = (Kind::Repeatable, Kind::Once);
        for (kind, failures, fault, is_sent) in [
            (again, 100, fault(passing, true, false), true),
            (once, 0, fault(passing, true, false), false),
            (once, 100, fault(passing, true, true), true),
            (again, 2, fault(refused, true, false), true),
            (again, 3, fault(refused, true, false), false),
            (again, 0, fault(refused, false, false), false),
            (once, 0, fault(refused, true, false), false),
        ] {
            let sent = caller.again(kind, failures, &fault);
            assert_eq!(sent, is_sent, "{kind:?} {failures} {:?}", fault.error);
        }
    }
}
