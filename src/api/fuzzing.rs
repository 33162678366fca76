//! Page tokens, and the errors that clients get for messages.

// A panic is how a target reports what it found.
#![allow(clippy::missing_panics_doc)]

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::page_token as token;
use crate::counters::fuzzing as counters;
use crate::model::fuzzing::hasher;
use crate::status;

/// Bytes of headers that many clients accept. An error travels in them.
const MAX_HEADER_BYTES: usize = 8 << 10;
/// Bytes that HTTP/2 counts for a header beside its name and value.
const HEADER_BYTES: usize = 32;

/// A request that changes a counter, decided as [`counters::request`] says. A refused one is invalid, and its error fits
/// into headers.
pub fn request(bytes: &[u8]) {
    if let Some(error) = counters::request(bytes) {
        let status = Status::from(error);
        assert_eq!(status.code(), Code::InvalidArgument);
        check_error(&status);
    }
}

/// The answer of another node, read as [`counters::answer`] says. The errors for clients fit into headers.
pub fn answer(bytes: &[u8]) {
    for error in counters::answer(bytes) {
        check_error(&error.into());
    }
}

/// Checks that clients can take in an error, and that it says what happened.
fn check_error(status: &Status) {
    let trailers = status::trailers(status);
    let bytes = trailers.iter();
    let bytes = bytes.map(|(name, value)| name.as_str().len() + value.len() + HEADER_BYTES);
    assert!(bytes.sum::<usize>() <= MAX_HEADER_BYTES, "{status:?}");
    let info = status.get_details_error_info().expect("an ErrorInfo");
    assert!(info.metadata.contains_key("outcome"), "{status:?}");
}

/// A prefix and a page token, on a line each: an accepted token is the one that the server makes. The second line, as a
/// name, comes back from its own token.
pub fn page_token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let (prefix, rest) = text.split_once('\n').unwrap_or(("", text));
    if let Some(last) = token::decode(hasher(), prefix, rest) {
        assert_eq!(token::encode(hasher(), prefix, &last), rest);
    }
    let made = token::encode(hasher(), prefix, rest);
    let last = token::decode(hasher(), prefix, &made);
    assert_eq!(last.as_deref(), Some(rest));
}
