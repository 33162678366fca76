//! The encodings of messages, which the headers `grpc-encoding` and `grpc-accept-encoding` name:
//! <https://github.com/grpc/grpc/blob/master/doc/compression.md>.

use std::io::{self, Read, Write as _};
use std::ops::ControlFlow;

use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderName};

/// The names of all encodings, for the header `grpc-accept-encoding` of a refusal.
pub(super) const ACCEPTED: &str = "identity,gzip,zstd";

const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// The size of a part of a message that is decompressed at once.
const PART_BYTES: usize = 16 << 10;

/// The largest window of zstd that is accepted, as a power of two: 8 MiB, as RFC 8878 (3.1.1.1.2) recommends. The decoder's
/// memory has the size of the window.
const ZSTD_MAX_WINDOW_LOG: u32 = 23;

/// The fastest level, for answers: most go over fast networks, and their names compress well at any level.
const ZSTD_LEVEL: i32 = 1;

/// An encoding beside `identity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

/// A failure of decompression.
#[derive(Debug)]
pub(super) enum DecodeError {
    /// The bytes are not of the encoding.
    Malformed(io::Error),
    /// The message is larger than the limit.
    TooLarge,
}

impl Encoding {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// The encoding of this name.
    pub(super) fn named(name: &[u8]) -> Option<Self> {
        match name {
            b"gzip" => Some(Self::Gzip),
            b"zstd" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// The encoding for answers that the client asks for. If it takes both, that is zstd, which costs less time.
    pub(super) fn asked(headers: &HeaderMap) -> Option<Self> {
        let values = headers.get_all(GRPC_ACCEPT_ENCODING).iter();
        let names = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        let encodings = names.filter_map(|name| Self::named(name.trim_ascii()));
        encodings.reduce(|first, next| if next == Self::Zstd { next } else { first })
    }

    /// Decompresses a message, and hands it on in parts, up to a size of `max_bytes` and as long as it is wanted.
    pub(super) fn decompress(
        self,
        message: &[u8],
        max_bytes: usize,
        mut part: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), DecodeError> {
        let mut buffer = [0; PART_BYTES];
        let mut reader = self.reader(message).map_err(DecodeError::Malformed)?;
        let mut left = max_bytes;
        loop {
            let bytes = match reader.read(&mut buffer).map_err(DecodeError::Malformed)? {
                0 => return Ok(()),
                bytes => bytes,
            };
            left = left.checked_sub(bytes).ok_or(DecodeError::TooLarge)?;
            if part(&buffer[..bytes]).is_break() {
                return Ok(());
            }
        }
    }

    fn reader(self, message: &[u8]) -> io::Result<Box<dyn Read + '_>> {
        match self {
            Self::Gzip => Ok(Box::new(MultiGzDecoder::new(message))),
            Self::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(message)?;
                decoder.window_log_max(ZSTD_MAX_WINDOW_LOG)?;
                Ok(Box::new(decoder))
            }
        }
    }

    /// Compresses a message to the end of `out`.
    ///
    /// # Panics
    /// Panics if there is no memory for the encoder.
    pub(super) fn compress(self, message: &[u8], out: &mut Vec<u8>) {
        let done = match self {
            Self::Gzip => {
                let mut encoder = GzEncoder::new(out, Compression::fast());
                let written = encoder.write_all(message);
                written.and_then(|()| encoder.finish()).map(drop)
            }
            Self::Zstd => zstd::stream::copy_encode(message, out, ZSTD_LEVEL),
        };
        done.expect("a vector takes all bytes");
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn decompressed(
        encoding: Encoding,
        bytes: &[u8],
        max_bytes: usize,
    ) -> Result<Vec<u8>, DecodeError> {
        let mut out = Vec::new();
        encoding.decompress(bytes, max_bytes, |part| {
            out.extend_from_slice(part);
            ControlFlow::Continue(())
        })?;
        Ok(out)
    }

    fn compressed(encoding: Encoding, message: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encoding.compress(message, &mut out);
        out
    }

    proptest! {
        /// A message comes back as it was, within the limit of its own size and no smaller one. A cut one is refused.
        #[test]
        fn messages_come_back(
            bytes in prop::collection::vec(0u8..3, 0..50_000),
            cut in any::<prop::sample::Index>(),
        ) {
            for encoding in [Encoding::Gzip, Encoding::Zstd] {
                let packed = compressed(encoding, &bytes);
                let back = decompressed(encoding, &packed, bytes.len()).expect("no error");
                prop_assert!(back == bytes);
                if let Some(less) = bytes.len().checked_sub(1) {
                    let error = decompressed(encoding, &packed, less).expect_err("too large");
                    prop_assert!(matches!(error, DecodeError::TooLarge), "{:?}", error);
                }
                let cut = 1 + cut.index(packed.len() - 1);
                let error = decompressed(encoding, &packed[..cut], bytes.len());
                prop_assert!(matches!(error, Err(DecodeError::Malformed(_))));
            }
        }
    }

    /// zstd is preferred, in whatever order the client names the encodings. Others are not used.
    #[test]
    fn the_client_is_asked() {
        for (values, encoding) in [
            (&[][..], None),
            (&["identity"], None),
            (&["identity, deflate, gzip"], Some(Encoding::Gzip)),
            (&["gzip,zstd,identity"], Some(Encoding::Zstd)),
            (&["zstd", "gzip"], Some(Encoding::Zstd)),
            (&["gzipped"], None),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(GRPC_ACCEPT_ENCODING, HeaderValue::from_static(value));
            }
            assert_eq!(Encoding::asked(&headers), encoding, "{values:?}");
        }
    }

    /// A frame of zstd that claims a larger window than is accepted is refused.
    #[test]
    fn windows_have_a_limit() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("an encoder");
        encoder.window_log(24).expect("a window");
        encoder.write_all(b"a").expect("memory");
        let packed = encoder.finish().expect("a frame");
        let error = decompressed(Encoding::Zstd, &packed, 1 << 20).expect_err("too large a window");
        assert!(matches!(error, DecodeError::Malformed(_)), "{error:?}");
    }
}
