//! `sumd add` and `sumd health`: a server's answers, for people and scripts.

use std::error::Error;
use std::fmt;

use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::config::{AddOptions, HealthOptions, ServerOptions};
use crate::proto::sum::v1::AddRequest;
use crate::proto::sum::v1::sum_service_client::SumServiceClient;
use crate::server::Address;

/// Why a command has no answer.
#[derive(Debug)]
pub enum ClientError {
    /// The server cannot be reached.
    Connect(Address, tonic::transport::Error),
    /// The server refused.
    Refused(Status),
    /// The server is there and does not serve.
    NotServing(ServingStatus),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(address, error) => {
                // The outer errors only say that there is an inner one.
                let mut cause: &dyn Error = error;
                while let Some(source) = cause.source() {
                    cause = source;
                }
                write!(f, "cannot connect to {address}: {cause}")
            }
            Self::Refused(status) => write!(f, "{:?}: {}", status.code(), status.message()),
            Self::NotServing(status) => f.write_str(status.as_str_name()),
        }
    }
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}

/// The sum of the given values.
///
/// # Errors
/// Where the server cannot be reached or refuses.
pub async fn add(options: AddOptions) -> Result<i64, ClientError> {
    let mut client = SumServiceClient::new(connect(&options.server).await?);
    let request = AddRequest {
        values: options.values,
    };
    Ok(client.add(request).await?.into_inner().sum)
}

/// The health of a server that serves.
///
/// # Errors
/// Where the server cannot be reached, does not know the service, or says anything but SERVING.
pub async fn health(options: HealthOptions) -> Result<&'static str, ClientError> {
    let mut client = HealthClient::new(connect(&options.server).await?);
    let request = HealthCheckRequest {
        service: options.service,
    };
    match client.check(request).await?.into_inner().status() {
        ServingStatus::Serving => Ok(ServingStatus::Serving.as_str_name()),
        other => Err(ClientError::NotServing(other)),
    }
}

async fn connect(options: &ServerOptions) -> Result<Channel, ClientError> {
    let uri = match &options.address {
        Address::Tcp(address) => format!("http://{address}"),
        Address::Unix(path) => format!("unix:{}", path.display()),
    };
    let connect = async {
        Endpoint::from_shared(uri)?
            .connect_timeout(options.timeout)
            .timeout(options.timeout)
            .connect()
            .await
    };
    connect
        .await
        .map_err(|error| ClientError::Connect(options.address.clone(), error))
}
