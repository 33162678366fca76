//! Sums: one array in a call, and more values than a message holds in a stream.
//!
//!     cargo run --example sum -- localhost:8080

use std::{env, error::Error, time::Duration};

use tonic::{Request, transport::Endpoint};
use tonic_types::StatusExt as _;

use pb::{AddAllRequest, AddRequest, sum_service_client::SumServiceClient};

#[allow(clippy::pedantic)]
mod pb {
    tonic::include_proto!("sum.v1");
}

const VALUES_PER_MESSAGE: i64 = 10_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1);
    let address = address.unwrap_or_else(|| "localhost:8080".to_owned());
    // The channel connects when it is used, and again after a connection breaks.
    let channel = Endpoint::from_shared(format!("http://{address}"))?.connect_lazy();
    let mut sums = SumServiceClient::new(channel);

    let values = vec![1, 2, 3];
    let mut request = Request::new(AddRequest { values });
    // The server gets the deadline, too.
    request.set_timeout(Duration::from_secs(5));
    let response = sums.add(request).await?.into_inner();
    println!("Add: {}", response.sum);

    // The values from 1 to 1,000,000. Each message is made when it is sent.
    let messages = (0..100).map(|message| {
        let first = message * VALUES_PER_MESSAGE + 1;
        let values = (first..first + VALUES_PER_MESSAGE).collect();
        AddAllRequest { values }
    });
    let response = sums.add_all(tokio_stream::iter(messages)).await?;
    let response = response.into_inner();
    println!("AddAll: {} of {} values", response.sum, response.count);

    // A sum that does not fit int64 is an error, which has the exact sum.
    let values = vec![i64::MAX, 1];
    if let Err(status) = sums.add(AddRequest { values }).await
        && let Some(info) = status.get_details_error_info()
    {
        println!("{}: {}", info.reason, info.metadata["sum"]);
    }
    Ok(())
}
