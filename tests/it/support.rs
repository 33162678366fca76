//! Servers to test, and clients that can misbehave.

pub mod bulk;
pub mod client;
pub mod frames;
pub mod ports;
pub mod process;
pub mod raw;
pub mod shim;

use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::Parser as _;
use sumd::config::{Command, Config};
use sumd::counters::Counters;
use sumd::lane;
use sumd::proto::sum::v1::sum_service_client::SumServiceClient;
use sumd::server::{Server, Services};
use sumd::store::Store;
use sumd::store::sqlite::SqliteStore;
use tempfile::TempDir;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic_types::StatusExt as _;

/// Far longer than anything here takes, so it is reached only by a hang.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Fails the test if `future` hangs.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("this should have come long ago")
}

/// A UUIDv7 with this time.
pub fn uuid_v7(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    let seconds = since.expect("after 1970").as_secs();
    let timestamp = uuid::Timestamp::from_unix(uuid::NoContext, seconds, 0);
    uuid::Uuid::new_v7(timestamp).to_string()
}

/// A server in this process, on a port of its own.
pub struct TestServer {
    pub address: String,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<std::io::Result<()>>,
    _lane: lane::LaneRuntime,
    _data: TempDir,
}

impl TestServer {
    /// Starts a server with the flags of `sumd serve`.
    pub async fn start(flags: &[&str]) -> Self {
        Self::start_with(flags, |services| services).await
    }

    /// Starts a server with services that the command line cannot configure.
    pub async fn start_with(flags: &[&str], with: impl FnOnce(Services) -> Services) -> Self {
        let head = [
            "sumd",
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--drain-delay",
            "0s",
        ];
        let config = Config::parse_from(head.iter().chain(flags));
        let Some(Command::Serve(options)) = config.command else {
            unreachable!("the command line says serve");
        };
        let data = tempfile::tempdir().expect("a folder");
        let store =
            SqliteStore::open(&data.path().join("sumd.db"), 1 << 20).expect("a new database");
        let store: Arc<dyn Store> = Arc::new(store);
        let bounds = options.memory.bounds();
        let lane = lane::LaneRuntime::start(store.clone(), bounds).await;
        let lane = lane.expect("it is new");
        let counters = Counters::new(lane.lanes.clone());
        let (_, services) = watch::channel(Some(with(Services::alone(counters))));
        let request_memory = options.memory.request_bytes();
        let server = Server::bind(
            &options.listen,
            options.limits,
            NonZeroUsize::MIN,
            request_memory,
            services,
        )
        .await
        .expect("port 0 is always free");
        let address = server.addresses()[0].to_string();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(server.run(async {
            let _ = stopped.await;
        }));
        Self {
            address,
            stop: Some(stop),
            running,
            _lane: lane,
            _data: data,
        }
    }

    pub async fn client(&self) -> SumServiceClient<Channel> {
        SumServiceClient::new(self.channel().await)
    }

    pub async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address))
            .expect("an address is a URI")
            .connect()
            .await
            .expect("the server listens")
    }

    pub async fn raw(&self) -> raw::Connection {
        raw::Connection::open(&self.address).await
    }

    /// Tells the server to shut down.
    pub fn stop(&mut self) {
        self.stop
            .take()
            .expect("stopped once")
            .send(())
            .expect("it runs");
    }

    /// Waits for its end.
    pub async fn ended(self) {
        soon(self.running)
            .await
            .expect("no panic")
            .expect("a clean end");
    }

    /// Asserts that the server still answers other clients.
    pub async fn assert_well(&self) {
        let mut client = self.client().await;
        let answer = soon(client.add(add_request([1, 2, 3]))).await;
        assert_eq!(answer.expect("an answer").into_inner().sum, 6);
    }
}

pub fn add_request<const N: usize>(values: [i64; N]) -> sumd::proto::sum::v1::AddRequest {
    sumd::proto::sum::v1::AddRequest {
        values: values.into(),
    }
}

/// The reason and metadata of a status' `ErrorInfo`.
pub fn reason(status: &tonic::Status) -> (String, std::collections::HashMap<String, String>) {
    let info = status.get_details_error_info().expect("an ErrorInfo");
    assert_eq!(info.domain, "sumd");
    (info.reason, info.metadata)
}

/// Waits for a condition by polling.
pub async fn eventually(what: &str, condition: impl FnMut() -> bool) {
    within(PATIENCE, what, condition).await;
}

/// The same with another time limit.
pub async fn within(patience: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(patience, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what} has not come about");
}
