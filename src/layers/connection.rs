//! The state that the calls of a connection share, and that of one call.

use std::sync::Arc;
use std::time::Duration;

use http::Extensions;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::calls::Calls;
use super::policy::{End, Policy};

/// State that the calls of a connection share.
pub struct Connection {
    /// The connection serves health checks alone, because the server has this many others, which is its limit.
    pub probes_only: Option<u32>,
    /// The server's calls in flight.
    pub calls: Arc<Calls>,
    /// The connection's calls that have no end of their own.
    pub watches: Arc<Calls>,
    /// Once it is cancelled, the connection takes no new calls.
    pub closing: CancellationToken,
    /// Cancelled when the server begins to drain.
    pub draining: CancellationToken,
    /// Cancelled when calls that have not ended are ended.
    pub ending: CancellationToken,
    /// The largest set of headers.
    pub max_header_list_size: u32,
    /// The largest message of methods that take messages of any size.
    pub max_message_size: u32,
    /// The longest time in which a client may send nothing, or take nothing.
    pub stream_idle_timeout: Duration,
}

/// A call, as far as its headers tell: an extension of its request.
#[derive(Clone)]
pub struct CallContext {
    /// The row of its method.
    pub policy: &'static Policy,
    /// The time by which the caller wants its answer.
    pub deadline: Option<Instant>,
    /// Its connection.
    pub connection: Arc<Connection>,
}

impl CallContext {
    /// The context in the extensions of a request, where the stack's outer layers have put it.
    ///
    /// # Panics
    /// Panics if the request has not come through the stack.
    #[must_use]
    pub fn of(extensions: &Extensions) -> &Self {
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

    /// The largest message that the method takes.
    pub(super) fn max_message_bytes(&self) -> usize {
        let configured = self.connection.max_message_size as usize;
        self.policy.max_message_bytes.unwrap_or(configured)
    }
}
