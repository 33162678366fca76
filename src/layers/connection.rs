//! The state shared by the calls of a connection, and the context of one call.

use std::sync::Arc;
use std::time::Duration;

use http::Extensions;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::calls::Calls;
use super::encoding::Encoding;
use super::policy::{End, Policy};
use super::replaced::LastReplaced;
use super::request_memory::RequestMemory;

/// State shared by the calls of a connection.
pub struct Connection {
    /// The server's connection limit, if it is reached and this connection serves health checks only.
    pub probes_only: Option<u32>,
    /// The server's calls in flight.
    pub calls: Arc<Calls>,
    /// The connection's watches: calls that have no end of their own.
    pub watches: Arc<Calls>,
    /// Once cancelled, the connection takes no new calls.
    pub closing: CancellationToken,
    /// Cancelled when the server begins to drain.
    pub draining: CancellationToken,
    /// Cancelled when the remaining calls are ended.
    pub ending: CancellationToken,
    /// The memory of the server for unfinished messages.
    pub request_memory: Arc<RequestMemory>,
    /// Maximum size of a call's headers in bytes.
    pub max_header_list_size: u32,
    /// Maximum size of a message in bytes, for methods without a limit of their own.
    pub max_message_size: u32,
    /// Maximum time in which a client sends nothing or reads nothing.
    pub stream_idle_timeout: Duration,
}

#[cfg(any(test, fuzzing))]
impl Connection {
    /// A connection with room for one call and one watch, and 1 MiB of memory.
    pub(super) fn for_tests() -> Self {
        Self {
            probes_only: None,
            calls: Calls::new(1),
            watches: Calls::new(1),
            closing: CancellationToken::new(),
            draining: CancellationToken::new(),
            ending: CancellationToken::new(),
            request_memory: RequestMemory::new(1 << 20),
            max_header_list_size: 16 << 10,
            max_message_size: 1 << 20,
            stream_idle_timeout: Duration::from_mins(5),
        }
    }
}

/// The context of a call, made from its headers and shared by its layers. It is an extension of the request.
pub struct CallContext {
    /// The policy of its method.
    pub policy: &'static Policy,
    /// The time by which the caller wants its answer, if it has set one.
    pub deadline: Option<Instant>,
    /// The encoding of compressed messages, if the request names one.
    pub encoding: Option<Encoding>,
    /// The encoding of large answers, if the client asks for one.
    pub(super) answer_encoding: Option<Encoding>,
    /// The content of its last message that was replaced by an empty one, until the method reads it.
    pub replaced: LastReplaced,
    /// Its connection.
    pub connection: Arc<Connection>,
}

impl CallContext {
    /// The context in the extensions of a request, inserted by an outer layer of the stack.
    ///
    /// # Panics
    /// Panics if the request has not passed through the stack.
    #[must_use]
    pub fn of(extensions: &Extensions) -> &Arc<Self> {
        let context = extensions.get();
        context.expect("the stack puts it into every request")
    }

    /// The token that ends this call at shutdown.
    pub(super) fn shutdown(&self) -> &CancellationToken {
        match self.policy.end {
            End::WhenDraining => &self.connection.draining,
            End::WhenEnding => &self.connection.ending,
        }
    }

    /// Maximum size of a message of the method.
    pub(super) fn max_message_bytes(&self) -> usize {
        let configured = self.connection.max_message_size as usize;
        self.policy.max_message_bytes.unwrap_or(configured)
    }
}
