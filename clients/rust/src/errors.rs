//! Errors as text for people: the code, the message and the details of a status.

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Prints one line for the status, then one indented line for each detail, to standard error.
pub fn report(status: &Status) {
    eprintln!("error: {}: {}", code_name(status.code()), status.message());
    for detail in describe(&status.get_error_details()) {
        eprintln!("  {detail}");
    }
}

/// Describes the details. Programs decide by `reason` and metadata, never by the message.
pub fn describe(details: &ErrorDetails) -> Vec<String> {
    let info = details.error_info().map(|info| {
        let mut metadata: Vec<_> = info.metadata.iter().collect();
        metadata.sort();
        let mut fields = vec![
            format!("reason={}", info.reason),
            format!("domain={}", info.domain),
        ];
        fields.extend(metadata.iter().map(|(key, value)| format!("{key}={value}")));
        fields.join(", ")
    });
    let fields = details.bad_request().into_iter().flat_map(|request| {
        let violations = request.field_violations.iter();
        violations.map(|wrong| format!("{}: {}", wrong.field, wrong.description))
    });
    let retry = details
        .retry_info()
        .and_then(|retry| retry.retry_delay)
        .map(|delay| format!("retry_delay={}s", delay.as_secs_f64()));
    info.into_iter().chain(fields).chain(retry).collect()
}

/// The code's name, as the gRPC specification and every other language spell it.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
