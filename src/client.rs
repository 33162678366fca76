//! `sumd add`, `sumd counter`, `sumd cluster` and `sumd health`: a server's answers, for people and scripts.

mod cluster;
mod counter;

pub use cluster::cluster;
pub use counter::counter;

use std::error::Error;
use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::config::{AddOptions, HealthOptions, ServerOptions};
use crate::proto::sum::v1::AddRequest;
use crate::proto::sum::v1::sum_service_client::SumServiceClient;
use crate::server::Address;

/// Between two rounds over several servers.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Why a command has no answer.
#[derive(Debug)]
pub enum ClientError {
    /// The server cannot be reached.
    Connect(Address, tonic::transport::Error),
    /// The server has not answered in time.
    Timeout(Address, Duration),
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
            Self::Timeout(address, timeout) => {
                write!(f, "no answer from {address} within {timeout:?}")
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
/// Where the server cannot be reached, is too slow, or refuses.
pub async fn add(options: AddOptions) -> Result<i64, ClientError> {
    let values = options.values;
    in_time(&options.server, async |channel| {
        let mut client = SumServiceClient::new(channel);
        let values = values.clone();
        Ok(client.add(AddRequest { values }).await?.into_inner().sum)
    })
    .await
}

/// The health of a server that serves.
///
/// # Errors
/// Where the server cannot be reached, is too slow, does not know the service, or says anything but
/// SERVING.
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

/// Connects and asks, in the time that there is for both. Of several servers the next is asked where one is not there, over
/// and over: a request that changes something has an id, and happens once.
async fn in_time<T>(
    ServerOptions { address, timeout }: &ServerOptions,
    ask: impl AsyncFn(Channel) -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    let end = Instant::now() + *timeout;
    let count = u32::try_from(address.len()).unwrap_or(u32::MAX).max(1);
    loop {
        for address in address {
            let attempt = end.min(Instant::now() + *timeout / count);
            let answer = timeout_at(attempt, async {
                let channel = connect(address).await;
                ask(channel.map_err(|error| ClientError::Connect(address.clone(), error))?).await
            });
            let late = |_| Err(ClientError::Timeout(address.clone(), *timeout));
            let answer = answer.await.unwrap_or_else(late);
            let is_final = match &answer {
                Err(ClientError::Refused(status)) => status.code() != Code::Unavailable,
                Err(ClientError::Connect(..) | ClientError::Timeout(..)) => false,
                Ok(_) | Err(ClientError::NotServing(_)) => true,
            };
            if is_final || count == 1 || Instant::now() >= end {
                return answer;
            }
        }
        sleep(RETRY_PAUSE).await;
    }
}

async fn connect(address: &Address) -> Result<Channel, tonic::transport::Error> {
    let uri = match address {
        Address::Tcp(address) => format!("http://{address}"),
        Address::Unix(path) => format!("unix:{}", path.display()),
    };
    Endpoint::from_shared(uri)?.connect().await
}
