//! Health and reflection, which the workers share.

use std::convert::Infallible;

use http::{Request, Response};
use hyper::body::Incoming;
use tonic::body::Body;
use tonic_health::pb::health_server::HealthServer;
use tower::Service;
use tower::util::BoxCloneSyncService;

use super::health::{Health, HealthApi};
use crate::layers::{RequestBody, RequestFrames};
use crate::proto;

/// A request as the layers pass it on.
pub(super) type RequestOf = Request<Box<RequestFrames<RequestBody<Incoming>>>>;
/// A service of any type.
type Other = BoxCloneSyncService<RequestOf, Response<Body>, Infallible>;

/// The services that keep no state of a worker.
pub(super) struct Stateless {
    pub(super) health: HealthServer<HealthApi>,
    /// All others, by name: reflection, and those of tests.
    pub(super) others: Vec<(&'static str, Other)>,
}

impl Stateless {
    pub(super) fn new(health: &Health) -> Self {
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                // Clients show error details by these.
                .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        };
        let broken = "the descriptors were made by this build";
        Self {
            health: health.service(),
            others: vec![
                named(reflection().build_v1().expect(broken)),
                named(reflection().build_v1alpha().expect(broken)),
            ],
        }
    }
}

/// A service with its name.
pub(super) fn named<S>(service: S) -> (&'static str, Other)
where
    S: tonic::server::NamedService + Clone + Send + Sync + 'static,
    S: Service<RequestOf, Response = Response<Body>, Error = Infallible, Future: Send>,
{
    (S::NAME, BoxCloneSyncService::new(service))
}
