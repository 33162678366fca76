//! An increment that counts once, however often it is sent.
//!
//!     cargo run --example counter -- localhost:8080

use std::{env, error::Error, time::Duration};

use tokio::time::sleep;
use tonic::{
    Request, Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;
use uuid::Uuid;

use pb::{
    IncrementCounterRequest, IncrementCounterResponse, counter_service_client::CounterServiceClient,
};

#[allow(clippy::pedantic)]
mod pb {
    tonic::include_proto!("sum.v1");
}

const MAX_ATTEMPTS: u32 = 5;
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1);
    let address = address.unwrap_or_else(|| "localhost:8080".to_owned());
    // The channel connects when it is used, and again after a connection breaks.
    let channel = Endpoint::from_shared(format!("http://{address}"))?.connect_lazy();
    let mut counters = CounterServiceClient::new(channel);

    let request = IncrementCounterRequest {
        counter: "acme/api-calls".to_owned(),
        delta: 5,
        // The id is made before the first attempt, and is the same in all. A UUIDv7 carries its time.
        request_id: Uuid::now_v7().to_string(),
        ..Default::default()
    };
    for _ in 0..2 {
        // The second time, as after a lost response, nothing is added: the first response comes again.
        let response = increment(&mut counters, &request).await?;
        println!("value={} replayed={}", response.value, response.replayed);
    }
    Ok(())
}

/// Sends an increment until it is answered. It needs a `request_id`.
async fn increment(
    counters: &mut CounterServiceClient<Channel>,
    increment: &IncrementCounterRequest,
) -> Result<IncrementCounterResponse, Status> {
    let mut pause = Duration::from_millis(50);
    let mut attempt = 1;
    loop {
        let mut request = Request::new(increment.clone());
        request.set_timeout(ATTEMPT_TIMEOUT);
        let status = match counters.increment_counter(request).await {
            Ok(response) => return Ok(response.into_inner()),
            Err(status) => status,
        };
        let Some(delay) = retry_delay(&status).filter(|_| attempt < MAX_ATTEMPTS) else {
            return Err(status);
        };
        sleep(delay.max(pause)).await;
        pause *= 2;
        attempt += 1;
    }
}

/// The least delay before a retry; `None` if a retry would fail in the same way.
fn retry_delay(status: &Status) -> Option<Duration> {
    let details = status.get_error_details();
    if let Some(retry) = details.retry_info() {
        return retry.retry_delay;
    }
    // The deadline has passed, or the error is not from the server: the connection broke. The increment may be counted.
    let reason = details.error_info().map(|info| &*info.reason);
    matches!(reason, None | Some("DEADLINE_EXCEEDED")).then_some(Duration::ZERO)
}
