//! Warnings about refusals that an operator can act on. Only the node that decides them gives them, since its clock and
//! its memory are the cause.

use tracing::warn;

use crate::model::{Rejection, date, duration};
use crate::notice::Rarely;

/// Warns of a refusal that an operator can act on. `is_bulk` says whether it is one of a session.
pub(super) fn tell(refused: &Rejection, is_bulk: bool) {
    static FULL: Rarely = Rarely::new();
    static TOO_OLD: Rarely = Rarely::new();
    static FROM_FUTURE: Rarely = Rarely::new();
    let (of, horizon_flag) = if is_bulk {
        ("sessions", "--session-horizon")
    } else {
        ("ids", "--id-horizon")
    };
    match refused {
        Rejection::Full { max_bytes, .. } if FULL.is_due() => warn!(
            max_bytes,
            "refusing new {of}: the memory for them is full (--id-memory). There will be room once the oldest are \
             forgotten ({horizon_flag})"
        ),
        Rejection::TooOld {
            time,
            horizon,
            now: Some(now),
        } if TOO_OLD.is_due() => warn!(
            now = date(*now),
            horizon = date(*horizon),
            "refusing {of} as too old, one of {} ago by this server's clock ({horizon_flag}): if they are new, the \
             client's clock is behind, or this server's clock is or was ahead",
            duration(now.saturating_sub(*time)),
        ),
        Rejection::FromFuture { time, now } if FROM_FUTURE.is_due() => warn!(
            now = date(*now),
            "refusing {of} as from the future, one of {} after this server's clock: the client's clock is ahead, or \
             this server's clock is behind",
            duration(time.saturating_sub(*now)),
        ),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notice::tests::logged;

    /// Each kind of refusal that an operator can act on is warned of, but not each time.
    #[test]
    fn refusals_are_warned_of_once_in_a_while() {
        let (max_bytes, now) = (1000, Some(5000));
        let full = Rejection::Full {
            max_bytes,
            retry_in: 10,
        };
        let too_old = Rejection::TooOld {
            time: 1000,
            horizon: 2000,
            now,
        };
        let from_future = Rejection::FromFuture {
            time: 90_000,
            now: 5000,
        };
        for (refused, is_bulk, warning) in [
            (
                &full,
                false,
                "refusing new ids: the memory for them is full",
            ),
            (&too_old, true, "refusing sessions as too old"),
            (&from_future, false, "refusing ids as from the future"),
        ] {
            let told = logged(|| tell(refused, is_bulk));
            assert!(told.contains(warning), "{told}");
            assert_eq!(logged(|| tell(refused, is_bulk)), "");
        }
        // An operator cannot act on these.
        assert_eq!(logged(|| tell(&Rejection::IdReused, false)), "");
    }
}
