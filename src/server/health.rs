//! `grpc.health.v1`: overall (the empty name) and per service.

use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use crate::cluster::ClusterService;
use crate::counter::CounterService;
use crate::sum::SumService;

/// What a server can do that has no store.
const ALWAYS: [&str; 2] = ["", SumService::NAME];
/// What takes a store.
const COUNTING: [&str; 2] = [CounterService::NAME, ClusterService::NAME];

pub(super) struct Health {
    reporter: HealthReporter,
}

impl Health {
    /// Health that says NOT_SERVING until it is told otherwise.
    pub(super) async fn not_serving() -> Self {
        let health = Self {
            reporter: HealthReporter::new(),
        };
        health.set_serving(false).await;
        health.set_counting(false).await;
        health
    }

    pub(super) async fn set_serving(&self, serving: bool) {
        self.set(&ALWAYS, serving).await;
    }

    pub(super) async fn set_counting(&self, counting: bool) {
        self.set(&COUNTING, counting).await;
    }

    async fn set(&self, names: &[&str], serving: bool) {
        let status = if serving {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        for name in names {
            self.reporter.set_service_status(*name, status).await;
        }
    }

    pub(super) fn service(&self) -> HealthServer<HealthService> {
        HealthServer::new(HealthService::from_health_reporter(self.reporter.clone()))
    }
}
