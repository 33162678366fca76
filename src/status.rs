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
    let metadata = metadata.iter().cloned();
    let metadata: HashMap<_, _> = metadata.map(|(key, value)| (key.into(), value)).collect();
    let details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
    Status::with_error_details(code, message, details)
}

/// UNAVAILABLE, with a `RetryInfo` beside the `ErrorInfo`: nothing was done, try again after `delay`.
pub fn unavailable(message: impl Into<String>, reason: &str, delay: Duration) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    details.set_retry_info(Some(delay));
    Status::with_error_details(Code::Unavailable, message, details)
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
