//! A bulk session: increments by the thousand, each exactly once.

use std::{collections::VecDeque, io, mem, thread, time::Duration};

use prost_types::Timestamp;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use tonic_types::RpcStatusExt as _;

use crate::{
    Failure,
    balancer::{Backoff, Balancer, by_the_book},
    connect,
    errors::code_name,
    integer, not_a,
    pb::{
        Increment, RecordIncrementsRequest, RecordIncrementsResponse,
        counter_service_client::CounterServiceClient,
    },
};

const INCREMENTS_PER_MESSAGE: usize = 100;
/// The longest time to retry without progress.
const PATIENCE: Duration = Duration::from_secs(30);

/// Adds each line of standard input exactly once. After a crash of the client, the same command
/// with the same input finishes the work: acknowledged messages are not sent again.
pub async fn record(addresses: &str, session_id: &str, time_ms: &str) -> Result<(), Failure> {
    let servers = connect(addresses)?;
    let millis = integer(time_ms).map_err(Failure::Usage)?;
    // A read of standard input cannot be cancelled, and would keep the runtime from ending.
    let (messages, input) = mpsc::channel(1);
    let reader = thread::spawn(move || read(&messages));
    let mut session = Session {
        id: session_id.to_owned(),
        // A UUIDv7 carries its time.
        time: (millis != 0).then(|| Timestamp {
            seconds: millis.div_euclid(1000),
            nanos: 1_000_000 * i32::try_from(millis.rem_euclid(1000)).expect("below 1000"),
        }),
        input,
        input_ended: false,
        read: 0,
        acknowledged: 0,
        unacknowledged: VecDeque::new(),
        failed: 0,
        progress: false,
    };
    let done = session.run(&servers).await;
    println!(
        "acknowledged={} failed={}",
        session.acknowledged, session.failed
    );
    done?;
    reader.join().expect("the reader does not panic")
}

/// Stops at an invalid line, and leaves out its message. So messages have the same numbers and
/// contents when the command runs again with the line fixed.
fn read(messages: &mpsc::Sender<Vec<Increment>>) -> Result<(), Failure> {
    let mut message = Vec::new();
    for (number, line) in (1..).zip(io::stdin().lines()) {
        let increment = line
            .map_err(|error| error.to_string())
            .and_then(|line| parse(&line))
            .map_err(|error| Failure::Input(format!("line {number}: {error}")))?;
        message.push(increment);
        if message.len() == INCREMENTS_PER_MESSAGE
            && messages.blocking_send(message.split_off(0)).is_err()
        {
            return Ok(()); // The session has failed.
        }
    }
    if !message.is_empty() {
        let _ = messages.blocking_send(message);
    }
    Ok(())
}

fn parse(line: &str) -> Result<Increment, String> {
    // A counter's name may have spaces.
    let (counter, delta) = line
        .rsplit_once(' ')
        .ok_or_else(|| not_a("counter and a delta", line))?;
    Ok(Increment {
        counter: counter.to_owned(),
        delta: integer(delta)?,
        ..Default::default()
    })
}

/// A session outlives its streams: unacknowledged messages are kept, and sent again, unchanged, on
/// the next stream.
struct Session {
    id: String,
    time: Option<Timestamp>,
    /// The increments of one message each.
    input: mpsc::Receiver<Vec<Increment>>,
    input_ended: bool,
    /// The number of messages that were read from the input.
    read: u64,
    acknowledged: u64,
    /// The messages `acknowledged` + 1, `acknowledged` + 2 and so on.
    unacknowledged: VecDeque<RecordIncrementsRequest>,
    failed: u64,
    /// Whether there was progress since this was false.
    progress: bool,
}

impl Session {
    fn done(&self) -> bool {
        self.input_ended && self.unacknowledged.is_empty()
    }

    /// Opens one stream after the other until all messages are acknowledged.
    async fn run(&mut self, servers: &Balancer) -> Result<(), Failure> {
        let (mut backoff, mut give_up) = (Backoff::default(), Instant::now() + PATIENCE);
        while !self.done() {
            let Err(status) = self.stream(servers, give_up).await.map_err(by_the_book) else {
                break;
            };
            let may_pass = matches!(
                status.code(),
                Code::Unavailable // the stream broke, or the server is stopping
                    | Code::DeadlineExceeded // the input was silent for too long
                    // The server's memory is full, or failures are to be acknowledged first.
                    | Code::ResourceExhausted
            );
            if mem::take(&mut self.progress) {
                (backoff, give_up) = (Backoff::default(), Instant::now() + PATIENCE);
            }
            let pause = backoff.next();
            if !may_pass || Instant::now() + pause > give_up {
                return Err(Failure::Call(status));
            }
            sleep(pause).await;
        }
        Ok(())
    }

    /// Exchanges messages on one stream.
    async fn stream(&mut self, servers: &Balancer, deadline: Instant) -> Result<(), Status> {
        let channel = servers.next(deadline).await?;
        let (requests, queue) = mpsc::channel(1);
        // This names the session. The response has the last acknowledged message, and the window.
        let hello = RecordIncrementsRequest {
            session_id: self.id.clone(),
            session_time: self.time,
            acknowledged: self.acknowledged,
            ..Default::default()
        };
        requests.try_send(hello).expect("it is the first");
        let mut client = CounterServiceClient::new(channel);
        let mut answers = client
            .record_increments(ReceiverStream::new(queue))
            .await?
            .into_inner();
        // The number of unacknowledged messages that were sent on this stream, and its limit.
        let (mut sent, mut window) = (0, 0);
        while !self.done() {
            let known = self.unacknowledged.len();
            tokio::select! {
                answer = answers.message() => {
                    let early = || Status::unavailable("the server ended the stream early");
                    let answer = answer?.ok_or_else(early)?;
                    sent -= self.acknowledge(&answer).min(sent);
                    window = usize::try_from(answer.window).expect("32 bits are few");
                }
                input = self.input.recv(), if known < window && !self.input_ended => {
                    self.keep(input);
                }
                // If the queue is closed, `answers` is about to have the reason.
                Ok(room) = requests.reserve(), if sent < known.min(window) => {
                    let mut message = self.unacknowledged[sent].clone();
                    message.acknowledged = self.acknowledged;
                    room.send(message);
                    sent += 1;
                }
            }
        }
        let farewell = RecordIncrementsRequest {
            acknowledged: self.acknowledged,
            ..Default::default()
        };
        // This lets the server drop the last failures.
        let _ = requests.send(farewell).await;
        drop(requests);
        while let Ok(Some(_)) = answers.message().await {}
        Ok(())
    }

    fn keep(&mut self, input: Option<Vec<Increment>>) {
        let Some(increments) = input else {
            self.input_ended = true;
            return;
        };
        self.read += 1;
        // Otherwise an earlier run has sent it.
        if self.read > self.acknowledged {
            self.unacknowledged.push_back(RecordIncrementsRequest {
                sequence: self.read,
                increments,
                ..Default::default()
            });
        }
    }

    /// Returns the number of newly acknowledged messages.
    fn acknowledge(&mut self, answer: &RecordIncrementsResponse) -> usize {
        for failure in &answer.failures {
            // Otherwise it is known from an earlier stream.
            if failure.sequence > self.acknowledged {
                self.failed += 1;
                let error = failure.error.clone().unwrap_or_default();
                println!(
                    "failed {} {} {} reason={}",
                    failure.sequence,
                    failure.index,
                    code_name(Code::from_i32(error.code)),
                    error
                        .get_details_error_info()
                        .map_or(String::new(), |info| info.reason),
                );
            }
        }
        self.acknowledged = self.acknowledged.max(answer.acknowledged);
        let before = self.unacknowledged.len();
        self.unacknowledged
            .retain(|message| message.sequence > self.acknowledged);
        let news = before - self.unacknowledged.len();
        // A stream on which nothing was left to do counts as progress, too.
        self.progress |= news > 0 || self.unacknowledged.is_empty();
        news
    }
}
