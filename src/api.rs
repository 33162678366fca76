//! The services: an implementation of each trait that the protobuf definition generates. A handler converts its
//! request, calls the rooms below, converts the answer, and maps their typed errors to statuses.

mod cluster;
mod counter;
mod errors;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod page_token;
mod peer;
mod reads;
mod record;
mod servers;
mod sum;
pub mod wire;

pub use cluster::ClusterApi;
pub use counter::{CounterApi, RecordReplies};
pub use peer::{Executor, PeerApi};
pub use servers::cluster_service_server::{self, ClusterServiceServer};
pub use servers::counter_service_server::{self, CounterServiceServer};
pub use servers::peer_service_server::{self, PeerServiceServer};
pub use servers::sum_service_server::{self, SumServiceServer};
pub use sum::SumApi;
