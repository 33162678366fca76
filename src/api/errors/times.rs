//! Refusals of ids and sessions whose time is too old or in the future.

use super::told;
use crate::counters::Kind;
use crate::model::{MAX_SKEW, Millis};
use crate::status::{Outcome, Reason, RichError};

/// The error of an id or a session that may be forgotten.
pub(super) fn too_old(
    kind: Kind,
    time: Millis,
    horizon: Millis,
    now: Option<Millis>,
    outcome: Outcome,
) -> RichError {
    let by_the_server = now.map_or_else(String::new, |now| {
        format!("the server's clock says {}, and ", rfc3339(now))
    });
    let (of, until) = (rfc3339(time), rfc3339(horizon));
    let clocks = "a clock is wrong: fix the client's, which is behind, or the server's, which is or was ahead";
    let effect = told(outcome);
    let (reason, message) = match kind {
        Kind::Request => (
            Reason::RequestTooOld,
            format!(
                "the request has the time {of}, from its request_id (a UUIDv7) or its request_time; {by_the_server}ids \
                 up to {until} may be forgotten (--id-horizon). It was not applied; whether it was applied before is \
                 unknown. If it was made just now, {clocks}. If it was certainly never sent before, send it in a session \
                 (RecordIncrements), which knows no ids. A larger --id-horizon helps requests that come as late from now on"
            ),
        ),
        Kind::Session => (
            Reason::SessionTooOld,
            format!(
                "the session is not known here and has the time {of}, from its session_id (a UUIDv7) or its \
                 session_time; {by_the_server}sessions that were last used up to {until} may be forgotten \
                 (--session-horizon); {effect}. Whether earlier messages were applied is unknown. If the session \
                 began just now, {clocks}. Send new increments in a session that begins now, with another id"
            ),
        ),
    };
    let error = reason.error(message);
    let error = error.with("time", of).with("horizon", until);
    error.with_some("now", now.map(rfc3339))
}

/// The error of an id or a session whose time is too far in the future.
pub(super) fn from_future(kind: Kind, time: Millis, now: Millis, outcome: Outcome) -> RichError {
    let (reason, what) = match kind {
        Kind::Request => (Reason::RequestFromFuture, "request"),
        Kind::Session => (Reason::SessionFromFuture, "session"),
    };
    let message = format!(
        "the {what} has the time {}, by the client's clock, and the server's clock says {}: times after {} are \
         refused. Fix the client's clock, which is ahead, or the server's, which is behind, and send it again; {}",
        rfc3339(time),
        rfc3339(now),
        rfc3339(now.saturating_add(MAX_SKEW)),
        told(outcome)
    );
    let error = reason.error(message);
    error.with("time", rfc3339(time)).with("now", rfc3339(now))
}

fn rfc3339(time: Millis) -> String {
    let (seconds, nanos) = (time.div_euclid(1000), time.rem_euclid(1000) * 1_000_000);
    let nanos = i32::try_from(nanos).unwrap_or(0);
    prost_types::Timestamp { seconds, nanos }.to_string()
}
