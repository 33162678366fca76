//! Backups of etcd, and moves between a file and etcd: nothing is lost, and nothing counts twice.

mod backups;
mod interrupted;
mod moves;
mod torn;

use std::path::PathBuf;
use std::time::SystemTime;

use prost_types::Timestamp;
use sumd::proto::sum::v1::counter_service_client::CounterServiceClient;
use sumd::proto::sum::v1::{
    Increment, IncrementCounterRequest, IncrementCounterResponse, RecordIncrementsRequest,
    RecordIncrementsResponse, SumCountersRequest,
};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::etcd::cluster::Cluster;
use crate::support::process::{Process, run};
use crate::support::soon;

/// An etcd, and a folder for files.
struct Places {
    etcd: Cluster,
    folder: TempDir,
}

impl Places {
    async fn new() -> Self {
        Self {
            etcd: Cluster::start(1, &[]).await,
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file(&self, name: &str) -> String {
        format!("sqlite:{}", self.path(name).display())
    }

    fn etcd(&self) -> String {
        self.etcd.address().to_string()
    }

    async fn serve(&self, store: &str) -> Server {
        self.serve_with(store, &[]).await
    }

    async fn serve_with(&self, store: &str, flags: &[&str]) -> Server {
        let all = ["--store", store, "--node-id", "a", "--drain-delay", "0s"];
        let mut process = Process::serve(&[&all, flags].concat()).await;
        if store.starts_with("etcd") {
            process.logged("counting").await;
        }
        let address = format!("http://{}", process.address);
        let client = CounterServiceClient::connect(address).await;
        Server {
            process,
            client: client.expect("it listens"),
        }
    }
}

/// The output of a command that must succeed.
async fn sumd(args: &[&str]) -> String {
    let output = run(args).await;
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// The error message of a command that must fail.
async fn fails(args: &[&str]) -> String {
    let output = run(args).await;
    assert_eq!(output.status.code(), Some(1), "{args:?}: {output:?}");
    String::from_utf8(output.stderr).expect("text")
}

async fn moves(from: &str, to: &str) -> String {
    sumd(&["move", "--from", from, "--to", to]).await
}

async fn does_not_move(from: &str, to: &str) -> String {
    fails(&["move", "--from", from, "--to", to]).await
}

async fn does_not_serve(store: &str) -> String {
    let listen = "--listen=127.0.0.1:0";
    fails(&["serve", listen, "--store", store, "--node-id", "b"]).await
}

struct Server {
    process: Process,
    client: CounterServiceClient<Channel>,
}

impl Server {
    async fn stop(mut self) {
        self.process.signal("TERM");
        assert!(self.process.exit().await.success());
    }

    async fn try_increment(
        &mut self,
        counter: &str,
        delta: i64,
        id: &str,
    ) -> Result<IncrementCounterResponse, Status> {
        let request = IncrementCounterRequest {
            counter: counter.to_owned(),
            delta,
            request_id: id.to_owned(),
            ..IncrementCounterRequest::default()
        };
        let answer = soon(self.client.increment_counter(request)).await;
        answer.map(tonic::Response::into_inner)
    }

    async fn increment(&mut self, counter: &str, delta: i64, id: &str) -> IncrementCounterResponse {
        let answer = self.try_increment(counter, delta, id).await;
        answer.expect("an answer")
    }

    async fn sum(&mut self, prefix: &str) -> i128 {
        let request = SumCountersRequest {
            prefix: prefix.to_owned(),
        };
        let answer = soon(self.client.sum_counters(request)).await;
        i128::from(answer.expect("a sum").into_inner().sum)
    }

    /// A stream of a session that began at `begun`.
    async fn session(&mut self, id: &str, begun: SystemTime) -> Stream {
        let (requests, receiver) = mpsc::channel(1024);
        let answers = soon(self.client.record_increments(ReceiverStream::new(receiver))).await;
        Stream {
            id: id.to_owned(),
            begun: begun.into(),
            requests,
            answers: answers.expect("a stream").into_inner(),
        }
    }
}

struct Stream {
    id: String,
    begun: Timestamp,
    requests: mpsc::Sender<RecordIncrementsRequest>,
    answers: Streaming<RecordIncrementsResponse>,
}

impl Stream {
    async fn send(&self, sequence: u64, acknowledged: u64, increments: &[(&str, i64)]) {
        let increments = increments.iter().map(|(counter, delta)| Increment {
            counter: (*counter).to_owned(),
            delta: *delta,
            ..Increment::default()
        });
        let request = RecordIncrementsRequest {
            session_id: self.id.clone(),
            session_time: Some(self.begun),
            sequence,
            acknowledged,
            increments: increments.collect(),
        };
        soon(self.requests.send(request)).await.expect("it is read");
    }

    async fn next(&mut self) -> Result<RecordIncrementsResponse, Status> {
        let answer = soon(self.answers.message()).await?;
        Ok(answer.expect("it has not ended"))
    }

    /// Reads until a message is acknowledged, and returns the increments that failed up to then.
    async fn acknowledged(&mut self, sequence: u64) -> Vec<(u64, u32)> {
        let mut failures = Vec::new();
        loop {
            let answer = self.next().await.expect("an answer");
            let failed = answer.failures.iter();
            failures.extend(failed.map(|failure| (failure.sequence, failure.index)));
            if answer.acknowledged >= sequence {
                return failures;
            }
        }
    }
}
