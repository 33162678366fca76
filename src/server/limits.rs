//! Every bound of the server, each with a unit, a reason and a flag.

use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;

fn bytes<const MIN: u64, const MAX: u64>(text: &str) -> Result<u32, String> {
    let size: ByteSize = text
        .parse()
        .map_err(|_| "expected bytes, or a size like 64KiB or 16MiB".to_owned())?;
    match size.as_u64() {
        bytes @ ..=0xffff_ffff if (MIN..=MAX).contains(&bytes) => {
            Ok(u32::try_from(bytes).expect("the pattern bounds it"))
        }
        _ => Err(format!("expected {MIN} to {MAX} bytes")),
    }
}

/// A time that must pass: far ends that no timer can take, and zero, are refused.
fn time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time.is_zero() => Err("expected a time above zero".to_owned()),
        _ => time_or_none(text),
    }
}

/// A time that may be none at all.
fn time_or_none(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time <= MAX_TIME => Ok(time),
        Ok(_) => Err("expected at most 1year".to_owned()),
        Err(_) => Err("expected a time like 500ms, 10s or 5m".to_owned()),
    }
}

const MAX_TIME: Duration = Duration::from_hours(366 * 24);
const KIB: u64 = 1 << 10;
/// RFC 9113, 6.9.1: a window is at most 2^31 - 1 bytes.
const MAX_WINDOW: u64 = (1 << 31) - 1;
/// RFC 9113, 4.2: a frame is at least allowed 2^14 bytes and at most 2^24 - 1.
const MIN_FRAME: u64 = 1 << 14;
const MAX_FRAME: u64 = (1 << 24) - 1;

/// The bounds. What is bounded for one connection times `max_connections` bounds the server.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Limits")]
pub struct Limits {
    /// A larger message is refused with RESOURCE_EXHAUSTED (an AddAll stream may have any number)
    #[arg(long, env = "SUMD_MAX_MESSAGE_SIZE", value_name = "SIZE", default_value = "16MiB",
          value_parser = bytes::<1, 0xffff_ffff>)]
    pub max_message_size: u32,

    /// Further calls are answered UNAVAILABLE with RetryInfo; health checks are not counted
    #[arg(long, env = "SUMD_MAX_CALLS", value_name = "N", default_value = "10000",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub max_calls: u32,

    /// Some further connections are served health checks alone, and those past them are closed at once
    #[arg(long, env = "SUMD_MAX_CONNECTIONS", value_name = "N", default_value = "10000",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections: u32,

    /// A connection's calls at one time; its further ones wait in the client. A quarter is kept free of watches
    #[arg(long, env = "SUMD_MAX_CONCURRENT_STREAMS", value_name = "N", default_value = "256",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub max_concurrent_streams: u32,

    /// Time for a new connection to speak HTTP/2
    #[arg(long, env = "SUMD_HANDSHAKE_TIMEOUT", value_name = "TIME", default_value = "10s",
          value_parser = time)]
    pub handshake_timeout: Duration,

    /// A call whose client sends nothing, or takes none of its answers, for this long is ended
    #[arg(long, env = "SUMD_STREAM_IDLE_TIMEOUT", value_name = "TIME", default_value = "5m",
          value_parser = time)]
    pub stream_idle_timeout: Duration,

    /// A silent connection is asked this often whether it lives (HTTP/2 PING)
    #[arg(long, env = "SUMD_KEEPALIVE_INTERVAL", value_name = "TIME", default_value = "1m",
          value_parser = time)]
    pub keepalive_interval: Duration,

    /// A connection that does not answer a PING, or takes in no bytes, for this long is closed
    #[arg(long, env = "SUMD_KEEPALIVE_TIMEOUT", value_name = "TIME", default_value = "20s",
          value_parser = time)]
    pub keepalive_timeout: Duration,

    /// Older connections are asked to reconnect, so that clients spread over new servers [default: never]
    #[arg(long, env = "SUMD_MAX_CONNECTION_AGE", value_name = "TIME",
          value_parser = time)]
    pub max_connection_age: Option<Duration>,

    /// Time for the calls of such a connection to end
    #[arg(long, env = "SUMD_MAX_CONNECTION_AGE_GRACE", value_name = "TIME", default_value = "30s",
          value_parser = time)]
    pub max_connection_age_grace: Duration,

    /// Bytes that a client may send ahead on one call
    #[arg(long, env = "SUMD_STREAM_WINDOW", value_name = "SIZE", default_value = "256KiB",
          value_parser = bytes::<{ 64 * KIB - 1 }, MAX_WINDOW>)]
    pub stream_window: u32,

    /// Bytes that a client may send ahead on all calls of a connection; at least 100 stream windows
    #[arg(long, env = "SUMD_CONNECTION_WINDOW", value_name = "SIZE", default_value = "32MiB",
          value_parser = bytes::<{ 64 * KIB - 1 }, MAX_WINDOW>)]
    pub connection_window: u32,

    /// The largest HTTP/2 frame that a client may send
    // At 64 KiB a client that makes use of it (those on Rust's hyper and h2 do) costs about half of what
    // it does at 16 KiB. At 1 MiB it costs less still, and a large request takes 20 MiB of memory.
    #[arg(long, env = "SUMD_MAX_FRAME_SIZE", value_name = "SIZE", default_value = "64KiB",
          value_parser = bytes::<MIN_FRAME, MAX_FRAME>)]
    pub max_frame_size: u32,

    /// A call with a larger set of headers is refused with RESOURCE_EXHAUSTED
    #[arg(long, env = "SUMD_MAX_HEADER_LIST_SIZE", value_name = "SIZE", default_value = "16KiB",
          value_parser = bytes::<KIB, { 1 << 20 }>)]
    pub max_header_list_size: u32,

    /// Answers that wait in the server for one slow reader
    #[arg(long, env = "SUMD_SEND_BUFFER", value_name = "SIZE", default_value = "256KiB",
          value_parser = bytes::<{ 16 * KIB }, { 1 << 30 }>)]
    pub send_buffer: u32,

    /// Calls that a client may cancel before they are begun; one more ends the connection
    #[arg(long, env = "SUMD_MAX_PENDING_RESETS", value_name = "N", default_value = "1000",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub max_pending_resets: u32,

    /// Calls that the server may reset for the client's errors in all the time of a connection; one
    /// more ends it
    #[arg(long, env = "SUMD_MAX_ERROR_RESETS", value_name = "N", default_value = "1000",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub max_error_resets: u32,

    /// Time between saying NOT_SERVING and refusing calls, for balancers to look elsewhere
    #[arg(long, env = "SUMD_DRAIN_DELAY", value_name = "TIME", default_value = "700ms",
          value_parser = time_or_none)]
    pub drain_delay: Duration,

    /// Time for calls in flight to end at shutdown
    #[arg(long, env = "SUMD_DRAIN_TIMEOUT", value_name = "TIME", default_value = "10s",
          value_parser = time_or_none)]
    pub drain_timeout: Duration,
}

impl Limits {
    /// h2 closes a connection on which small DATA frames wait unread, counting up to 256 bytes for each
    /// against half the connection's window (RUSTSEC-2026-0258). So that one stream of the smallest
    /// messages (5 bytes) meets its own window first, as flow control means it to, the connection's has
    /// to be about a hundred times as large.
    const WINDOWS_PER_CONNECTION: u64 = 100;

    /// Connections that are served health checks alone, beyond `max_connections`: one each for what looks after a server, with
    /// room for callers that have not been told yet that there is none for them.
    pub(super) const PROBE_CONNECTIONS: u32 = 32;

    /// The least of headers that is read. It is also what clients are told to keep to; most do.
    const MIN_HEADER_LIST_READ: u32 = 96 << 10;
    /// Bytes that many clients put into a frame, however many they are allowed.
    const CLIENT_FRAME: u32 = 16 << 10;
    /// So many frames of headers are read in any case.
    const MIN_HEADER_FRAMES: u32 = 5;

    /// The most of headers that is read: more than a call may have, so that it is told so. h2 answers more than is read without
    /// a gRPC status. For over four times as much it ends the connection with all of its calls; also for more frames than are
    /// read in any case and take what is read if they are as large as they may be. A call that was not looked at yet holds its
    /// headers.
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

    /// How many of a connection's calls may be watches, which have no end of their own.
    pub(super) fn max_watches(&self) -> u32 {
        self.max_concurrent_streams - self.max_concurrent_streams / 4
    }

    /// # Errors
    /// Where limits do not go together.
    pub fn check(&self) -> Result<(), String> {
        let least = u64::from(self.stream_window) * Self::WINDOWS_PER_CONNECTION;
        if u64::from(self.connection_window) < least {
            return Err(format!(
                "--connection-window is {} bytes; with a --stream-window of {} it takes at least {least}",
                self.connection_window, self.stream_window
            ));
        }
        Ok(())
    }
}
