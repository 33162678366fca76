//! Refusals of ids and sessions whose time is too old or in the future.

use super::{Kind, told};
use crate::model::{MAX_SKEW, Millis};
use crate::status::{Outcome, Reason, RichError};

/// The error of an id or a session that may be forgotten.
pub(super) fn too_old(kind: Kind, time: Millis, horizon: Millis, now: Option<Millis>) -> RichError {
    let by_the_server = now.map_or_else(String::new, |now| {
        format!("the server's clock says {}, and ", rfc3339(now))
    });
    let (of, until) = (rfc3339(time), rfc3339(horizon));
    let clocks = "a clock is wrong: mend the client's, which is behind, or the server's, which is, or was, ahead";
    let (reason, message) = match kind {
        Kind::Request => (
            Reason::RequestTooOld,
            format!(
                "the request is of {of}, by its request_id (a UUIDv7) or its request_time; {by_the_server}ids up to {until} may be \
             forgotten (--id-horizon). Whether it was counted before cannot be told; it was not now. If it was made just now, \
             {clocks}. For data that come so late, raise --id-horizon, or send them in a session (RecordIncrements)"
            ),
        ),
        Kind::Session => (
            Reason::SessionTooOld,
            format!(
                "the session is not known here and is of {of}, by its session_id (a UUIDv7) or its session_time; {by_the_server}\
             sessions that were last used up to {until} may be forgotten (--session-horizon). Whether messages were counted \
             before cannot be told; this one was not now. If it was begun just now, {clocks}. What is new is for a session that \
             begins now, with an id of its own"
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
        "the {what} is of {}, by the clock of its client, and the server's clock says {}: times after {} are not taken. Mend the \
         client's clock, which is ahead, or the server's, which is behind, and send it again; {}",
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
