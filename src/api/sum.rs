//! `sum.v1.SumService`: exact sums of integers.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::sum_service_server;
use super::wire::{EachSum, Sum};
use crate::layers::Skipped;
use crate::proto::sum::v1::{AddAllResponse, AddEachResponse, AddResponse, add_each_response};
use crate::status;
use crate::sum::wire::Total;

/// The service. It has no state: messages are summed while they are decoded.
pub struct SumApi;

#[tonic::async_trait]
impl sum_service_server::SumService for SumApi {
    async fn add(&self, request: Request<Sum>) -> Result<Response<AddResponse>, Status> {
        let Sum(total) = request.into_inner();
        let sum = in_range(total.sum)?;
        Ok(Response::new(AddResponse { sum }))
    }

    async fn add_all(
        &self,
        request: Request<Streaming<Sum>>,
    ) -> Result<Response<AddAllResponse>, Status> {
        let mut messages = request.into_inner();
        let mut all = Total::default();
        while let Some(Sum(total)) = messages.message().await? {
            all += total;
        }
        Ok(Response::new(AddAllResponse {
            sum: in_range(all.sum)?,
            count: all.count,
        }))
    }

    type AddEachStream = Each;

    async fn add_each(
        &self,
        request: Request<Streaming<EachSum>>,
    ) -> Result<Response<Each>, Status> {
        let skipped = request.extensions().get().cloned().unwrap_or_default();
        Ok(Response::new(Each {
            messages: request.into_inner(),
            count: 0,
            skipped,
        }))
    }
}

/// The answers of an `AddEach` stream. It reads a message only when an answer is asked for, so a caller that reads no
/// answers is not read from either.
pub struct Each {
    messages: Streaming<EachSum>,
    /// Number of messages read.
    count: u64,
    skipped: Skipped,
}

impl Stream for Each {
    type Item = Result<AddEachResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(message) = ready!(Pin::new(&mut self.messages).poll_next(cx)).transpose()? else {
            return Poll::Ready(None);
        };
        self.count += 1;
        // A refused message is empty.
        let refused = match message.0 {
            Ok(Total { count: 0, .. }) => self.skipped.take(self.count),
            _ => None,
        };
        let answer = match refused {
            Some(error) => Err(error.into()),
            None => answer(message),
        };
        let result = match answer {
            Ok(sum) => add_each_response::Result::Sum(sum),
            Err(status) => add_each_response::Result::Error(status::to_proto(&status)),
        };
        let result = Some(result);
        Poll::Ready(Some(Ok(AddEachResponse { result })))
    }
}

fn answer(EachSum(total): EachSum) -> Result<i64, Status> {
    let total = total.map_err(|problem| status::malformed(&problem))?;
    in_range(total.sum)
}

/// A sum as an int64, or the status if it is out of range.
fn in_range(sum: i128) -> Result<i64, Status> {
    i64::try_from(sum).map_err(|_| status::sum_out_of_range(sum))
}
