//! `sumd add` and `sumd health`.

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::client::{ClientError, in_time};
use crate::config::{AddOptions, HealthOptions};
use crate::proto::sum::v1::AddRequest;
use crate::proto::sum::v1::sum_service_client::SumServiceClient;

/// The sum of the given values.
///
/// # Errors
/// Returns an error if the server cannot be reached, is too slow, or refuses.
pub async fn add(options: AddOptions) -> Result<i64, ClientError> {
    let values = options.values;
    in_time(&options.server, async |channel| {
        let mut client = SumServiceClient::new(channel);
        let values = values.clone();
        Ok(client.add(AddRequest { values }).await?.into_inner().sum)
    })
    .await
}

/// Asks a server for its health, and returns `SERVING`.
///
/// # Errors
/// Returns an error if the server cannot be reached, is too slow, does not know the service, or has any other status.
pub async fn health(options: HealthOptions) -> Result<&'static str, ClientError> {
    let service = options.service;
    in_time(&options.server, async |channel| {
        let mut client = HealthClient::new(channel);
        let answer = client
            .check(HealthCheckRequest {
                service: service.clone(),
            })
            .await?;
        match answer.into_inner().status() {
            ServingStatus::Serving => Ok(ServingStatus::Serving.as_str_name()),
            other => Err(ClientError::NotServing(other)),
        }
    })
    .await
}
