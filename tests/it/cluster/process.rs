//! A node of a cluster, as a process of its own.

use std::time::Duration;

use sumd::etcd::Address;
use sumd::proto::sum::v1::counter_service_client::CounterServiceClient;
use sumd::proto::sum::v1::{IncrementCounterRequest, IncrementCounterResponse};
use tokio::process::Command;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::etcd::cluster::{PASSWORD, USER};
use crate::support::process::{Process, SUMD, command};
use crate::support::soon;

pub struct Node {
    pub process: Process,
    pub channel: Channel,
}

impl Node {
    /// Starts a node, which may have to wait for etcd.
    pub async fn begin(etcd: &Address, id: &str) -> Self {
        let mut command = command(SUMD);
        Self::begin_as(&mut command, etcd, id, &["--drain-delay", "0s"]).await
    }

    /// Starts a node from a program, with flags.
    pub async fn begin_as(program: &mut Command, etcd: &Address, id: &str, flags: &[&str]) -> Self {
        let store = etcd.to_string();
        let command = program.args(["serve", "--store", &store, "--node-id", id]);
        let command = command.env("SUMD_ETCD_USER", USER);
        let command = command.env("SUMD_ETCD_PASSWORD", PASSWORD);
        let process = Process::start(command, flags).await;
        let channel = Channel::from_shared(format!("http://{}", process.address));
        let channel = channel.expect("a URI").connect().await;
        Self {
            channel: channel.expect("it listens"),
            process,
        }
    }

    /// Starts a node, and waits until it counts.
    pub async fn start(etcd: &Address, id: &str) -> Self {
        Self::start_with(etcd, id, &["--drain-delay", "0s"]).await
    }

    /// Starts a node with flags, and waits until it counts.
    pub async fn start_with(etcd: &Address, id: &str, flags: &[&str]) -> Self {
        let mut node = Self::begin_as(&mut command(SUMD), etcd, id, flags).await;
        node.process.logged("counting").await;
        node
    }

    pub fn counters(&self) -> CounterServiceClient<Channel> {
        CounterServiceClient::new(self.channel.clone())
    }

    pub async fn increment(
        &self,
        counter: &str,
        id: &str,
    ) -> Result<IncrementCounterResponse, Status> {
        let mut request = Request::new(IncrementCounterRequest {
            counter: counter.to_owned(),
            delta: 1,
            request_id: id.to_owned(),
            ..IncrementCounterRequest::default()
        });
        request.set_timeout(Duration::from_secs(10));
        let answer = self.counters().increment_counter(request).await;
        answer.map(tonic::Response::into_inner)
    }

    /// Waits until the health of a service is reported as `status`.
    pub async fn becomes(&self, service: &str, status: ServingStatus) {
        let told = async {
            while self.health(service).await != status {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        soon(told).await;
    }

    pub async fn health(&self, service: &str) -> ServingStatus {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let mut client = HealthClient::new(self.channel.clone());
        let answer = soon(client.check(request)).await;
        answer.expect("it is known").into_inner().status()
    }
}
