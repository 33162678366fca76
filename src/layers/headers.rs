//! Checks a request's headers, and makes the context of its call from them.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{Either, Ready, ready};
use http::{HeaderMap, HeaderName, Request};
use tokio::time::Instant;
use tonic::Status;
use tonic::metadata::MetadataValue;
use tower::Service;

use super::connection::{CallContext, Connection};
use super::encoding::{ACCEPTED, Encoding};
use super::policy;
use super::replaced::LastReplaced;
use crate::status::{self, Reason};

pub(super) const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Bytes that a header adds to the size of a list, beside its name and value (RFC 9113, 6.5.2).
const HEADER_BYTES: usize = 32;

/// The layer's service.
#[derive(Clone)]
pub struct Headers<S> {
    pub(super) connection: Arc<Connection>,
    pub(super) inner: S,
}

impl<S, B> Service<Request<B>> for Headers<S>
where
    S: Service<Request<B>, Error = Status>,
{
    type Response = S::Response;
    type Error = Status;
    type Future = Either<Ready<Result<S::Response, Status>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match check(&request, &self.connection) {
            Ok(context) => {
                if context.encoding.is_some() {
                    // tonic gets plain messages.
                    request.headers_mut().remove(GRPC_ENCODING);
                }
                request.extensions_mut().insert(Arc::new(context));
                Either::Right(self.inner.call(request))
            }
            Err(refusal) => Either::Left(ready(Err(refusal))),
        }
    }
}

fn check<B>(request: &Request<B>, connection: &Arc<Connection>) -> Result<CallContext, Status> {
    check_size(request, connection.max_header_list_size)?;
    let timeout = timeout(request.headers())?;
    let path = request.uri().path();
    let policy = policy::find(path).ok_or_else(|| unknown_method(path))?;
    let encoding = encoding(request.headers())?;
    let asked = || Encoding::asked(request.headers());
    Ok(CallContext {
        policy,
        deadline: timeout.map(|timeout| Instant::now() + timeout),
        encoding,
        answer_encoding: policy.may_compress.then(asked).flatten(),
        replaced: LastReplaced::default(),
        connection: connection.clone(),
    })
}

/// The refusal of a call whose method is not served.
pub fn unknown_method(path: &str) -> Status {
    let message = format!("there is no method {}", status::quoted(path));
    Reason::UnknownMethod.error(message).into()
}

/// Refuses a request whose headers are too large. h2 reads more than this limit, because its own refusal is no gRPC
/// status and may end the whole connection.
fn check_size<B>(request: &Request<B>, max_bytes: u32) -> Result<(), Status> {
    let bytes = list_bytes(request);
    if bytes <= max_bytes as usize {
        return Ok(());
    }
    let message = format!(
        "the headers of the call have {bytes} bytes, over the limit of {max_bytes} (--max-header-list-size)"
    );
    let error = Reason::HeadersTooLarge.error(message);
    let error = error.with("bytes", bytes).with("max_bytes", max_bytes);
    Err(error.into())
}

/// The size of a request's header list, as HTTP/2 counts it.
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

/// The encoding of a request's compressed messages. If it is unknown, the refusal names those that are accepted.
fn encoding(headers: &HeaderMap) -> Result<Option<Encoding>, Status> {
    let Some(name) = headers
        .get(GRPC_ENCODING)
        .filter(|value| *value != "identity")
    else {
        return Ok(None);
    };
    if let Some(encoding) = Encoding::named(name.as_bytes()) {
        return Ok(Some(encoding));
    }
    let name = status::quoted(name);
    let message = format!("grpc-encoding is {name}; this service accepts {ACCEPTED}");
    let mut refusal = Status::from(Reason::CompressedMessage.error(message));
    let accepted = MetadataValue::from_static(ACCEPTED);
    refusal
        .metadata_mut()
        .insert("grpc-accept-encoding", accepted);
    Err(refusal)
}

/// The timeout of a call, if it has one.
///
/// The format is `grpc-timeout: TimeoutValue TimeoutUnit`, at most eight digits and one of H, M, S, m, u, n:
/// <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#requests>.
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get(GRPC_TIMEOUT) else {
        return Ok(None);
    };
    parse_timeout(value.as_bytes()).map(Some).ok_or_else(|| {
        let value = status::quoted(value);
        let message = format!(
            "grpc-timeout is {value}; it takes up to 8 digits and a unit of H, M, S, m, u or n"
        );
        Reason::InvalidTimeout.error(message).into()
    })
}

fn parse_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    match unit {
        b'H' => Some(Duration::from_hours(number)),
        b'M' => Some(Duration::from_mins(number)),
        b'S' => Some(Duration::from_secs(number)),
        b'm' => Some(Duration::from_millis(number)),
        b'u' => Some(Duration::from_micros(number)),
        b'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `grpc-timeout` is parsed as the protocol defines it, and all other text is refused.
    #[test]
    fn timeouts_are_parsed() {
        for (text, timeout) in [
            ("1H", Duration::from_hours(1)),
            ("2M", Duration::from_mins(2)),
            ("3S", Duration::from_secs(3)),
            ("4m", Duration::from_millis(4)),
            ("5u", Duration::from_micros(5)),
            ("6n", Duration::from_nanos(6)),
            ("0n", Duration::ZERO),
            ("99999999H", Duration::from_hours(99_999_999)),
        ] {
            assert_eq!(parse_timeout(text.as_bytes()), Some(timeout), "{text}");
        }
        for text in [
            "",
            "S",
            "1",
            "1s",
            "-1S",
            "+1S",
            "1.5S",
            "123456789S",
            "1 S",
            "١S",
        ] {
            assert_eq!(parse_timeout(text.as_bytes()), None, "{text}");
        }
    }
}
