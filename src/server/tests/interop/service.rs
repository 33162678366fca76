//! The service of the test cases:
//! <https://github.com/grpc/grpc/blob/master/doc/interop-test-descriptions.md#server>.

use std::pin::Pin;

use futures_util::stream::{self, Stream, StreamExt as _, TryStreamExt as _};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::layers::CallContext;
use proto::{
    BoolValue, EchoStatus, Empty, Payload, ResponseParameters, SimpleRequest, SimpleResponse,
    StreamingInputCallRequest, StreamingInputCallResponse, StreamingOutputCallRequest,
    StreamingOutputCallResponse, test_service_server,
};

/// The generated code of `test.proto`.
#[allow(missing_docs, clippy::pedantic)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/interop/grpc.testing.rs"));
}

/// The service. It has no state.
pub struct TestService;

type Answer<T> = Result<Response<T>, Status>;
type Answers = Pin<Box<dyn Stream<Item = Result<StreamingOutputCallResponse, Status>> + Send>>;

#[tonic::async_trait]
impl test_service_server::TestService for TestService {
    async fn empty_call(&self, _: Request<Empty>) -> Answer<Empty> {
        Ok(Response::new(Empty {}))
    }

    async fn unary_call(&self, request: Request<SimpleRequest>) -> Answer<SimpleResponse> {
        let is_compressed = is_compressed(&request);
        let request = request.into_inner();
        expect(request.expect_compressed, is_compressed)?;
        echo(request.response_status)?;
        let server_id = if request.fill_server_id { "sumd" } else { "" };
        Ok(Response::new(SimpleResponse {
            payload: Some(payload(request.response_size, request.response_compressed)?),
            server_id: server_id.to_owned(),
        }))
    }

    type StreamingOutputCallStream = Answers;

    async fn streaming_output_call(
        &self,
        request: Request<StreamingOutputCallRequest>,
    ) -> Answer<Answers> {
        let answers = answers(request.into_inner())?;
        Ok(Response::new(answers.boxed()))
    }

    async fn streaming_input_call(
        &self,
        request: Request<Streaming<StreamingInputCallRequest>>,
    ) -> Answer<StreamingInputCallResponse> {
        let is_compressed = is_compressed(&request);
        let mut requests = request.into_inner();
        let mut bytes = 0;
        while let Some(request) = requests.message().await? {
            expect(request.expect_compressed, is_compressed)?;
            bytes += request.payload.map_or(0, |payload| payload.body.len());
        }
        let too_large = |_| Status::out_of_range("the payloads are too large");
        Ok(Response::new(StreamingInputCallResponse {
            aggregated_payload_size: bytes.try_into().map_err(too_large)?,
        }))
    }

    type FullDuplexCallStream = Answers;

    async fn full_duplex_call(
        &self,
        request: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Answer<Answers> {
        let requests = request.into_inner();
        let answers = requests.map(|request| request.and_then(answers));
        Ok(Response::new(answers.try_flatten().boxed()))
    }
}

/// The answers to one request of a stream.
fn answers(
    request: StreamingOutputCallRequest,
) -> Result<impl Stream<Item = Result<StreamingOutputCallResponse, Status>>, Status> {
    echo(request.response_status)?;
    let answer = |ResponseParameters { size, compressed }| {
        let payload = Some(payload(size, compressed)?);
        Ok(StreamingOutputCallResponse { payload })
    };
    Ok(stream::iter(request.response_parameters).map(answer))
}

/// The status that a request asks for, as an error.
fn echo(status: Option<EchoStatus>) -> Result<(), Status> {
    match status {
        Some(EchoStatus { code, message }) if code != 0 => {
            Err(Status::new(Code::from_i32(code), message))
        }
        _ => Ok(()),
    }
}

/// Whether a request is compressed. Each of its messages may still be plain: only the layers see that.
fn is_compressed<T>(request: &Request<T>) -> bool {
    CallContext::of(request.extensions()).encoding.is_some()
}

/// Refuses a request that has to be compressed, and is not.
fn expect(compressed: Option<BoolValue>, is_compressed: bool) -> Result<(), Status> {
    match compressed {
        Some(BoolValue { value: true }) if !is_compressed => {
            Err(Status::invalid_argument("the request is not compressed"))
        }
        _ => Ok(()),
    }
}

/// Zeros; or noise, if the response must not be compressed: the layers compress each large message that becomes smaller.
fn payload(size: i32, compressed: Option<BoolValue>) -> Result<Payload, Status> {
    let negative = |_| Status::invalid_argument(format!("the size is {size}"));
    let size = usize::try_from(size).map_err(negative)?;
    let mut body = vec![0; size];
    if compressed == Some(BoolValue { value: false }) {
        fastrand::fill(&mut body);
    }
    Ok(Payload { body })
}
