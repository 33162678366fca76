//! Every bound of the server, each with a unit, a reason and a flag.

use std::ops::RangeInclusive;
use std::time::Duration;

use clap::Args;

use crate::ranged::{self, Ranged};

/// A time in which something happens, or must happen.
fn time() -> Ranged<Duration> {
    ranged::time(Duration::from_millis(1)..=ranged::YEAR)
}

/// A time to wait, which may be none.
fn wait() -> Ranged<Duration> {
    ranged::time(Duration::ZERO..=ranged::YEAR)
}

/// A count of things of which there must be one.
fn count() -> Ranged<u32> {
    ranged::number(1..=u32::MAX)
}

const KIB: u32 = 1 << 10;
/// RFC 9113, 6.9: a window has 2^16 - 1 bytes at first, and at most 2^31 - 1.
const WINDOWS: RangeInclusive<u32> = 64 * KIB - 1..=(1 << 31) - 1;
/// RFC 9113, 4.2: the maximum frame size is at least 2^14 and at most 2^24 - 1 bytes.
const FRAMES: RangeInclusive<u32> = 1 << 14..=(1 << 24) - 1;

/// The bounds. A bound of one connection times `max_connections` bounds the server.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Limits")]
pub struct Limits {
    /// Maximum size of a message to SumService
    ///
    /// A larger message is refused with RESOURCE_EXHAUSTED. An AddAll stream may have any number of messages. Other
    /// services have fixed limits.
    #[arg(long, env = "SUMD_MAX_MESSAGE_SIZE", value_name = "SIZE", default_value = "16MiB",
          value_parser = ranged::size(1..=u32::MAX))]
    pub max_message_size: u32,

    /// Maximum number of calls in flight
    ///
    /// Further calls are answered UNAVAILABLE with RetryInfo. Health checks are not counted. A call is in flight until
    /// its client has room for the whole answer.
    #[arg(long, env = "SUMD_MAX_CALLS", value_name = "N", default_value = "10000",
          value_parser = count())]
    pub max_calls: u32,

    /// Maximum number of connections
    ///
    /// 32 further connections serve health checks only, and any beyond these are closed at once.
    #[arg(long, env = "SUMD_MAX_CONNECTIONS", value_name = "N", default_value = "10000",
          value_parser = count())]
    pub max_connections: u32,

    /// Maximum number of calls in flight on a connection
    ///
    /// Further calls wait in the client. A quarter is kept free of watches.
    #[arg(long, env = "SUMD_MAX_CONCURRENT_STREAMS", value_name = "N", default_value = "256",
          value_parser = count())]
    pub max_concurrent_streams: u32,

    /// Time for a new connection to speak HTTP/2
    #[arg(long, env = "SUMD_HANDSHAKE_TIMEOUT", value_name = "TIME", default_value = "10s",
          value_parser = time())]
    pub handshake_timeout: Duration,

    /// Time without progress after which a call is ended
    ///
    /// A call makes no progress while its client sends nothing, or takes none of its answers.
    #[arg(long, env = "SUMD_STREAM_IDLE_TIMEOUT", value_name = "TIME", default_value = "5m",
          value_parser = time())]
    pub stream_idle_timeout: Duration,

    /// Interval of HTTP/2 PINGs on a silent connection
    #[arg(long, env = "SUMD_KEEPALIVE_INTERVAL", value_name = "TIME", default_value = "1m",
          value_parser = time())]
    pub keepalive_interval: Duration,

    /// Time after which an unresponsive connection is closed
    ///
    /// It is unresponsive while it does not answer a PING, or takes in no bytes.
    #[arg(long, env = "SUMD_KEEPALIVE_TIMEOUT", value_name = "TIME", default_value = "20s",
          value_parser = time())]
    pub keepalive_timeout: Duration,

    /// Age at which connections are asked to reconnect [default: never]
    ///
    /// This spreads clients over new servers. The age of each connection varies by up to 10%.
    #[arg(long, env = "SUMD_MAX_CONNECTION_AGE", value_name = "TIME",
          value_parser = time())]
    pub max_connection_age: Option<Duration>,

    /// Time for calls to finish on a connection that has reached its maximum age
    #[arg(long, env = "SUMD_MAX_CONNECTION_AGE_GRACE", value_name = "TIME", default_value = "30s",
          value_parser = time())]
    pub max_connection_age_grace: Duration,

    /// Bytes that a client may send ahead on one call
    #[arg(long, env = "SUMD_STREAM_WINDOW", value_name = "SIZE", default_value = "256KiB",
          value_parser = ranged::size(WINDOWS))]
    pub stream_window: u32,

    /// Bytes that a client may send ahead on all calls of a connection
    ///
    /// At least 100 stream windows.
    #[arg(long, env = "SUMD_CONNECTION_WINDOW", value_name = "SIZE", default_value = "32MiB",
          value_parser = ranged::size(WINDOWS))]
    pub connection_window: u32,

    /// Maximum size of an HTTP/2 frame from a client
    // At 64 KiB, a client that makes use of it (those on Rust's hyper and h2 do) costs about half as much as at 16 KiB.
    // At 1 MiB it costs still less, but a large request takes 20 MiB of memory.
    #[arg(long, env = "SUMD_MAX_FRAME_SIZE", value_name = "SIZE", default_value = "64KiB",
          value_parser = ranged::size(FRAMES))]
    pub max_frame_size: u32,

    /// Maximum size of a call's headers
    ///
    /// A call with larger headers is refused with RESOURCE_EXHAUSTED.
    #[arg(long, env = "SUMD_MAX_HEADER_LIST_SIZE", value_name = "SIZE", default_value = "16KiB",
          value_parser = ranged::size(KIB..=1 << 20))]
    pub max_header_list_size: u32,

    /// Size of the answers buffered for one slow reader
    #[arg(long, env = "SUMD_SEND_BUFFER", value_name = "SIZE", default_value = "256KiB",
          value_parser = ranged::size(16 * KIB..=1 << 30))]
    pub send_buffer: u32,

    /// Maximum number of calls that a client may cancel before they begin
    ///
    /// One more ends the connection.
    #[arg(long, env = "SUMD_MAX_PENDING_RESETS", value_name = "N", default_value = "1000",
          value_parser = count())]
    pub max_pending_resets: u32,

    /// Maximum number of calls that the server may reset for errors of the client
    ///
    /// They are counted over the lifetime of a connection. One more ends it.
    #[arg(long, env = "SUMD_MAX_ERROR_RESETS", value_name = "N", default_value = "1000",
          value_parser = count())]
    pub max_error_resets: u32,

    /// Time between reporting NOT_SERVING and refusing calls
    ///
    /// Load balancers use this time to send calls elsewhere.
    #[arg(long, env = "SUMD_DRAIN_DELAY", value_name = "TIME", default_value = "700ms",
          value_parser = wait())]
    pub drain_delay: Duration,

    /// Time for calls in flight to finish at shutdown
    #[arg(long, env = "SUMD_DRAIN_TIMEOUT", value_name = "TIME", default_value = "10s",
          value_parser = wait())]
    pub drain_timeout: Duration,
}

impl Limits {
    /// h2 closes a connection with too many small unread DATA frames: each counts as up to 256 bytes against half of
    /// the connection's window (RUSTSEC-2026-0258). If that window is about a hundred stream windows, a stream of the
    /// smallest messages (5 bytes) fills its own window first, as flow control intends.
    const WINDOWS_PER_CONNECTION: u64 = 100;

    /// Connections for health checks only, beyond `max_connections`: one for each probe, with room for callers that do
    /// not know yet that the server is full.
    pub(super) const PROBE_CONNECTIONS: u32 = 32;

    /// Minimum size of headers that h2 reads. Clients are told the size that it reads, and most keep to it.
    const MIN_HEADER_LIST_READ: u32 = 96 << 10;
    /// Size of the frames that many clients send, even if larger ones are allowed.
    const CLIENT_FRAME: u32 = 16 << 10;
    /// Number of frames with headers that h2 reads in any case.
    const MIN_HEADER_FRAMES: u32 = 5;

    /// The size of headers that h2 reads. It is more than a call may have, so that the refusal is a gRPC status; h2
    /// refuses larger headers without one. It ends the connection, with all of its calls, in two cases: if the headers
    /// are over four times this size, or if they have more frames than [`Self::MIN_HEADER_FRAMES`] and more than this
    /// size fills with frames of the maximum size. A call that was not looked at yet keeps its headers in memory.
    pub(super) fn header_list_read(&self) -> u32 {
        let max = self.max_header_list_size;
        let frames = max.div_ceil(Self::CLIENT_FRAME);
        let of_small_frames = if frames > Self::MIN_HEADER_FRAMES {
            frames.saturating_mul(self.max_frame_size)
        } else {
            0
        };
        Self::MIN_HEADER_LIST_READ.max(2 * max).max(of_small_frames)
    }

    /// Maximum number of a connection's calls that may be watches, which have no end of their own.
    pub(super) fn max_watches(&self) -> u32 {
        self.max_concurrent_streams - self.max_concurrent_streams / 4
    }

    /// Checks that the limits are consistent.
    ///
    /// # Errors
    /// Returns the problem if they are not.
    pub fn check(&self) -> Result<(), String> {
        let least = u64::from(self.stream_window) * Self::WINDOWS_PER_CONNECTION;
        if u64::from(self.connection_window) < least {
            return Err(format!(
                "--connection-window is {} bytes; with a --stream-window of {} it must be at least {least}",
                self.connection_window, self.stream_window
            ));
        }
        Ok(())
    }
}
