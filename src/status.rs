//! How every error of sumd looks on the wire: a code, a sentence, and an `ErrorInfo` that a program
//! can act on.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// The `domain` of every `ErrorInfo`.
pub const DOMAIN: &str = "sumd";

/// The longest text of a client's that an error quotes, in bytes: names and ids are never cut. An error travels in headers, up to
/// three times and escaped, and many clients have room for 8 KiB of those.
const MAX_QUOTED_BYTES: usize = 256;

/// The longest text of an error that another library has made, in bytes on the wire.
const MAX_FOREIGN_MESSAGE_BYTES: usize = 1 << 10;

/// A text that a client has sent, as an error quotes it: what is too long is cut, and its length told.
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

/// Cuts the text of an error that another library has put into headers: it may quote whatever a client has sent.
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
    let code = status.code().into();
    // The details of a status are a whole `google.rpc.Status`, encoded; where there are none, that is no bytes.
    let details = tonic_types::Status::decode(status.details()).ok();
    let details = details.filter(|details| details.code == code);
    details.unwrap_or_else(|| tonic_types::Status {
        code,
        message: status.message().to_owned(),
        details: Vec::new(),
    })
}

/// A status as an encoded message.
#[must_use]
pub fn to_encoded(status: &Status) -> Bytes {
    to_proto(status).encode_to_vec().into()
}

/// The status that was made an encoded message.
#[must_use]
pub fn from_encoded(encoded: Bytes) -> Status {
    match tonic_types::Status::decode(encoded.clone()) {
        Ok(status) => Status::with_details(Code::from_i32(status.code), status.message, encoded),
        Err(_) => Status::internal("what should be a status is none"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names and ids are quoted whole; what is longer is cut between two characters, and told with its length.
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

    /// The text of an error is cut as its characters are, not as they are escaped; one that is short stays as it is.
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
        let metadata = [not_applied()];
        let status = with_reason(Code::OutOfRange, "too large", "TOO_LARGE", &metadata);
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
