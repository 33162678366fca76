//! Refusals by the time of day: the id is too old or too young, or a clock is wrong.

use tonic::{Code, Status};

use super::{Kind, of_kind, outcome, told};
use crate::model::{MAX_SKEW, Millis};
use crate::status;
use crate::store::Effect;

/// An id or a session that may be forgotten.
pub(super) fn too_old(
    kind: Kind,
    (time, horizon, now): (Millis, Millis, Option<Millis>),
    effect: Effect,
) -> Status {
    let by_the_server = now.map_or_else(String::new, |now| {
        format!("the server's clock says {}, and ", rfc3339(now))
    });
    let (of, until) = (rfc3339(time), rfc3339(horizon));
    let clocks = "a clock is wrong: mend the client's, which is behind, or the server's, which is, or was, ahead";
    let message = match kind {
        Kind::Request => format!(
            "the request is of {of}, by its request_id (a UUIDv7) or its request_time; {by_the_server}ids up to {until} may be \
             forgotten (--id-horizon). Whether it was counted before cannot be told; it was not now. If it was made just now, \
             {clocks}. For data that come so late, raise --id-horizon, or send them in a session (RecordIncrements)"
        ),
        Kind::Session => format!(
            "the session is not known here and is of {of}, by its session_id (a UUIDv7) or its session_time; {by_the_server}\
             sessions that were last used up to {until} may be forgotten (--session-horizon). Whether messages were counted \
             before cannot be told; this one was not now. If it was begun just now, {clocks}. What is new is for a session that \
             begins now, with an id of its own"
        ),
    };
    let mut metadata = vec![("time", of), ("horizon", until)];
    metadata.extend(now.map(|now| ("now", rfc3339(now))));
    metadata.push(outcome(effect));
    let reason = of_kind(kind, "REQUEST_TOO_OLD", "SESSION_TOO_OLD");
    status::with_reason(Code::FailedPrecondition, message, reason, &metadata)
}

/// An id or a session whose time is too far ahead.
pub(super) fn from_future(kind: Kind, time: Millis, now: Millis, effect: Effect) -> Status {
    let message = format!(
        "the {} is of {}, by the clock of its client, and the server's clock says {}: times after {} are not taken. Mend the \
         client's clock, which is ahead, or the server's, which is behind, and send it again; {}",
        of_kind(kind, "request", "session"),
        rfc3339(time),
        rfc3339(now),
        rfc3339(now.saturating_add(MAX_SKEW)),
        told(effect)
    );
    let metadata = [
        ("time", rfc3339(time)),
        ("now", rfc3339(now)),
        outcome(effect),
    ];
    let reason = of_kind(kind, "REQUEST_FROM_FUTURE", "SESSION_FROM_FUTURE");
    status::with_reason(Code::FailedPrecondition, message, reason, &metadata)
}

fn rfc3339(time: Millis) -> String {
    let (seconds, nanos) = (time.div_euclid(1000), time.rem_euclid(1000) * 1_000_000);
    let nanos = i32::try_from(nanos).unwrap_or(0);
    prost_types::Timestamp { seconds, nanos }.to_string()
}
