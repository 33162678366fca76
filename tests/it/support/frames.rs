//! A client that sends any HTTP/2 frame at any time, whatever the server has answered.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::soon;

/// The preface and empty settings of an HTTP/2 client.
pub const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// One HTTP/2 connection.
pub struct Peer {
    stream: TcpStream,
    /// Frames that are not sent yet.
    unsent: Vec<u8>,
    last_stream: u32,
}

/// A frame of the server.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// Whether it is the last frame of its stream that is no reset.
    pub fn is_end(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }
}

impl Peer {
    pub async fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).await;
        Self {
            stream: stream.expect("the server listens"),
            unsent: HELLO.to_vec(),
            last_stream: 0,
        }
    }

    /// Adds the headers of a call, whose request goes on, to what is sent next. Returns the stream.
    pub fn call(&mut self, path: &str) -> u32 {
        self.last_stream = match self.last_stream {
            0 => 1,
            last => last + 2,
        };
        // HPACK: indexes into the static table, and literal texts without compression.
        let text = |text: &str| {
            let length = u8::try_from(text.len()).expect("a short text");
            [&[length][..], text.as_bytes()].concat()
        };
        let headers = [
            &[0x83, 0x86, 0x04][..],
            &text(path),
            &[0x0f, 0x10],
            &text("application/grpc"),
        ];
        self.frame(HEADERS, END_HEADERS, self.last_stream, &headers.concat());
        self.last_stream
    }

    /// Adds a part of a request to what is sent next.
    pub fn data(&mut self, stream: u32, bytes: &[u8], end: bool) {
        self.frame(DATA, u8::from(end) * END_STREAM, stream, bytes);
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("a small frame");
        self.unsent.extend(&length.to_be_bytes()[1..]);
        self.unsent.extend([kind, flags]);
        self.unsent.extend(stream.to_be_bytes());
        self.unsent.extend(payload);
    }

    /// Sends the frames that were added.
    pub async fn send(&mut self) {
        let frames = std::mem::take(&mut self.unsent);
        // If the server has closed the connection, its reason is yet to be read.
        let _ = soon(self.stream.write_all(&frames)).await;
    }

    /// The next frame, or `None` at the connection's end.
    pub async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        soon(self.stream.read_exact(&mut head)).await.ok()?;
        let [high, middle, low, kind, flags, stream @ ..] = head;
        let length = u32::from_be_bytes([0, high, middle, low]);
        let mut payload = vec![0; length as usize];
        soon(self.stream.read_exact(&mut payload)).await.ok()?;
        Some(Frame {
            kind,
            flags,
            stream: u32::from_be_bytes(stream),
            payload,
        })
    }

    /// Sends the frames that were added, and waits for the end of the connection. Returns the text of its GOAWAY.
    pub async fn end(&mut self) -> String {
        self.send().await;
        loop {
            let frame = self.next().await.expect("a GOAWAY");
            if frame.kind == GOAWAY {
                let (numbers, text) = frame.payload.split_at(8);
                assert_eq!(numbers[4..], [0, 0, 0, 11], "ENHANCE_YOUR_CALM");
                return String::from_utf8(text.to_vec()).expect("a text");
            }
        }
    }

    /// Reads up to a frame that fits.
    pub async fn until(&mut self, mut fits: impl FnMut(&Frame) -> bool) -> Frame {
        loop {
            let frame = self.next().await.expect("an open connection");
            assert_ne!(frame.kind, GOAWAY, "{}", frame.payload.escape_ascii());
            if fits(&frame) {
                return frame;
            }
        }
    }
}
