//! Increments in bulk, each exactly once: a session that outlives its streams, the server and this program.
//!
//!     cargo run --example bulk -- localhost:8080 SESSION_ID MESSAGES
//!
//! The session's id is a `UUIDv7`, which carries its time. With the same id the program goes on where an earlier run
//! has ended, and counts nothing twice.

use std::{collections::VecDeque, env, error::Error, time::Duration};

use tokio::{sync::mpsc, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;
use uuid::Uuid;

use pb::{
    Increment, RecordIncrementsRequest, RecordIncrementsResponse,
    counter_service_client::CounterServiceClient,
};

#[allow(clippy::pedantic)]
mod pb {
    tonic::include_proto!("sum.v1");
}

/// The pause before another stream, and the number of streams in a row without progress after which the program gives up.
const PAUSE: Duration = Duration::from_millis(200);
const MAX_ATTEMPTS: u32 = 50;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "localhost:8080".to_owned());
    let id = args.next().unwrap_or_else(|| Uuid::now_v7().to_string());
    let messages = args.next().map_or(Ok(100), |count| count.parse())?;

    let channel = Endpoint::from_shared(format!("http://{address}"))?.connect_lazy();
    let mut counters = CounterServiceClient::new(channel);
    let mut session = Session {
        id,
        acknowledged: 0,
        messages: (1..=messages).map(message).collect(),
    };
    let (mut known, mut attempts) = (0, 0);
    while let Err(status) = session.stream(&mut counters).await {
        attempts = if session.acknowledged > known {
            0
        } else {
            attempts + 1
        };
        known = session.acknowledged;
        if attempts == MAX_ATTEMPTS || !is_worth_a_retry(&status) {
            return Err(status.into());
        }
        sleep(PAUSE).await;
    }
    println!("acknowledged={}", session.acknowledged);
    Ok(())
}

/// The message with this number: a hundred increments. It is the same each time.
fn message(sequence: u64) -> RecordIncrementsRequest {
    let increments = (0..100).map(|page| Increment {
        counter: format!("acme/page-{}", page % 4),
        delta: 1,
        ..Default::default()
    });
    RecordIncrementsRequest {
        sequence,
        increments: increments.collect(),
        ..Default::default()
    }
}

struct Session {
    id: String,
    acknowledged: u64,
    /// The messages after that one.
    messages: VecDeque<RecordIncrementsRequest>,
}

impl Session {
    /// Sends messages on one stream until all are acknowledged.
    async fn stream(&mut self, counters: &mut CounterServiceClient<Channel>) -> Result<(), Status> {
        let (requests, queue) = mpsc::channel(16);
        // The first message names the session. Its response has the last message that the server has applied.
        let mut hello = self.without_increments();
        hello.session_id.clone_from(&self.id);
        let _ = requests.send(hello).await;
        let responses = counters.record_increments(ReceiverStream::new(queue));
        let mut responses = responses.await?.into_inner();
        // The number of unacknowledged messages that were sent on this stream, and its limit.
        let (mut sent, mut window) = (0, 0);
        while !self.messages.is_empty() {
            tokio::select! {
                response = responses.message() => {
                    let response = response?.ok_or_else(|| Status::unavailable("the stream ended"))?;
                    sent -= self.acknowledge(&response).min(sent);
                    window = response.window as usize;
                }
                Ok(room) = requests.reserve(), if sent < window.min(self.messages.len()) => {
                    let mut message = self.messages[sent].clone();
                    message.acknowledged = self.acknowledged;
                    room.send(message);
                    sent += 1;
                }
            }
        }
        // The last message tells the server that all failures are known here.
        let _ = requests.send(self.without_increments()).await;
        drop(requests);
        while responses.message().await?.is_some() {}
        Ok(())
    }

    fn without_increments(&self) -> RecordIncrementsRequest {
        RecordIncrementsRequest {
            acknowledged: self.acknowledged,
            ..Default::default()
        }
    }

    /// Drops the messages that a response acknowledges, and returns their number.
    fn acknowledge(&mut self, response: &RecordIncrementsResponse) -> usize {
        for failure in &response.failures {
            // A failure comes again until the server learns that it is known here.
            if failure.sequence > self.acknowledged {
                let (sequence, index) = (failure.sequence, failure.index);
                eprintln!("increment {index} of message {sequence} failed");
            }
        }
        self.acknowledged = self.acknowledged.max(response.acknowledged);
        let before = self.messages.len();
        let acknowledged =
            |message: &RecordIncrementsRequest| message.sequence <= self.acknowledged;
        while self.messages.front().is_some_and(acknowledged) {
            self.messages.pop_front();
        }
        before - self.messages.len()
    }
}

/// Whether another stream may go on: the server asks for it, or the error is not from the server.
fn is_worth_a_retry(status: &Status) -> bool {
    let details = status.get_error_details();
    details.retry_info().is_some() || details.error_info().is_none()
}
