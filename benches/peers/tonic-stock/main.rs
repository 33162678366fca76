//! A tonic server of sumd's `SumService` with generated code, as in tonic's tutorial.

use protos::sum::v1::sum_service_server::{SumService, SumServiceServer};
use protos::sum::v1::{
    AddAllRequest, AddAllResponse, AddEachRequest, AddEachResponse, AddRequest, AddResponse,
};
use tonic::{Request, Response, Status, Streaming, codegen::BoxStream, transport::Server};

#[allow(clippy::pedantic, unused_qualifications)]
mod protos {
    include!(concat!(env!("OUT_DIR"), "/protos.rs"));
}

/// A million values of 31 bits take 5 MB; the default limit is 4 MiB.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

struct Adder;

#[tonic::async_trait]
impl SumService for Adder {
    type AddEachStream = BoxStream<AddEachResponse>;

    async fn add(&self, request: Request<AddRequest>) -> Result<Response<AddResponse>, Status> {
        let sum = request.into_inner().values.iter().sum();
        Ok(Response::new(AddResponse { sum }))
    }

    async fn add_all(
        &self,
        _: Request<Streaming<AddAllRequest>>,
    ) -> Result<Response<AddAllResponse>, Status> {
        Err(Status::unimplemented("the bench does not call it"))
    }

    async fn add_each(
        &self,
        _: Request<Streaming<AddEachRequest>>,
    ) -> Result<Response<Self::AddEachStream>, Status> {
        Err(Status::unimplemented("the bench does not call it"))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args()
        .nth(1)
        .ok_or("usage: tonic-stock HOST:PORT")?;
    let service = SumServiceServer::new(Adder).max_decoding_message_size(MAX_MESSAGE_BYTES);
    Server::builder()
        .add_service(service)
        .serve(address.parse()?)
        .await?;
    Ok(())
}
