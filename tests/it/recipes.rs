//! The recipes of `docs/counting.md`: each does what the document says, and holds what it states.

mod document;
mod import;
mod inventory;
mod metering;
mod quotas;
mod reading;
mod votes;

use std::time::{Duration, SystemTime};

use prost_types::Timestamp;
use sumd::proto::sum::v1::{
    BatchIncrementCountersRequest, GetCounterRequest, Increment, IncrementCounterRequest,
    IncrementCounterResponse, SumCountersRequest,
};
use tempfile::TempDir;
use tonic::Status;

use crate::counters::Client;
use crate::support::process::Process;
use crate::support::{reason, soon};

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// A server, and the folder that outlives it.
struct Server {
    process: Process,
    data: TempDir,
    client: Client,
}

impl Server {
    async fn start(flags: &[&str]) -> Self {
        let data = tempfile::tempdir().expect("a folder");
        Self::start_on(data, flags).await
    }

    async fn start_on(data: TempDir, flags: &[&str]) -> Self {
        let folder = data.path().to_str().expect("a path");
        let process = Process::serve(&[&["--data-dir", folder], flags].concat()).await;
        let client = Client::connect(format!("http://{}", process.address)).await;
        Self {
            process,
            data,
            client: client.expect("it listens"),
        }
    }

    /// Kills it, and starts another on the same data.
    async fn crash(self) -> Self {
        self.restart(&[]).await
    }

    async fn restart(mut self, flags: &[&str]) -> Self {
        self.process.signal("KILL");
        self.process.exit().await;
        Self::start_on(self.data, flags).await
    }

    async fn increment(
        &mut self,
        request: &IncrementCounterRequest,
    ) -> Result<IncrementCounterResponse, Status> {
        let answer = soon(self.client.increment_counter(request.clone())).await;
        answer.map(tonic::Response::into_inner)
    }

    /// The value after an increment, and whether it was answered before.
    async fn counted(&mut self, request: &IncrementCounterRequest) -> (i64, bool) {
        let answer = self.increment(request).await.expect("it is counted");
        (answer.value, answer.replayed)
    }

    /// The reason of a refusal after which nothing was changed.
    async fn refused(&mut self, request: &IncrementCounterRequest) -> String {
        let status = self.increment(request).await.expect_err("it is refused");
        not_applied(&status)
    }

    async fn value(&mut self, counter: &str) -> i64 {
        let request = GetCounterRequest {
            counter: counter.into(),
            ..GetCounterRequest::default()
        };
        let answer = soon(self.client.get_counter(request)).await;
        let counter = answer.expect("an answer").into_inner().counter;
        counter.expect("a counter").value
    }

    async fn sum(&mut self, prefix: &str) -> i64 {
        let prefix = prefix.into();
        let answer = soon(self.client.sum_counters(SumCountersRequest { prefix })).await;
        answer.expect("a sum").into_inner().sum
    }
}

fn not_applied(status: &Status) -> String {
    let (reason, metadata) = reason(status);
    assert_eq!(metadata["outcome"], "NOT_APPLIED", "{reason}");
    reason
}

fn ago(time: Duration) -> SystemTime {
    SystemTime::now() - time
}

/// An increment with an id and the time of that.
fn request(counter: &str, delta: i64, id: &str, time: SystemTime) -> IncrementCounterRequest {
    IncrementCounterRequest {
        counter: counter.into(),
        delta,
        request_id: id.into(),
        request_time: Some(Timestamp::from(time)),
        ..IncrementCounterRequest::default()
    }
}

/// A batch of moves: no counter falls below 0.
fn batch(id: &str, time: SystemTime, increments: &[(&str, i64)]) -> BatchIncrementCountersRequest {
    let increments = increments.iter().map(|(counter, delta)| Increment {
        counter: (*counter).into(),
        delta: *delta,
        min: delta.is_negative().then_some(0),
        ..Increment::default()
    });
    BatchIncrementCountersRequest {
        increments: increments.collect(),
        request_id: id.into(),
        request_time: Some(Timestamp::from(time)),
    }
}
