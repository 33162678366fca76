//! Compresses the answers of methods whose answers may be large, if the client asks for it. Requests are decompressed by
//! [`frames`](super::frames).

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::HeaderValue;
use http::{Request, Response};
use http_body::{Body, Frame};
use tonic::Status;
use tower::Service;

use super::connection::CallContext;
use super::encoding::Encoding;
use super::headers::GRPC_ENCODING;
use super::prefix::{self, PREFIX_BYTES};

/// The size from which on a message is compressed. Smaller ones fit into a packet as they are.
const MIN_BYTES: usize = 1 << 10;

/// The layer's service.
#[derive(Clone)]
pub struct Compression<S>(pub(super) S);

impl<S, B> Service<Request<B>> for Compression<S>
where
    S: Service<Request<B>, Response = Response<tonic::body::Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        ResponseFuture {
            encoding: CallContext::of(request.extensions()).answer_encoding,
            inner: self.0.call(request),
        }
    }
}

pin_project_lite::pin_project! {
    /// A response whose messages are compressed.
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        encoding: Option<Encoding>,
    }
}

impl<F, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<tonic::body::Body>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.inner.poll(cx))?;
        let Some(encoding) = *this.encoding else {
            return Poll::Ready(Ok(response));
        };
        // An error has its status in the headers, and no messages.
        if response.headers().contains_key(Status::GRPC_STATUS) {
            return Poll::Ready(Ok(response));
        }
        let name = HeaderValue::from_static(encoding.name());
        response.headers_mut().insert(GRPC_ENCODING, name);
        let compressed = |inner| tonic::body::Body::new(Compressed { inner, encoding });
        Poll::Ready(Ok(response.map(compressed)))
    }
}

/// A response body whose large messages are compressed.
struct Compressed {
    inner: tonic::body::Body,
    encoding: Encoding,
}

impl Body for Compressed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx)).transpose()?;
        Poll::Ready(match frame.map(Frame::into_data) {
            Some(Ok(messages)) => Some(Ok(Frame::data(compress(self.encoding, messages)))),
            Some(Err(trailers)) => Some(Ok(trailers)),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
}

/// Compresses the large messages of a frame, if that makes them smaller.
///
/// # Panics
/// Panics if the frame has a part of a message: tonic puts whole ones into a frame. The call ends with an error then.
fn compress(encoding: Encoding, frame: Bytes) -> Bytes {
    if frame.len() < PREFIX_BYTES + MIN_BYTES {
        return frame;
    }
    let mut out = Vec::new();
    let mut rest = &frame[..];
    while !rest.is_empty() {
        let prefix = rest.first_chunk().expect("whole messages");
        let (message, after) = rest.split_at(PREFIX_BYTES + prefix::length_of(*prefix));
        rest = after;
        let start = out.len();
        if message.len() >= PREFIX_BYTES + MIN_BYTES {
            out.extend_from_slice(&[0; PREFIX_BYTES]);
            encoding.compress(&message[PREFIX_BYTES..], &mut out);
            if out.len() - start < message.len() {
                prefix::write(prefix::COMPRESSED, &mut out[start..]);
                continue;
            }
            out.truncate(start);
        }
        out.extend_from_slice(message);
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;
    use std::panic::catch_unwind;

    use proptest::prelude::*;

    use super::*;

    /// The messages of a frame, decompressed, and the number of those that were compressed.
    fn read(encoding: Encoding, mut frame: &[u8]) -> (Vec<Vec<u8>>, usize) {
        let (mut messages, mut compressed) = (Vec::new(), 0);
        while let Some(prefix) = frame.first_chunk() {
            let (message, rest) = frame.split_at(PREFIX_BYTES + prefix::length_of(*prefix));
            let contents = &message[PREFIX_BYTES..];
            if prefix[0] == prefix::COMPRESSED {
                let mut out = Vec::new();
                let done = encoding.decompress(contents, 1 << 20, |part| {
                    out.extend_from_slice(part);
                    ControlFlow::Continue(())
                });
                done.expect("a valid message");
                messages.push(out);
                compressed += 1;
            } else {
                messages.push(contents.to_vec());
            }
            frame = rest;
        }
        (messages, compressed)
    }

    proptest! {
        /// Messages come back as they were, and those from 1 KiB on are compressed if they can be.
        #[test]
        fn large_messages_are_compressed(
            sizes in prop::collection::vec(prop::sample::select(vec![0, 5, 1023, 1024, 5000]), 0..6),
        ) {
            let messages: Vec<_> = sizes.iter().map(|size| vec![7; *size]).collect();
            let frame: Vec<u8> = messages.iter().flat_map(|message| prefix::plain(message)).collect();
            for encoding in [Encoding::Gzip, Encoding::Zstd] {
                let out = compress(encoding, frame.clone().into());
                let large = sizes.iter().filter(|size| **size >= MIN_BYTES).count();
                prop_assert_eq!(read(encoding, &out), (messages.clone(), large));
            }
        }
    }

    /// A message that compression makes no smaller stays as it is.
    #[test]
    fn noise_is_not_compressed() {
        let mut random = fastrand::Rng::with_seed(1);
        let noise: Vec<u8> = (0..2000).map(|_| random.u8(..)).collect();
        let frame = prefix::plain(&noise);
        for encoding in [Encoding::Gzip, Encoding::Zstd] {
            let out = compress(encoding, frame.clone().into());
            assert_eq!(out, frame);
        }
    }

    /// A part of a message is a bug, which ends the call: it is never taken for a whole one.
    #[test]
    fn a_part_of_a_message_is_not_sent() {
        let whole = prefix::plain(&[7; 2000]);
        let two = whole.repeat(2);
        for end in [whole.len() - 1, whole.len() + 3, two.len() - 1] {
            let frame = Bytes::copy_from_slice(&two[..end]);
            catch_unwind(|| compress(Encoding::Gzip, frame)).expect_err("a panic");
        }
    }
}
