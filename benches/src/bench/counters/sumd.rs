//! The load on sumd.

use std::{collections::VecDeque, net::SocketAddr, ops::Range, path::Path};

use anyhow::{Context as _, Result, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};
use prost::{Message, encoding::uint64};
use sumd_benches::put_frame;
use tokio::{process::Command, task::JoinSet, time::Instant};

use super::{
    encode::{Batch, Ids, Layout, Names, ONE_GROUP, PREFIX, find, name},
    messages::{
        ACKNOWLEDGED, GetCounterRequest, GetCounterResponse, HealthCheckRequest,
        HealthCheckResponse, Increment, IncrementCounterRequest, IncrementCounterResponse,
        RecordIncrementsRequest, RecordIncrementsResponse, SEQUENCE, SERVING, SumCountersRequest,
        SumCountersResponse,
    },
    works::MESSAGE_INCREMENTS,
};
use crate::{
    grpc::{Answers, Client},
    measure::Latencies,
    server::bound_to_us,
    works::CONNECTIONS,
};

const SERVICE: &str = "sum.v1.CounterService";

/// Unacknowledged messages of a session at any time, or fewer if the server's window is smaller.
const SESSION_MESSAGES: usize = 32;

/// Number of sessions that create counters.
pub const CREATORS: usize = 64;

/// A server with all its data in the folder `data`.
pub fn command(program: &Path, data: &Path, address: SocketAddr, options: &[&str]) -> Command {
    let mut command = bound_to_us(program);
    command
        .args(["serve", "--listen", &address.to_string()])
        .arg("--data-dir")
        .arg(data)
        .args(options);
    command
}

/// Clients for `count` concurrent calls of a method, spread evenly over the usual number of connections.
pub async fn clients(address: SocketAddr, method: &str, count: usize) -> Result<Vec<Client>> {
    let path = format!("{SERVICE}/{method}");
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS.min(count) {
        connections.push(Client::connect(address, &path).await?);
    }
    Ok(connections.iter().cycle().take(count).cloned().collect())
}

/// Makes unary increments, each with an id of its own.
pub struct Incrementer {
    client: Client,
    request: Batch,
    id: Range<usize>,
    ids: Ids,
    names: Names,
}

impl Incrementer {
    pub fn new(client: Client, names: Names, layout: Layout) -> Result<Self> {
        let mut ids = Ids::default();
        let id = ids.next_string();
        let request = IncrementCounterRequest {
            counter: layout.name(0),
            delta: 1,
            request_id: id.clone(),
        };
        let frame = frame(&request);
        Ok(Self {
            client,
            request: Batch::new(&frame, 1, layout)?,
            id: find(&frame, id.as_bytes())?,
            ids,
            names,
        })
    }

    pub async fn call(&mut self) -> Result<()> {
        let request = self.request.name(&mut self.names);
        request[self.id.clone()].copy_from_slice(&self.ids.next());
        let frame = Bytes::copy_from_slice(request);
        let answer: IncrementCounterResponse = self.client.call(frame, decode).await?;
        ensure!(
            answer.applied == 1 && !answer.replayed,
            "wrong answer: {answer:?}"
        );
        Ok(())
    }
}

/// Increments counters in bulk, on a session of its own, until `names` has no more or until `end`; then waits for the
/// outstanding acknowledgements.
pub async fn record(
    mut client: Client,
    mut names: Names,
    layout: Layout,
    end: Instant,
    latencies: Latencies,
) -> Result<()> {
    let mut messages = messages(layout)?;
    let (mut requests, mut answers) = client.open().await?;
    let hello = RecordIncrementsRequest {
        session_id: Ids::default().next_string(),
        increments: Vec::new(),
    };
    requests.send_data(frame(&hello), false)?;
    let mut answer = acknowledgement(&mut answers).await?;
    ensure!(answer.window > 0, "no window in the first answer");

    let mut sent = VecDeque::new();
    let (mut sequence, mut acknowledged) = (0, 0);
    loop {
        let mut frames = BytesMut::new();
        let now = Instant::now();
        let window = SESSION_MESSAGES.min(answer.window as usize);
        while sent.len() < window && names.more(end) {
            sequence += 1;
            put_message(
                &mut frames,
                sequence,
                acknowledged,
                messages.name(&mut names),
            )?;
            sent.push_back(now);
        }
        if sent.is_empty() {
            break;
        }
        if !frames.is_empty() {
            requests.send_data(frames.freeze(), false)?;
        }
        answer = acknowledgement(&mut answers).await?;
        ensure!(
            answer.failures.is_empty() && (acknowledged..=sequence).contains(&answer.acknowledged),
            "wrong answer after message {sequence}: {answer:?}"
        );
        for _ in acknowledged..answer.acknowledged {
            let sent = sent.pop_front().context("an answer to nothing")?;
            latencies.with(|all| all.push(sent.elapsed()));
        }
        acknowledged = answer.acknowledged;
    }
    requests.send_data(Bytes::new(), true)?;
    answers.end().await
}

/// Increments the counters numbered from `first` to below `end` once each, in bulk. Returns the number of increments,
/// which is a multiple of those in a message.
pub async fn create(address: SocketAddr, first: u32, end: u32) -> Result<u64> {
    let clients = clients(address, "RecordIncrements", CREATORS).await?;
    create_by(clients, ONE_GROUP, first, end).await
}

/// The same by these clients, of one server or several.
pub async fn create_by(clients: Vec<Client>, layout: Layout, first: u32, end: u32) -> Result<u64> {
    let creators = u32::try_from(clients.len())?;
    let message = u32::try_from(MESSAGE_INCREMENTS)?;
    let latencies = Latencies::default();
    let mut tasks = JoinSet::new();
    for (client, creator) in clients.into_iter().zip(0..) {
        let names = Names::InTurn {
            next: first + creator * message,
            step: creators * message,
            end,
        };
        let latencies = latencies.clone();
        tasks.spawn(record(client, names, layout, Instant::now(), latencies));
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let created = latencies.with(|all| all.len()) * MESSAGE_INCREMENTS;
    ensure!(created == (end - first) as usize, "{created} were made");
    Ok(created as u64)
}

/// The increments of a message, without the message's other fields.
fn messages(layout: Layout) -> Result<Batch> {
    let one = RecordIncrementsRequest {
        session_id: String::new(),
        increments: vec![Increment {
            counter: layout.name(0),
            delta: 1,
        }],
    };
    Batch::new(&one.encode_to_vec(), MESSAGE_INCREMENTS, layout)
}

async fn acknowledgement(answers: &mut Answers) -> Result<RecordIncrementsResponse> {
    answers.message(decode).await
}

fn put_message(
    frames: &mut BytesMut,
    sequence: u64,
    acknowledged: u64,
    increments: &[u8],
) -> Result<()> {
    let length = uint64::encoded_len(SEQUENCE, &sequence)
        + uint64::encoded_len(ACKNOWLEDGED, &acknowledged)
        + increments.len();
    frames.put_u8(0);
    frames.put_u32(length.try_into()?);
    uint64::encode(SEQUENCE, &sequence, frames);
    uint64::encode(ACKNOWLEDGED, &acknowledged, frames);
    frames.put_slice(increments);
    Ok(())
}

/// The sum of all counters. If there is a single counter, its value is read as well, and must be the same.
pub async fn total(address: SocketAddr) -> Result<i64> {
    let all = sum(address, PREFIX).await?;
    if all.count == 1 {
        let value = value(address).await?;
        ensure!(
            value == all.sum,
            "the counter is {value}, its sum {}",
            all.sum
        );
    }
    Ok(all.sum)
}

/// The sum of the counters whose names begin with `prefix`.
pub async fn sum(address: SocketAddr, prefix: &str) -> Result<SumCountersResponse> {
    let request = SumCountersRequest {
        prefix: prefix.to_owned(),
    };
    ask(address, "SumCounters", &request).await
}

/// The value of counter 0.
pub async fn value(address: SocketAddr) -> Result<i64> {
    let request = GetCounterRequest { counter: name(0) };
    let answer: GetCounterResponse = ask(address, "GetCounter", &request).await?;
    Ok(answer.counter.context("no counter in the answer")?.value)
}

/// Fails unless the server reports that it serves counters.
pub async fn serves(address: SocketAddr) -> Result<()> {
    let request = HealthCheckRequest {
        service: SERVICE.to_owned(),
    };
    let mut client = Client::connect(address, "grpc.health.v1.Health/Check").await?;
    let answer: HealthCheckResponse = client.call(frame(&request), decode).await?;
    ensure!(answer.status == SERVING, "not serving: {answer:?}");
    Ok(())
}

async fn ask<A: Message + Default>(
    address: SocketAddr,
    method: &str,
    request: &impl Message,
) -> Result<A> {
    let mut clients = clients(address, method, 1).await?;
    clients[0].call(frame(request), decode).await
}

fn frame(message: &impl Message) -> Bytes {
    let mut frame = BytesMut::new();
    put_frame(&mut frame, &message.encode_to_vec());
    frame.freeze()
}

fn decode<A: Message + Default>(message: &[u8]) -> Result<A> {
    Ok(A::decode(message)?)
}
