//! Watches: every change of some keys, in order, each once, in spite of failing endpoints.

mod events;

pub use events::Batch;

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
use super::rotation::{BACKOFF, Connection};
use super::token::Token;
use super::{Client, Error, Fault};
use crate::proto::etcd::etcdserverpb::watch_client::WatchClient;
use crate::proto::etcd::etcdserverpb::watch_request::RequestUnion;
use crate::proto::etcd::etcdserverpb::{
    WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use events::{Events, OutOfOrder};

/// Batches that wait for a slow reader before the stream is no longer read. Each is some MiB at most.
const QUEUED_BATCHES: usize = 16;

/// The create request, and one after it.
const QUEUED_REQUESTS: usize = 2;

/// How often the timeout of a silent watch doubles: the member may have a long history to go through.
const MAX_DOUBLINGS: u32 = 5;

/// A watch, which ends when it is dropped.
pub struct Watch {
    batches: mpsc::Receiver<Result<Batch, WatchError>>,
    _task: AbortOnDropHandle<()>,
}

/// The reason why a watch has ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The history before this revision is compacted, and not all of it was delivered: read again, and watch from
    /// there.
    #[error("etcd has compacted the changes before revision {revision}")]
    Compacted {
        /// The first revision that can be watched from.
        revision: i64,
    },
    /// etcd has sent events out of order, as versions with known bugs may: read again, and watch from there.
    #[error("etcd has sent changes out of order")]
    OutOfOrder,
    /// etcd refuses the watch.
    #[error(transparent)]
    Refused(Error),
}

impl Client {
    /// Watches the keys with a prefix from a revision on: the one after a read, at least 1.
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
    /// The next batch. The call may be cancelled at any time, and loses nothing.
    ///
    /// # Errors
    /// Returns an error once if the watch has ended; after that it waits for ever.
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
    /// Streams in a row that were ended because of their silence.
    silences: u32,
    /// Streams in a row that delivered nothing.
    failures: u32,
}

/// A watch on one endpoint.
struct Stream {
    connection: Connection,
    token: Token,
    requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
}

/// The reason why a stream is no longer read.
enum End {
    /// The watch was dropped.
    Dropped,
    /// Another stream would end the same way.
    Final(WatchError),
    /// Another stream may do better.
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
                    // The receiver may have gone.
                    let _ = self.batches.send(Err(error)).await;
                    return;
                }
                End::Again => {
                    sleep(BACKOFF.after(self.failures)).await;
                    self.failures = self.failures.saturating_add(1);
                }
            }
        }
    }

    /// Opens a stream for the events that have not been delivered.
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

    /// The timeout of an answer for which etcd may have to go through a long history.
    fn patience(&self) -> Duration {
        let silence = self.caller.options().timeouts.silence;
        doubled(silence, self.silences)
    }

    /// Handles a watch that etcd has cancelled, for a reason that may or may not pass.
    async fn cancelled(&self, stream: &Stream, response: &WatchResponse) -> End {
        if response.compact_revision > 0 {
            return End::Final(WatchError::Compacted {
                revision: response.compact_revision,
            });
        }
        // The reason is the text of an error, without its code.
        let said = response.cancel_reason.as_str();
        let said = said.rsplit_once("desc = ").map_or(said, |(_, said)| said);
        let status = Status::new(Code::Unknown, said);
        self.broken(&stream.connection, &stream.token, &status)
            .await
    }

    /// Handles a stream that has ended with an error.
    async fn broken(&self, connection: &Connection, token: &Token, status: &Status) -> End {
        let fault = Fault::new(status, &connection.host);
        self.caller.leave(connection, &fault);
        if self.failures < MAX_LOGINS && self.caller.renew(token, &fault).await {
            return End::Again;
        }
        failed(fault)
    }

    /// Handles a stream that was silent for too long, although it was asked.
    fn silent(&mut self, connection: &Connection) -> End {
        debug!(endpoint = %connection.host, "a watch received nothing in time");
        self.silences = self.silences.saturating_add(1);
        self.caller.rotation().leave(connection);
        End::Again
    }
}

/// The wait, doubled for each time that it was too short, up to a bound.
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

/// Sends a request unless the queue is full: a member that reads no requests has been asked already.
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
            "etcd has compacted the changes before revision 7"
        );
        assert!(WatchError::OutOfOrder.to_string().contains("out of order"));
    }
}
