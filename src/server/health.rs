//! `grpc.health.v1`: the health of the server (the empty name) and of each service.

use std::collections::BTreeMap;
use std::pin::Pin;

use futures_util::Stream;
use futures_util::stream;
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{self, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::api::{cluster_service_server, counter_service_server, sum_service_server};
use crate::status::{self, Reason};

/// Services that need no store.
const ALWAYS: [&str; 2] = ["", sum_service_server::SERVICE_NAME];
/// Services that need a store.
const COUNTING: [&str; 2] = [
    counter_service_server::SERVICE_NAME,
    cluster_service_server::SERVICE_NAME,
];

/// Whether each service serves.
type Services = BTreeMap<&'static str, bool>;

pub(super) struct Health {
    services: watch::Sender<Services>,
}

impl Health {
    /// Health with every service NOT_SERVING.
    pub(super) fn not_serving() -> Self {
        let names = ALWAYS.into_iter().chain(COUNTING);
        let services = names.map(|name| (name, false)).collect();
        Self {
            services: watch::Sender::new(services),
        }
    }

    pub(super) fn set_serving(&self, serving: bool) {
        self.set(&ALWAYS, serving);
    }

    pub(super) fn set_counting(&self, counting: bool) {
        self.set(&COUNTING, counting);
    }

    fn set(&self, names: &[&'static str], serving: bool) {
        self.services.send_modify(|services| {
            services.extend(names.iter().map(|name| (*name, serving)));
        });
    }

    pub(super) fn service(&self) -> HealthServer<HealthApi> {
        HealthServer::new(HealthApi {
            services: self.services.subscribe(),
        })
    }
}

/// The service, over the current health of each service.
pub(super) struct HealthApi {
    services: watch::Receiver<Services>,
}

fn status_of(services: &Services, name: &str) -> Option<ServingStatus> {
    let serving = services.get(name)?;
    Some(if *serving {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    })
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}

#[tonic::async_trait]
impl health_server::Health for HealthApi {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let name = &request.get_ref().service;
        let status = status_of(&self.services.borrow(), name);
        let status = status.ok_or_else(|| {
            let message = format!("there is no service {}", status::quoted(name));
            Status::from(Reason::UnknownService.error(message))
        });
        Ok(Response::new(response(status?)))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let name = request.into_inner().service;
        let mut services = self.services.clone();
        services.mark_changed();
        let news = stream::unfold(
            (services, name, None),
            async |(mut services, name, told)| {
                loop {
                    // The sender is dropped with the server, and then the watch ends.
                    services.changed().await.ok()?;
                    let status = status_of(&services.borrow_and_update(), &name);
                    let status = status.unwrap_or(ServingStatus::ServiceUnknown);
                    if told != Some(status) {
                        return Some((Ok(response(status)), (services, name, Some(status))));
                    }
                }
            },
        );
        Ok(Response::new(Box::pin(news)))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, StreamExt as _};

    use tonic_health::pb::health_server::Health as _;

    use super::*;

    /// A watch reports each change of its service and no other, and also the appearance of an unknown service.
    #[tokio::test]
    async fn watches_hear_of_what_changes() {
        let health = Health::not_serving();
        let told = HealthApi {
            services: health.services.subscribe(),
        };
        let watch = async |service: &str| {
            let service = service.to_owned();
            let request = Request::new(HealthCheckRequest { service });
            told.watch(request).await.expect("a watch").into_inner()
        };
        let (mut sums, mut later) = (
            watch(sum_service_server::SERVICE_NAME).await,
            watch("later").await,
        );
        let next = |watch: &mut <HealthApi as health_server::Health>::WatchStream| {
            let answer = watch.next().now_or_never()?;
            Some(answer.expect("it goes on").expect("a status").status())
        };
        assert_eq!(next(&mut sums), Some(ServingStatus::NotServing));
        assert_eq!(next(&mut later), Some(ServingStatus::ServiceUnknown));
        health.set_counting(true);
        assert_eq!((next(&mut sums), next(&mut later)), (None, None));
        health.set_serving(true);
        assert_eq!(next(&mut sums), Some(ServingStatus::Serving));
        health.set(&["later"], false);
        assert_eq!(next(&mut later), Some(ServingStatus::NotServing));
        assert_eq!(next(&mut sums), None);
        drop(health);
        assert!(later.next().await.is_none(), "it ends with the server");
    }
}
