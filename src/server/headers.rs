//! Checks of a request's headers, which come before its method is looked at.

use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use tonic::Status;

use super::body::ResponseBody;
use crate::status::{self, Reason};

const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// Bytes that a header takes in a list beside its name and value (RFC 9113, 6.5.2).
const HEADER_BYTES: usize = 32;

/// Refuses a request with more headers than it may have. HTTP/2 takes in more than that, since its own refusal is no gRPC
/// status, and does not stop at the one call.
pub(super) fn check_size<B>(request: &Request<B>, max_bytes: u32) -> Result<(), Status> {
    let bytes = list_bytes(request);
    if bytes <= max_bytes as usize {
        return Ok(());
    }
    let message = format!(
        "the headers of the call have {bytes} bytes, over the limit of {max_bytes} (--max-header-list-size)"
    );
    Err(Reason::HeadersTooLarge
        .error(message)
        .with("bytes", bytes)
        .with("max_bytes", max_bytes)
        .into())
}

/// The size of a request's header list, as HTTP/2 reckons it.
fn list_bytes<B>(request: &Request<B>) -> usize {
    let uri = request.uri();
    let pseudo = [
        (":method", request.method().as_str()),
        (":scheme", uri.scheme_str().unwrap_or_default()),
        (
            ":authority",
            uri.authority().map_or("", |name| name.as_str()),
        ),
        (
            ":path",
            uri.path_and_query().map_or("", |path| path.as_str()),
        ),
    ];
    let pseudo = pseudo.iter().filter(|(_, value)| !value.is_empty());
    let pseudo = pseudo.map(|(name, value)| name.len() + value.len());
    let others = request.headers().iter();
    let others = others.map(|(name, value)| name.as_str().len() + value.len());
    pseudo.chain(others).map(|bytes| bytes + HEADER_BYTES).sum()
}

/// Answers what is HTTP/2 and not gRPC as HTTP does, as the protocol asks for.
pub(super) fn refuse<B>(request: &Request<B>) -> Option<Response<ResponseBody>> {
    let refusal = |code, name, value| {
        let mut response = Response::new(ResponseBody::default());
        *response.status_mut() = code;
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
        Some(response)
    };
    if request.method() != Method::POST {
        return refusal(StatusCode::METHOD_NOT_ALLOWED, ALLOW, "POST");
    }
    if !request.headers().get(CONTENT_TYPE).is_some_and(is_grpc) {
        return refusal(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            http::header::ACCEPT,
            "application/grpc",
        );
    }
    None
}

fn is_grpc(content_type: &HeaderValue) -> bool {
    let Some(rest) = content_type.as_bytes().strip_prefix(b"application/grpc") else {
        return false;
    };
    rest.strip_prefix(b"+proto")
        .unwrap_or(rest)
        .first()
        .is_none_or(|&byte| byte == b';')
}

/// Refuses a compressed request, and says what is understood.
pub(super) fn check_encoding(headers: &HeaderMap) -> Result<(), Status> {
    match headers.get(GRPC_ENCODING) {
        None => Ok(()),
        Some(encoding) if encoding == "identity" => Ok(()),
        Some(encoding) => {
            let encoding = status::quoted(encoding);
            let message =
                format!("grpc-encoding is {encoding}, and this service takes only identity");
            let mut refusal = Status::from(Reason::CompressedMessage.error(message));
            refusal.metadata_mut().insert(
                "grpc-accept-encoding",
                tonic::metadata::MetadataValue::from_static("identity"),
            );
            Err(refusal)
        }
    }
}
