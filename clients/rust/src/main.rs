//! An example client of `sumd`: calls with a deadline, a pipelined stream, several servers, retries,
//! and errors with their details.

mod balancer;
mod counters;
mod errors;
mod record;

use std::{env, io, process::ExitCode, thread, time::Duration};

use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, transport::Endpoint};
use tonic_types::RpcStatusExt as _;
use uuid::Uuid;

use balancer::{Balancer, by_the_book};
use errors::{code_name, describe, report};
use pb::{
    AddEachRequest, AddRequest, add_each_response::Result as Answer,
    sum_service_client::SumServiceClient,
};

#[allow(clippy::pedantic)]
mod pb {
    tonic::include_proto!("sum.v1");
}

const SERVICE: &str = "sum.v1.SumService";
const DEADLINE: Duration = Duration::from_secs(5);
const WORKERS: usize = 4;

const USAGE: &str = "\
usage:
  sumd-client add ADDRESSES VALUE...   print the sum of the values
  sumd-client each ADDRESSES           print the sum of each line of standard input
  sumd-client load ADDRESSES SECONDS   call Add from 4 workers and check every sum

  sumd-client inc ADDRESSES COUNTER DELTA [REQUEST_ID]   add to a counter, exactly once
  sumd-client get ADDRESSES COUNTER...                   print the values of counters
  sumd-client watch ADDRESSES PREFIX COUNT               print COUNT lines of state and changes
  sumd-client record ADDRESSES SESSION_ID SESSION_TIME_MS
      add each line of standard input, COUNTER DELTA, exactly once; the time is that of the
      session's beginning, or 0 if its id is a UUIDv7
ADDRESSES is host:port[,host:port...]";

enum Failure {
    Usage(String),
    Input(String),
    Call(Status),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Call(by_the_book(status))
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["add", addresses, ref values @ ..] if !values.is_empty() => add(addresses, values).await,
        ["each", addresses] => each(addresses).await,
        ["load", addresses, seconds] => load(addresses, seconds).await,
        ["inc", addresses, counter, delta] => {
            // An id that carries its time.
            let request_id = Uuid::now_v7().to_string();
            counters::increment(addresses, counter, delta, &request_id).await
        }
        ["inc", addresses, counter, delta, request_id] if !request_id.is_empty() => {
            counters::increment(addresses, counter, delta, request_id).await
        }
        ["get", addresses, ref names @ ..] if !names.is_empty() => {
            counters::get(addresses, names).await
        }
        ["watch", addresses, prefix, count] => counters::watch(addresses, prefix, count).await,
        ["record", addresses, session_id, time_ms] => {
            record::record(addresses, session_id, time_ms).await
        }
        _ => Err(Failure::Usage("which command?".to_owned())),
    };
    match done {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Usage(message)) => {
            eprintln!("{message}\n{USAGE}");
            return ExitCode::from(2);
        }
        Err(Failure::Input(message)) => eprintln!("error: {message}"),
        Err(Failure::Call(status)) => report(&status),
    }
    ExitCode::FAILURE
}

async fn add(addresses: &str, values: &[&str]) -> Result<(), Failure> {
    let values = integers(values.iter().copied()).map_err(Failure::Usage)?;
    println!("{}", call_add(&connect(addresses)?, values).await?);
    Ok(())
}

async fn call_add(servers: &Balancer, values: Vec<i64>) -> Result<i64, Status> {
    let response = servers
        .call(AddRequest { values }, DEADLINE, async |channel, request| {
            SumServiceClient::new(channel).add(request).await
        })
        .await?;
    Ok(response.sum)
}

async fn each(addresses: &str) -> Result<(), Failure> {
    let servers = connect(addresses)?;
    let channel = servers.next(Instant::now() + DEADLINE).await?;

    // Requests leave while responses arrive. The queue is bounded: if responses are slow, HTTP/2
    // flow control fills it, and reading pauses. A thread reads standard input: a read cannot be
    // cancelled, and would keep the runtime from ending when the call fails.
    let (requests, queue) = mpsc::channel(128);
    let reader = thread::spawn(move || {
        for (number, line) in (1..).zip(io::stdin().lines()) {
            let values = line
                .map_err(|error| error.to_string())
                .and_then(|line| integers(line.split_whitespace()))
                .map_err(|error| Failure::Input(format!("line {number}: {error}")))?;
            if requests.blocking_send(AddEachRequest { values }).is_err() {
                break; // The call has ended, and its status says why.
            }
        }
        Ok(())
    });

    let mut answers = SumServiceClient::new(channel)
        .add_each(ReceiverStream::new(queue))
        .await?
        .into_inner();
    while let Some(answer) = answers.message().await? {
        match answer.result {
            Some(Answer::Sum(sum)) => println!("{sum}"),
            // Only this message has no sum; the stream goes on.
            Some(Answer::Error(error)) => {
                let code = code_name(Code::from_i32(error.code));
                let details = describe(&error.get_error_details()).join("; ");
                println!("error: {code} {} ({details})", error.message);
            }
            None => println!("error: UNKNOWN this client is too old for the answer ()"),
        }
    }
    reader.join().expect("the reader does not panic")
}

async fn load(addresses: &str, seconds: &str) -> Result<(), Failure> {
    let servers = connect(addresses)?;
    let duration = seconds
        .parse()
        .ok()
        .and_then(|s| Duration::try_from_secs_f64(s).ok());
    let duration = duration.ok_or_else(|| Failure::Usage(not_a("number of seconds", seconds)))?;
    let end = Instant::now() + duration;
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        workers.spawn(call_until(end, servers.clone()));
    }
    let (mut calls, mut failures) = (0, Vec::new());
    for (count, failed) in workers.join_all().await {
        calls += count;
        failures.extend(failed);
    }
    println!("calls={calls} failed={}", failures.len());
    failures
        .into_iter()
        .next()
        .map_or(Ok(()), |first| Err(Failure::Call(first)))
}

/// Returns the number of calls, and the errors of those that failed.
async fn call_until(end: Instant, servers: Balancer) -> (i64, Vec<Status>) {
    let (mut n, mut failures) = (0, Vec::new());
    while Instant::now() < end {
        n += 1;
        match call_add(&servers, vec![n, 1]).await {
            Ok(sum) if sum == n + 1 => {}
            Ok(sum) => failures.push(Status::data_loss(format!("{n} + 1 was answered by {sum}"))),
            Err(status) => failures.push(status),
        }
    }
    (n, failures)
}

fn connect(addresses: &str) -> Result<Balancer, Failure> {
    let endpoints = addresses.split(',').map(|address| {
        Endpoint::from_shared(format!("http://{address}"))
            .ok()
            .filter(|endpoint| endpoint.uri().port().is_some())
            .ok_or_else(|| Failure::Usage(not_a("host:port", address)))
    });
    let endpoints = endpoints.collect::<Result<_, _>>()?;
    Ok(Balancer::new(endpoints, SERVICE))
}

fn integers<'a>(words: impl Iterator<Item = &'a str>) -> Result<Vec<i64>, String> {
    words.map(integer).collect()
}

fn integer(word: &str) -> Result<i64, String> {
    word.parse().map_err(|_| not_a("64-bit integer", word))
}

fn not_a(kind: &str, word: &str) -> String {
    format!("{word:?} is not a {kind}")
}
