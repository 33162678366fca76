//! A session that goes on: what its lanes have applied of it, and how long ago a message may have been applied that comes again.
//!
//! Lanes forget sessions each by itself. So a message goes to each lane with a [`LowerBound`], and a lane that knows nothing of
//! the session applies it only if the bound is later than anything that the lane has forgotten.

use std::collections::BTreeMap;

use super::answer::{FailedIncrement, Rejection};
use super::request::{LowerBound, MAX_SKEW};
use super::session::{SESSION_WINDOW, Session};
use super::time::Millis;

/// The state of a session when a stream of it begins, or asks.
#[derive(Debug)]
pub struct Resumed {
    /// The last message up to which all are applied.
    pub applied: u64,
    /// The failures of those that the client has not acknowledged.
    pub failures: Vec<(u64, FailedIncrement)>,
    /// The bounds that are known.
    bounds: Vec<LowerBound>,
    /// The first message that no stream before this one can have had.
    first_fresh: u64,
    /// When this was.
    now: Millis,
}

/// A stream asks again so many times in a session's horizon: a bound that is as old as that is of use in no lane that is new to
/// the session.
const LOOKS: Millis = 4;

impl Resumed {
    /// What the rows of a session tell, which were read at one moment: at the time `now`, when lanes had forgotten sessions with
    /// bounds up to `horizon`. The session was begun at the time `begun`, as its client says. One that was not used for longer
    /// than `remembered` is taken for forgotten, also if some lanes still have its row.
    ///
    /// # Errors
    /// Returns [`Rejection::SessionDamaged`] if one of the rows is damaged, and [`Rejection::FromFuture`] if `begun` is too far ahead.
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
        // If nothing can be forgotten of the messages above one, then all that was applied of them is in the rows, and nothing
        // of those behind the last of it was applied before now.
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

    /// It is so long ago that the rows are to be looked at again.
    #[must_use]
    pub fn is_old(&self, now: Millis, session_horizon: Millis) -> bool {
        now - self.now > session_horizon / LOOKS
    }

    /// The bound that a message goes with, which came at the time `now`, for the first time on this stream or not.
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
    /// The last message that anything was applied of.
    fn last(&self) -> u64 {
        self.applied.max(self.moved_up_to())
    }

    /// The state of a session in all lanes together, of which each has its own part: the last message up to which all are
    /// applied, and the failures of those that the client has not acknowledged.
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

    /// Nothing of a message can have been applied before it came, if no stream before this one can have had it, and it comes for the
    /// first time on this one.
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

    /// A message that was applied in one lane, and maybe in others, is not taken for one that was never applied, although
    /// those before it are missing; those after it are.
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

    /// Failures of a message that the client knows acknowledged are not told again, whichever lane it has told.
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
