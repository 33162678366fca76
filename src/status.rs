//! How every error of sumd looks on the wire: a code, a sentence, and an `ErrorInfo` that a program
//! can act on.

use std::collections::HashMap;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// The `domain` of every `ErrorInfo`.
pub const DOMAIN: &str = "sumd";

/// A status with an `ErrorInfo`.
pub fn with_reason(
    code: Code,
    message: impl Into<String>,
    reason: &str,
    metadata: &[(&str, String)],
) -> Status {
    Status::with_error_details(code, message, error_info(reason, metadata))
}

/// INVALID_ARGUMENT, with a `BadRequest` that names each field and what is wrong with it. Nothing was done.
#[must_use]
pub fn invalid_argument(violations: Vec<(String, String)>) -> Status {
    let sentences = violations
        .iter()
        .map(|(field, problem)| format!("{field}: {problem}"));
    let message = sentences.collect::<Vec<_>>().join("; ");
    let mut details = error_info("INVALID_ARGUMENT", &[not_applied()]);
    for (field, problem) in violations {
        details.add_bad_request_violation(field, problem);
    }
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// A status with a `RetryInfo` beside the `ErrorInfo`: try again after `delay`.
pub fn retriable(
    code: Code,
    message: impl Into<String>,
    reason: &str,
    metadata: &[(&str, String)],
    delay: Duration,
) -> Status {
    let mut details = error_info(reason, metadata);
    details.set_retry_info(Some(delay));
    Status::with_error_details(code, message, details)
}

fn error_info(reason: &str, metadata: &[(&str, String)]) -> ErrorDetails {
    let metadata = metadata.iter().cloned();
    let metadata: HashMap<_, _> = metadata.map(|(key, value)| (key.into(), value)).collect();
    ErrorDetails::with_error_info(reason, DOMAIN, metadata)
}

/// The metadata of an error after which nothing was changed, and nothing will be.
#[must_use]
pub fn not_applied() -> (&'static str, String) {
    ("outcome", "NOT_APPLIED".to_owned())
}

/// The metadata of an error after which a change may have been made, or may yet be.
#[must_use]
pub fn unknown() -> (&'static str, String) {
    ("outcome", "UNKNOWN".to_owned())
}

/// The trailers that end a response well.
#[must_use]
pub fn ok_trailers() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
    trailers
}

/// The trailers that end a response with `status`.
#[must_use]
pub fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(3);
    if status.add_header(&mut trailers).is_err() {
        // Metadata that is no header value: the code is what the caller needs most.
        trailers.insert(
            Status::GRPC_STATUS,
            HeaderValue::from(i32::from(status.code())),
        );
    }
    trailers
}

/// The status as a message, for an answer that carries it inside.
#[must_use]
pub fn to_proto(status: &Status) -> tonic_types::Status {
    // The details of a status are a whole `google.rpc.Status`, encoded.
    tonic_types::Status::decode(status.details()).unwrap_or_else(|_| tonic_types::Status {
        code: status.code().into(),
        message: status.message().to_owned(),
        details: Vec::new(),
    })
}
