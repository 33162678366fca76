//! `sum.v1.SumService`: exact sums of integers.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::sum_service_server;
use super::wire::Sum;
use crate::layers::{CallContext, Replaced};
use crate::proto::sum::v1::{AddAllResponse, AddEachResponse, AddResponse, add_each_response};
use crate::status;
use crate::sum::wire::Total;

/// The service. It has no state: messages are summed while they are decoded.
pub struct SumApi;

#[tonic::async_trait]
impl sum_service_server::SumService for SumApi {
    async fn add(&self, request: Request<Sum>) -> Result<Response<AddResponse>, Status> {
        let call = CallContext::of(request.extensions()).clone();
        let total = total(request.into_inner(), &call, 1)?;
        let sum = in_range(total.sum)?;
        Ok(Response::new(AddResponse { sum }))
    }

    async fn add_all(
        &self,
        request: Request<Streaming<Sum>>,
    ) -> Result<Response<AddAllResponse>, Status> {
        let call = CallContext::of(request.extensions()).clone();
        let mut messages = request.into_inner();
        let mut all = Total::default();
        let mut number = 0;
        while let Some(sum) = messages.message().await? {
            number += 1;
            all += total(sum, &call, number)?;
        }
        Ok(Response::new(AddAllResponse {
            sum: in_range(all.sum)?,
            count: all.count,
        }))
    }

    type AddEachStream = Each;

    async fn add_each(&self, request: Request<Streaming<Sum>>) -> Result<Response<Each>, Status> {
        Ok(Response::new(Each {
            call: CallContext::of(request.extensions()).clone(),
            messages: request.into_inner(),
            number: 0,
        }))
    }
}

/// The answers of an `AddEach` stream. It reads a message only when an answer is asked for, so a caller that reads no
/// answers is not read from either.
pub struct Each {
    messages: Streaming<Sum>,
    /// The number of the last message.
    number: u64,
    call: Arc<CallContext>,
}

impl Stream for Each {
    type Item = Result<AddEachResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(sum) = ready!(Pin::new(&mut self.messages).poll_next(cx)).transpose()? else {
            return Poll::Ready(None);
        };
        self.number += 1;
        // A message that fails fails alone, and does not end the call.
        let total = total(sum, &self.call, self.number).and_then(|total| in_range(total.sum));
        let result = match total {
            Ok(sum) => add_each_response::Result::Sum(sum),
            Err(status) => add_each_response::Result::Error(status::to_proto(&status)),
        };
        let result = Some(result);
        Poll::Ready(Some(Ok(AddEachResponse { result })))
    }
}

/// The total of a message that has just been read. The message is empty if it came in parts or compressed, or was refused.
fn total(Sum(sum): Sum, call: &CallContext, number: u64) -> Result<Total, Status> {
    let replaced = match sum {
        Ok(Total { count: 0, .. }) => call.replaced.take(number),
        _ => None,
    };
    let sum = match replaced {
        Some(Replaced::Refused(error)) => return Err(error.into()),
        Some(Replaced::Summed(sum)) => sum,
        None => sum,
    };
    sum.map_err(|problem| status::malformed(&problem))
}

/// A sum as an int64, or the status if it is out of range.
fn in_range(sum: i128) -> Result<i64, Status> {
    i64::try_from(sum).map_err(|_| status::sum_out_of_range(sum))
}
