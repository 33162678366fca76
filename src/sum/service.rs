//! The methods: read messages, add, answer.

use bytes::Bytes;
use http::Response;
use http_body::Body;
use tonic::Status;

use super::error::{SumError, in_range};
use super::messages::Messages;
use super::response::Each;
use super::wire::Total;
use crate::grpc::{self, FrameError, ResponseBody, next_bytes};
use crate::proto::sum::v1::{AddAllResponse, AddResponse};

/// A method of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// One message, one sum.
    Add,
    /// Many messages, one sum.
    AddAll,
    /// Many messages, a sum for each.
    AddEach,
}

/// The service; it has limits, and no state.
#[derive(Clone, Copy, Debug)]
pub struct SumService {
    /// A message with more bytes is refused.
    pub max_message_bytes: usize,
}

impl SumService {
    /// The service's full name, as health checks and reflection know it.
    pub const NAME: &str = "sum.v1.SumService";

    /// The method that a request's path asks for, if it is one of this service.
    #[must_use]
    pub fn method(path: &str) -> Option<Method> {
        match path.strip_prefix("/sum.v1.SumService/")? {
            "Add" => Some(Method::Add),
            "AddAll" => Some(Method::AddAll),
            "AddEach" => Some(Method::AddEach),
            _ => None,
        }
    }

    /// Answers one call. An error of `request` becomes the call's status.
    pub async fn call<B>(&self, method: Method, request: B) -> Response<ResponseBody>
    where
        B: Body<Data = Bytes, Error = Status> + Send + Unpin + 'static,
    {
        let messages = Messages::new(self.max_message_bytes);
        let answer = match method {
            Method::Add => add(request, messages).await.map(|sum| grpc::unary(&sum)),
            Method::AddAll => add_all(request, messages)
                .await
                .map(|sum| grpc::unary(&sum)),
            Method::AddEach => Ok(grpc::stream_body(Each::new(request, messages))),
        };
        answer.unwrap_or_else(Status::into_http)
    }
}

async fn add<B>(mut request: B, mut messages: Messages) -> Result<AddResponse, Status>
where
    B: Body<Data = Bytes, Error = Status> + Unpin,
{
    let mut only = None;
    while let Some(bytes) = next_bytes(&mut request).await? {
        let mut bytes = bytes.as_ref();
        while !bytes.is_empty() {
            if let Some(total) = next_total(&mut messages, &mut bytes)?
                && only.replace(total).is_some()
            {
                return Err(FrameError::Count { at_least: 2 }.into());
            }
        }
    }
    messages.check_end()?;
    let total = only.ok_or(FrameError::Count { at_least: 0 })?;
    Ok(AddResponse {
        sum: in_range(total.sum)?,
    })
}

async fn add_all<B>(mut request: B, mut messages: Messages) -> Result<AddAllResponse, Status>
where
    B: Body<Data = Bytes, Error = Status> + Unpin,
{
    let mut all = Total::default();
    while let Some(bytes) = next_bytes(&mut request).await? {
        let mut bytes = bytes.as_ref();
        while !bytes.is_empty() {
            if let Some(total) = next_total(&mut messages, &mut bytes)? {
                all += total;
            }
        }
    }
    messages.check_end()?;
    Ok(AddAllResponse {
        sum: in_range(all.sum)?,
        count: all.count,
    })
}

/// The sum of the next message, for a method that cannot go on without it: a message that is refused is
/// refused at once, not when its end has come.
fn next_total(messages: &mut Messages, bytes: &mut &[u8]) -> Result<Option<Total>, SumError> {
    match messages.next(bytes)? {
        Some(sum) => sum.map(Some),
        None => messages
            .refused()
            .map_or(Ok(None), |error| Err(error.clone())),
    }
}
