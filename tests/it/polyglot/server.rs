//! A server that crashes and is restarted.

use std::time::Duration;

use sumd::proto::sum::v1::counter_service_client::CounterServiceClient;
use sumd::proto::sum::v1::{DeleteCounterRequest, GetCounterRequest, IncrementCounterRequest};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;

use crate::support::process::Process;

/// Time limit of a client that sends much to a crashing server, while other tests use the processors too.
pub const LONG: Duration = Duration::from_mins(2);

/// A server, and the folder that outlives it.
pub struct Server {
    process: Process,
    data: TempDir,
}

impl Server {
    pub async fn start() -> Self {
        let data = tempfile::tempdir().expect("a folder");
        let process = serve("127.0.0.1:0", &data).await;
        Self { process, data }
    }

    pub fn address(&self) -> &str {
        &self.process.address
    }

    /// Kills it, and starts another server at the same address and with the same folder.
    pub async fn crash_and_restart(&mut self) {
        self.process.signal("KILL");
        self.process.exit().await;
        self.process = serve(self.address(), &self.data).await;
    }

    /// Like [`Self::crash_and_restart`], with an empty folder.
    pub async fn crash_and_lose_all(&mut self) {
        self.data = tempfile::tempdir().expect("a folder");
        self.crash_and_restart().await;
    }

    async fn client(&self) -> CounterServiceClient<Channel> {
        let client = CounterServiceClient::connect(format!("http://{}", self.address())).await;
        client.expect("the server listens")
    }

    pub async fn increment(&self, counter: &str, delta: i64) {
        let request = IncrementCounterRequest {
            counter: counter.to_owned(),
            delta,
            ..IncrementCounterRequest::default()
        };
        let done = self.client().await.increment_counter(request).await;
        done.expect("an increment");
    }

    pub async fn delete(&self, counter: &str) {
        let request = DeleteCounterRequest {
            counter: counter.to_owned(),
            ..DeleteCounterRequest::default()
        };
        let done = self.client().await.delete_counter(request).await;
        done.expect("a deletion");
    }

    pub async fn value(&self, counter: &str) -> i64 {
        let counter = counter.to_owned();
        let request = GetCounterRequest {
            counter,
            ..GetCounterRequest::default()
        };
        let got = self.client().await.get_counter(request).await;
        let got = got.expect("an answer").into_inner();
        got.counter.expect("a counter").value
    }

    pub async fn reaches(&self, counter: &str, value: i64) {
        let reached = async {
            while self.value(counter).await < value {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(LONG, reached)
            .await
            .expect("this should have come long ago");
    }
}

async fn serve(address: &str, data: &TempDir) -> Process {
    let data = data.path().to_str().expect("a path that is text");
    Process::serve_at(address, &["--data-dir", data]).await
}
