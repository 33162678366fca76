//! Watches: every change of some keys, in order, each once, whatever becomes of the endpoints.

mod events;

pub use events::Batch;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status, Streaming};
use tracing::debug;

use super::call::{Caller, MAX_ANSWER_BYTES, MAX_LOGINS, Prepared};
use super::request::prefix_range;
use super::rotation::{Connection, backoff};
use super::token::Token;
use super::{Client, Error, Fault};
use crate::proto::etcd::etcdserverpb::watch_client::WatchClient;
use crate::proto::etcd::etcdserverpb::watch_request::RequestUnion;
use crate::proto::etcd::etcdserverpb::{
    WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use events::{Events, OutOfOrder};

/// Batches that wait for a reader who is slow, before the stream is no longer read. Each is some MiB at most.
const QUEUED_BATCHES: usize = 16;

/// The request to watch, and one after it.
const QUEUED_REQUESTS: usize = 2;

/// How many times the patience with a silent watch doubles: it may have a long history to go through.
const MAX_DOUBLINGS: u32 = 5;

/// A watch, until it is dropped.
pub struct Watch {
    batches: mpsc::Receiver<Result<Batch, WatchError>>,
    _task: AbortOnDropHandle<()>,
}

/// A watch has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchError {
    /// What happened before this revision is forgotten, and not all of it was told: read anew, and watch from there.
    Compacted {
        /// The first revision that can be watched from.
        revision: i64,
    },
    /// etcd has told things out of order, as versions below the floors may: read anew, and watch from there.
    OutOfOrder,
    /// etcd refuses it.
    Refused(Error),
}

impl fmt::Display for WatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compacted { revision } => {
                write!(
                    f,
                    "etcd has forgotten what happened before revision {revision}"
                )
            }
            Self::OutOfOrder => write!(f, "etcd has told changes out of order"),
            Self::Refused(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for WatchError {}

impl Client {
    /// Watches the keys with a prefix, from a revision on: the one after a read, 1 at least.
    #[must_use]
    pub fn watch(&self, prefix: impl Into<Bytes>, from: i64) -> Watch {
        let (key, range_end) = prefix_range(prefix.into());
        let (sender, batches) = mpsc::channel(QUEUED_BATCHES);
        let watcher = Watcher {
            caller: self.caller.clone(),
            key,
            range_end,
            events: Events::new(from.max(1)),
            batches: sender,
            silences: 0,
            failures: 0,
        };
        Watch {
            batches,
            _task: AbortOnDropHandle::new(tokio::spawn(watcher.run())),
        }
    }
}

impl Watch {
    /// What has happened next. It may be given up at any time, and loses nothing.
    ///
    /// # Errors
    /// Once, where the watch has ended; after that it waits for ever.
    pub async fn next(&mut self) -> Result<Batch, WatchError> {
        match self.batches.recv().await {
            Some(next) => next,
            None => std::future::pending().await,
        }
    }
}

struct Watcher {
    caller: Caller,
    key: Bytes,
    range_end: Bytes,
    events: Events,
    batches: mpsc::Sender<Result<Batch, WatchError>>,
    /// Streams, one after the other, that were ended for their silence.
    silences: u32,
    /// Streams, one after the other, that have told nothing.
    failures: u32,
}

/// A watch on one endpoint.
struct Stream {
    connection: Connection,
    token: Token,
    requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
}

/// Why a stream is not read any more.
enum End {
    /// Nobody listens.
    Dropped,
    /// It would end the same way again.
    Final(WatchError),
    /// Another one may do better.
    Again,
}

impl Watcher {
    async fn run(mut self) {
        loop {
            let end = match self.open().await {
                Ok(stream) => self.read(stream).await,
                Err(end) => end,
            };
            match end {
                End::Dropped => return,
                End::Final(error) => {
                    // Whoever has gone does not need to know.
                    let _ = self.batches.send(Err(error)).await;
                    return;
                }
                End::Again => {
                    sleep(backoff(self.failures)).await;
                    self.failures = self.failures.saturating_add(1);
                }
            }
        }
    }

    /// Asks for what has not been told.
    async fn open(&mut self) -> Result<Stream, End> {
        let (requests, queue) = mpsc::channel(QUEUED_REQUESTS);
        let create = WatchCreateRequest {
            key: self.key.clone(),
            range_end: self.range_end.clone(),
            start_revision: self.events.resume(),
            progress_notify: true,
            fragment: true,
            ..WatchCreateRequest::default()
        };
        send(&requests, RequestUnion::CreateRequest(create));
        let queue = stream::unfold(queue, async |mut queue| {
            queue.recv().await.map(|request| (request, queue))
        });
        let prepared = self.caller.prepare(queue).await;
        let Prepared {
            connection,
            token,
            request,
        } = prepared.map_err(failed)?;
        let channel = connection.channel.clone();
        let mut client = WatchClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
        let opened = timeout(self.patience(), client.watch(request)).await;
        match opened {
            Ok(Ok(responses)) => Ok(Stream {
                connection,
                token,
                requests,
                responses: responses.into_inner(),
            }),
            Ok(Err(status)) => Err(self.broken(&connection, &token, &status).await),
            Err(_) => Err(self.silent(&connection)),
        }
    }

    async fn read(&mut self, mut stream: Stream) -> End {
        let progress = self.caller.options().timeouts.progress;
        let mut asked = false;
        loop {
            let wait = if asked { self.patience() } else { progress };
            let response = match timeout(wait, stream.responses.message()).await {
                Ok(Ok(Some(response))) => response,
                Ok(ended) => {
                    let status = ended.err();
                    let status = status.unwrap_or_else(|| Status::unavailable("the watch ended"));
                    return self
                        .broken(&stream.connection, &stream.token, &status)
                        .await;
                }
                Err(_) if asked => return self.silent(&stream.connection),
                Err(_) => {
                    asked = true;
                    let ask = RequestUnion::ProgressRequest(WatchProgressRequest {});
                    send(&stream.requests, ask);
                    continue;
                }
            };
            asked = false;
            if response.canceled {
                return self.cancelled(&stream, &response).await;
            }
            if response.created {
                continue;
            }
            self.silences = 0;
            self.failures = 0;
            match self.events.take(response) {
                Ok(None) => {}
                Ok(Some(batch)) => {
                    if self.batches.send(Ok(batch)).await.is_err() {
                        return End::Dropped;
                    }
                }
                Err(OutOfOrder) => return End::Final(WatchError::OutOfOrder),
            }
        }
    }

    /// How long to wait for an answer that may need a long history to be gone through.
    fn patience(&self) -> Duration {
        let silence = self.caller.options().timeouts.silence;
        doubled(silence, self.silences)
    }

    /// etcd does not want this watch, for a reason that may or may not pass.
    async fn cancelled(&self, stream: &Stream, response: &WatchResponse) -> End {
        if response.compact_revision > 0 {
            return End::Final(WatchError::Compacted {
                revision: response.compact_revision,
            });
        }
        // An error that was turned into text: the code that went with it is lost.
        let said = response.cancel_reason.as_str();
        let said = said.rsplit_once("desc = ").map_or(said, |(_, said)| said);
        let status = Status::new(Code::Unknown, said);
        self.broken(&stream.connection, &stream.token, &status)
            .await
    }

    /// The stream has ended with an error.
    async fn broken(&self, connection: &Connection, token: &Token, status: &Status) -> End {
        let fault = Fault::new(status, &connection.host);
        self.caller.leave(connection, &fault);
        if self.failures < MAX_LOGINS && self.caller.renew(token, &fault).await {
            return End::Again;
        }
        failed(fault)
    }

    /// Nothing has come for too long, though it was asked for.
    fn silent(&mut self, connection: &Connection) -> End {
        debug!(endpoint = %connection.host, "a watch has fallen silent");
        self.silences = self.silences.saturating_add(1);
        self.caller.rotation().leave(connection);
        End::Again
    }
}

/// Twice as long after each time that was not enough, up to a bound.
fn doubled(wait: Duration, times: u32) -> Duration {
    wait * 2_u32.pow(times.min(MAX_DOUBLINGS))
}

fn failed(fault: Fault) -> End {
    debug!("a watch has ended: {}", fault.error);
    if fault.error.is_definite() && !fault.error.is_passing() && !fault.leave {
        return End::Final(WatchError::Refused(fault.error));
    }
    End::Again
}

/// A member that does not read what it is asked has been asked already.
fn send(requests: &mpsc::Sender<WatchRequest>, request: RequestUnion) {
    let request_union = Some(request);
    let _ = requests.try_send(WatchRequest { request_union });
}

#[cfg(test)]
mod tests {
    use super::super::call::tests::fault;
    use super::super::{Doubt, Outcome, Refusal};
    use super::*;

    /// A watch goes on elsewhere unless etcd has refused it for good, whichever member is asked.
    #[test]
    fn a_watch_ends_when_it_is_refused_for_good() {
        for (outcome, leave, is_final) in [
            (Outcome::Definite(Refusal::Denied), false, true),
            (Outcome::Definite(Refusal::Denied), true, false),
            (Outcome::Definite(Refusal::NoLeader), false, false),
            (Outcome::Unknown(Doubt::Unavailable), false, false),
        ] {
            let ended = failed(fault(outcome, leave, false));
            assert_eq!(matches!(ended, End::Final(_)), is_final, "{outcome:?}");
        }
    }

    #[test]
    fn patience_grows_and_ends() {
        let second = Duration::from_secs(1);
        assert_eq!(
            [0, 1, 2].map(|times| doubled(second, times).as_secs()),
            [1, 2, 4]
        );
        assert_eq!(doubled(second, u32::MAX), doubled(second, MAX_DOUBLINGS));
    }

    #[test]
    fn an_end_is_told_with_its_reason() {
        let compacted = WatchError::Compacted { revision: 7 }.to_string();
        assert_eq!(
            compacted,
            "etcd has forgotten what happened before revision 7"
        );
        assert!(WatchError::OutOfOrder.to_string().contains("out of order"));
    }
}
