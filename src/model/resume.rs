//! The state of a resumed session: the messages that its lanes have applied, and when a resent message may have been
//! applied.
//!
//! Each lane forgets sessions independently. So a message goes to each lane with a [`LowerBound`]. A lane that does not
//! know the session applies the message only if the bound is later than anything that the lane has forgotten.

use std::collections::BTreeMap;

use super::answer::{FailedIncrement, Rejection};
use super::request::{LowerBound, MAX_SKEW};
use super::session::{SESSION_WINDOW, Session};
use super::time::Millis;

/// The state of a session when a stream begins, or looks again.
#[derive(Debug)]
pub struct Resumed {
    /// The last message up to which all are applied.
    pub applied: u64,
    /// The failures of those messages that the client has not confirmed.
    pub failures: Vec<(u64, FailedIncrement)>,
    /// The bounds that are known.
    bounds: Vec<LowerBound>,
    /// The first message that no earlier stream can have received.
    first_fresh: u64,
    /// The time of this state.
    now: Millis,
}

/// Number of times that a stream looks again in a session's horizon. A bound that is a horizon old is useless in a lane
/// that is new to the session.
const LOOKS: Millis = 4;

impl Resumed {
    /// The state that a session's rows give, all read at the time `now`. Lanes had then forgotten sessions with bounds
    /// up to `horizon`. The session began at `begun` by its client's clock. A bound older than `remembered` counts as
    /// forgotten, even if some lanes still have the row.
    ///
    /// # Errors
    /// Returns [`Rejection::SessionDamaged`] if one of the rows is damaged, and [`Rejection::FromFuture`] if `begun` is
    /// too far ahead.
    pub fn new(
        lanes: &[Session],
        begun: Millis,
        now: Millis,
        horizon: Millis,
        remembered: Millis,
    ) -> Result<Self, Rejection> {
        if lanes.iter().any(Session::is_damaged) {
            return Err(Rejection::SessionDamaged);
        }
        if begun > now + MAX_SKEW {
            return Err(Rejection::FromFuture { time: begun, now });
        }
        let begun = LowerBound {
            above: 0,
            time: begun,
        };
        let moved = lanes.iter().filter_map(|lane| {
            Some(LowerBound {
                above: lane.moved_up_to(),
                time: lane.moved_at()?,
            })
        });
        let stored = lanes.iter().filter_map(|lane| lane.lower_bound);
        let mut bounds: Vec<_> = stored.chain(moved).chain([begun]).collect();
        // If no lane can have forgotten anything of the messages above some number, the rows have all that was applied
        // of them. So nothing after the last of these was applied before now.
        let horizon = horizon.max(now - remembered);
        let whole = bounds.iter().filter(|bound| bound.time > horizon);
        let whole = whole.map(|bound| bound.above).min();
        let last = lanes.iter().map(Session::last).max().unwrap_or(0);
        if let Some(above) = whole {
            bounds.push(LowerBound {
                above: above.max(last),
                time: now,
            });
        }
        let (applied, failures) = Session::merge(lanes);
        Ok(Self {
            applied,
            failures,
            bounds,
            first_fresh: last.max(applied).saturating_add(SESSION_WINDOW + 1),
            now,
        })
    }

    /// Whether the rows have to be read again.
    #[must_use]
    pub fn is_old(&self, now: Millis, session_horizon: Millis) -> bool {
        now - self.now > session_horizon / LOOKS
    }

    /// The bound of a message that arrived at the time `now`. `is_first` says whether it is new on this stream.
    ///
    /// # Panics
    /// Panics if the message has no number.
    #[must_use]
    pub fn bound(&self, sequence: u64, is_first: bool, now: Millis) -> LowerBound {
        if is_first && sequence >= self.first_fresh {
            return LowerBound {
                above: sequence - 1,
                time: now,
            };
        }
        let known = self.bounds.iter().filter(|bound| bound.above < sequence);
        let latest = known.max_by_key(|bound| bound.time);
        *latest.expect("that of the session's begin is for all messages")
    }
}

impl Session {
    /// The last message of which any part is applied.
    fn last(&self) -> u64 {
        self.applied.max(self.moved_up_to())
    }

    /// Merges the rows of a session in all lanes: the last message up to which all are applied, and the failures of
    /// those that the client has not confirmed.
    #[must_use]
    pub fn merge(lanes: &[Self]) -> (u64, Vec<(u64, FailedIncrement)>) {
        let told = lanes.iter().map(|lane| lane.acknowledged).max();
        let told = told.unwrap_or(0);
        let moved = lanes.iter().map(Self::moved_up_to).max();
        let mut applied = told.max(moved.unwrap_or(0));
        let first = told + 1;
        let mut parts: BTreeMap<u64, (u32, u32)> = BTreeMap::new();
        for message in lanes.iter().flat_map(|lane| &lane.messages) {
            let (_, found) = parts.entry(message.sequence).or_insert((message.parts, 0));
            *found += 1;
        }
        let after = applied + 1;
        for (sequence, (parts, found)) in parts.range(after..) {
            if *sequence != applied + 1 || found < parts {
                break;
            }
            applied = *sequence;
        }
        let failures = lanes.iter().flat_map(|lane| &lane.failures);
        let mut failures: Vec<_> = failures
            .filter(|(at, _)| (first..=applied).contains(at))
            .copied()
            .collect();
        failures.sort_unstable_by_key(|(at, failure)| (*at, failure.index));
        (applied, failures)
    }
}

#[cfg(test)]
mod tests {
    use super::super::increment::LimitError;
    use super::super::session::Message;
    use super::*;

    /// A message was not applied before its first arrival on this stream if no earlier stream can have received it.
    #[test]
    fn a_message_that_is_new_is_so_from_now_on() {
        let (begun, now) = (1000, 2000);
        let resumed = Resumed::new(&[], begun, now, 1500, 10_000).expect("a session");
        let of_begin = LowerBound {
            above: 0,
            time: begun,
        };
        let fresh = SESSION_WINDOW + 1;
        assert_eq!(resumed.bound(fresh - 1, true, 2500), of_begin);
        assert_eq!(resumed.bound(fresh, false, 2500), of_begin);
        let of_now = LowerBound {
            above: fresh - 1,
            time: 2500,
        };
        assert_eq!(resumed.bound(fresh, true, 2500), of_now);
    }

    /// A message that is applied in one lane is not taken for new, even if earlier ones are missing. Later ones are.
    #[test]
    fn a_bound_is_of_messages_after_it() {
        let message = |sequence| Message {
            sequence,
            contents: 7,
            parts: 2,
        };
        let mut row = Session::default();
        row.advance(message(7), &[]);
        let (begun, now) = (1000, 2000);
        let resumed = Resumed::new(&[row], begun, now, 500, 10_000).expect("a session");
        let of = |above, time| LowerBound { above, time };
        assert_eq!(resumed.applied, 0);
        assert_eq!(resumed.bound(7, true, 2500), of(0, begun));
        assert_eq!(resumed.bound(8, true, 2500), of(7, now));
        let fresh = 7 + SESSION_WINDOW + 1;
        assert_eq!(resumed.bound(fresh - 1, true, 2500), of(7, now));
        assert_eq!(resumed.bound(fresh, true, 2500), of(fresh - 1, 2500));
    }

    /// A stream looks again after a quarter of a session's horizon, and not before.
    #[test]
    fn a_stream_looks_again_four_times_in_a_horizon() {
        let resumed = Resumed::new(&[], 1000, 2000, 0, 10_000).expect("a session");
        assert!(!resumed.is_old(2250, 1000));
        assert!(resumed.is_old(2251, 1000));
    }

    /// Failures of a confirmed message are not reported again, whichever lane got the confirmation.
    #[test]
    fn failures_that_are_acknowledged_are_not_told() {
        let refusal = LimitError::OutOfRange { value: 1, delta: 2 };
        let failure = FailedIncrement { index: 0, refusal };
        let mut row = Session::default();
        for sequence in 3..=4 {
            let message = Message {
                sequence,
                contents: 7,
                parts: 1,
            };
            row.advance(message, &[(sequence, failure)]);
        }
        let mut told = Session::default();
        told.acknowledge(3);
        assert_eq!(Session::merge(&[row, told]), (4, vec![(4, failure)]));
    }
}
