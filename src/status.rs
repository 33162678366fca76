//! The form of every error on the wire: a code, a sentence, and an `ErrorInfo` that a program can act on.

mod reason;

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

pub use crate::model::Outcome;
pub use reason::{Reason, Retry};

/// The `domain` of every `ErrorInfo`.
pub const DOMAIN: &str = "sumd";

/// Maximum length of a client's text that an error quotes, in bytes. It never cuts names and ids. An error travels in
/// headers, up to three times and escaped, and many clients accept only 8 KiB of headers.
const MAX_QUOTED_BYTES: usize = 256;

/// Maximum length of an error message that another library has made, in bytes on the wire.
const MAX_FOREIGN_MESSAGE_BYTES: usize = 1 << 10;

/// Quotes a text of a client for an error message. A text that is too long is cut, and its length added.
pub fn quoted(text: impl AsRef<[u8]>) -> String {
    let bytes = text.as_ref();
    match std::str::from_utf8(bytes) {
        Ok(text) if bytes.len() <= MAX_QUOTED_BYTES => format!("{text:?}"),
        Ok(text) => {
            let cut = &text[..text.floor_char_boundary(MAX_QUOTED_BYTES / 2)];
            format!("{cut:?}... ({} bytes)", bytes.len())
        }
        Err(_) if bytes.len() <= MAX_QUOTED_BYTES => format!("\"{}\"", bytes.escape_ascii()),
        Err(_) => {
            let cut = bytes[..MAX_QUOTED_BYTES / 2].escape_ascii();
            format!("\"{cut}\"... ({} bytes)", bytes.len())
        }
    }
}

/// Shortens an error message that another library has put into the headers, because it may quote any text of a client.
pub fn cut_message(headers: &mut HeaderMap) {
    let message = headers.get(Status::GRPC_MESSAGE);
    if message.is_none_or(|message| message.len() <= MAX_FOREIGN_MESSAGE_BYTES) {
        return;
    }
    let Some(status) = Status::from_header_map(headers) else {
        return;
    };
    let message = status.message();
    let cut = &message[..message.floor_char_boundary(MAX_QUOTED_BYTES)];
    let cut = format!("{cut}... ({} bytes)", message.len());
    let cut = trailers(&Status::new(status.code(), cut));
    headers.extend(cut);
}

/// An error of the public contract, in gRPC's richer error model (<https://grpc.io/docs/guides/error/>): a status with
/// an `ErrorInfo`, and with a `RetryInfo` or a `BadRequest` if the error has one.
#[must_use]
pub struct RichError {
    reason: Reason,
    message: String,
    outcome: Option<Outcome>,
    metadata: HashMap<String, String>,
    details: ErrorDetails,
}

impl Reason {
    /// An error with this reason.
    pub fn error(self, message: impl Into<String>) -> RichError {
        RichError {
            reason: self,
            message: message.into(),
            outcome: self.outcome(),
            metadata: HashMap::new(),
            details: ErrorDetails::new(),
        }
    }
}

impl RichError {
    /// Adds a value to the metadata of the `ErrorInfo`.
    #[allow(clippy::needless_pass_by_value)]
    pub fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    /// Adds a value to the metadata if there is one.
    pub fn with_some(self, key: &str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    /// Adds a field and its problem to the `BadRequest`.
    pub fn violation(mut self, field: impl Into<String>, problem: impl Into<String>) -> Self {
        self.details.add_bad_request_violation(field, problem);
        self
    }

    /// Sets the outcome of the change. Otherwise it is that of the reason, or UNKNOWN if the reason declares none.
    pub fn outcome(mut self, outcome: Outcome) -> Self {
        self.outcome = Some(outcome);
        self
    }

    /// Adds a `RetryInfo`: try again after `delay`.
    pub fn retry_in(mut self, delay: Duration) -> Self {
        self.details.set_retry_info(Some(delay));
        self
    }
}

impl From<RichError> for Status {
    fn from(error: RichError) -> Self {
        let RichError {
            reason,
            message,
            outcome,
            mut metadata,
            mut details,
        } = error;
        debug_assert_eq!(
            details.retry_info().is_some(),
            reason.retry() == Retry::AfterDelay,
            "{reason:?} and RetryInfo"
        );
        let outcome = outcome.unwrap_or(Outcome::Unknown);
        metadata.insert("outcome".to_owned(), outcome.name().to_owned());
        details.set_error_info(reason.name(), DOMAIN, metadata);
        Self::with_error_details(reason.code(), message, details)
    }
}

/// INVALID_ARGUMENT, with a `BadRequest` that names each field and its problem. Nothing was applied.
#[must_use]
pub fn invalid_argument(violations: Vec<(String, String)>) -> Status {
    let sentences = violations
        .iter()
        .map(|(field, problem)| format!("{field}: {problem}"));
    let message = sentences.collect::<Vec<_>>().join("; ");
    let mut error = Reason::InvalidArgument.error(message);
    for (field, problem) in violations {
        error = error.violation(field, problem);
    }
    error.into()
}

/// An internal error. Its cause is in the server's log.
#[must_use]
pub fn panicked() -> Status {
    let message = "the server failed on this call; its log says where";
    Reason::Panic.error(message).into()
}

/// A message that is not what its method takes.
#[must_use]
pub fn malformed(problem: &dyn std::fmt::Display) -> Status {
    let message = format!("the message is malformed: {problem}");
    Reason::MalformedMessage.error(message).into()
}

/// A sum outside of int64.
#[must_use]
pub fn sum_out_of_range(sum: i128) -> Status {
    let (min, max) = (i64::MIN, i64::MAX);
    let message = format!("the sum is {sum}, outside int64 ({min} to {max})");
    let error = Reason::SumOutOfRange.error(message);
    error
        .with("sum", sum)
        .with("min", min)
        .with("max", max)
        .into()
}

/// The trailers of a response that ends with `status`.
#[must_use]
pub fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(3);
    if status.add_header(&mut trailers).is_err() {
        // Some metadata is no valid header value. The code matters most to the caller.
        trailers.insert(
            Status::GRPC_STATUS,
            HeaderValue::from(i32::from(status.code())),
        );
    }
    trailers
}

/// The status as a message, to be embedded in a response.
#[must_use]
pub fn to_proto(status: &Status) -> tonic_types::Status {
    let code = status.code().into();
    // The details of a status are a whole encoded `google.rpc.Status`, or empty.
    let details = tonic_types::Status::decode(status.details()).ok();
    let details = details.filter(|details| details.code == code);
    details.unwrap_or_else(|| tonic_types::Status {
        code,
        message: status.message().to_owned(),
        details: Vec::new(),
    })
}

/// The status as an encoded message.
#[must_use]
pub fn to_encoded(status: &Status) -> Bytes {
    to_proto(status).encode_to_vec().into()
}

/// The status of an encoded message.
#[must_use]
pub fn from_encoded(encoded: Bytes) -> Status {
    match tonic_types::Status::decode(encoded.clone()) {
        Ok(status) => Status::with_details(Code::from_i32(status.code), status.message, encoded),
        Err(_) => Status::internal("the status of the other node cannot be read"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names and ids are quoted whole. A longer text is cut between two characters, and its length is added.
    #[test]
    fn long_texts_are_cut() {
        assert_eq!(quoted("a\n"), r#""a\n""#);
        let name = "x".repeat(256);
        assert_eq!(quoted(&name), format!("{name:?}"));
        let long = "x\u{20ac}".repeat(1000);
        let cut = "x\u{20ac}".repeat(32);
        assert_eq!(quoted(&long), format!("{cut:?}... (4000 bytes)"));
        assert_eq!(quoted(b"\xff\"".as_slice()), r#""\xff\"""#);
        let cut = r"\xff".repeat(128);
        assert_eq!(quoted([0xff; 300]), format!("\"{cut}\"... (300 bytes)"));
    }

    /// A message is cut by its characters, before they are escaped. A short message stays as it is.
    #[test]
    fn long_messages_are_cut() {
        let mut headers = trailers(&Status::not_found("\u{e9}".repeat(5000)));
        cut_message(&mut headers);
        let status = Status::from_header_map(&headers).expect("a status");
        let cut = "\u{e9}".repeat(128);
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(status.message(), format!("{cut}... (10000 bytes)"));
        let short = trailers(&Status::not_found("short"));
        let mut headers = short.clone();
        cut_message(&mut headers);
        assert_eq!(headers, short);
    }

    #[test]
    fn a_status_stays_the_same_inside_an_answer() {
        let status: Status = Reason::SumOutOfRange.error("too large").into();
        let encoded = to_proto(&status).encode_to_vec();
        let back = from_encoded(encoded.into());
        assert_eq!(
            (back.code(), back.message()),
            (Code::OutOfRange, "too large")
        );
        let info = back.get_details_error_info().expect("an ErrorInfo");
        assert_eq!(info.metadata["outcome"], "NOT_APPLIED");
        let plain = to_proto(&Status::aborted("plain"));
        assert_eq!((plain.code, &*plain.message), (10, "plain"));
    }
}
