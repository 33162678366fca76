//! Clients whose `:authority` is no host name.
//!
//! h2 resets the stream of such a call before anybody sees it, as HTTP allows (RFC 9113, 8.3.1), and says so in a debug event
//! alone. gRPC clients on the C core send a socket's path, or a list of addresses, unless they are told otherwise, and see
//! INTERNAL without a reason: so the log tells, once, what is to be done about it.

use std::fmt;

use tokio::sync::Notify;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber, warn};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// The target and the text of the event of h2.
const TARGET: &str = "h2::server";
const MESSAGE: &str = "malformed headers: malformed authority";

/// An authority was refused.
static REFUSED: Notify = Notify::const_new();

/// Notices what h2 says of authorities, whatever is logged.
#[must_use]
pub fn layer<S>() -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    Notice.with_filter(Targets::new().with_target(TARGET, Level::DEBUG))
}

/// Tells the log of the first refused authority, and never returns. The event itself is not the place: it is being logged.
pub async fn report<T>() -> T {
    REFUSED.notified().await;
    warn!(
        "a client sends an :authority that is no host name, such as the path of a unix socket or several addresses, and each of \
         its calls fails with PROTOCOL_ERROR: have it send localhost (the channel argument grpc.default_authority in Python, \
         C++, Ruby and PHP, overrideAuthority in Java); told once"
    );
    std::future::pending().await
}

struct Notice;

impl<S: Subscriber> Layer<S> for Notice {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        event.record(&mut Message);
    }
}

struct Message;

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" && format!("{value:?}").starts_with(MESSAGE) {
            REFUSED.notify_one();
        }
    }
}
