//! The wall clock of a node.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;
use tracing::{info, warn};

use crate::model::{Head, Millis, date, duration};

/// How far the clock may be behind that of the last batch without a warning, in milliseconds: corrections of that size
/// are common.
const MAX_BEHIND: Millis = 60_000;
/// How far the clock may be set forward while the process runs, and still be believed. Ids of the time that it skips
/// are refused as too old, but a machine that was suspended has to be followed.
const MAX_STEP: Millis = 24 * 3_600_000;

/// The wall clock of all lanes. It may be wrong, and corrected at any moment. Whether it is believed is the same for
/// all lanes of the process, whenever they were loaded.
#[derive(Clone)]
pub struct Clock(Arc<Inner>);

struct Inner {
    tell: Box<dyn Fn() -> Millis + Send + Sync>,
    last: Mutex<Option<Last>>,
    refused_until: AtomicI64,
}

/// The last time that was reported.
struct Last {
    time: Millis,
    at: Instant,
    is_believed: bool,
}

impl Clock {
    /// A clock that is read by calling `tell`.
    pub fn new(tell: impl Fn() -> Millis + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner {
            tell: Box::new(tell),
            last: Mutex::default(),
            refused_until: AtomicI64::new(Millis::MIN),
        }))
    }

    /// Records the horizons of a lane.
    pub(super) fn note(&self, head: Head) {
        let refused_until = head.horizon.max(head.session_horizon);
        let known = &self.0.refused_until;
        known.fetch_max(refused_until, Ordering::Relaxed);
    }

    /// Whether a horizon is later than now, in a lane that was loaded here. That lane refuses all new ids that have a
    /// time, or all new sessions.
    #[must_use]
    pub fn is_behind_horizon(&self) -> bool {
        self.0.refused_until.load(Ordering::Relaxed) > self.now()
    }

    /// The wall-clock time. While the clock is too far ahead to be believed, this is the last believed time plus the
    /// time since, by a monotonic clock. At the start of the process, there is nothing to compare it with.
    pub(super) fn now(&self) -> Millis {
        let (told, at) = ((self.0.tell)(), Instant::now());
        // Every change replaces it as a whole, so a panic leaves it valid.
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        let expected = last.as_ref().map_or(told, |last| {
            let passed = at.saturating_duration_since(last.at).as_millis();
            last.time
                .saturating_add(Millis::try_from(passed).unwrap_or(Millis::MAX))
        });
        let ahead = told.saturating_sub(expected);
        let is_believed = ahead <= MAX_STEP;
        if last.as_ref().is_none_or(|last| last.is_believed) != is_believed {
            tell(is_believed, ahead);
        }
        let time = if is_believed { told } else { expected };
        *last = Some(Last {
            time,
            at,
            is_believed,
        });
        time
    }
}

/// The clock of the machine.
impl Default for Clock {
    fn default() -> Self {
        Self::new(|| {
            let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
            let millis = since_1970.map_or(0, |time| time.as_millis());
            Millis::try_from(millis).unwrap_or(Millis::MAX)
        })
    }
}

/// Logs that the clock is not believed any more, because it is ahead by `ahead`, or that it is believed again.
fn tell(is_believed: bool, ahead: Millis) {
    if is_believed {
        info!("the clock is believed again");
        return;
    }
    warn!(
        "the clock was set forward by {}, which is not believed: ids of that time are refused (REQUEST_FROM_FUTURE). \
         If the clock is right, for example after the machine was suspended, restart sumd",
        duration(ahead)
    );
}

/// Warns if the clock is behind that of the lane's last batch: it was wrong then, or is now.
pub(super) fn compare(head: Head, now: Millis) {
    if let Some(problem) = behind(head, now) {
        warn!("{problem}");
    }
}

/// A warning that says how far the clock is behind, and with what effect; `None` if it is not.
fn behind(head: Head, now: Millis) -> Option<String> {
    let refused_until = head.horizon.max(head.session_horizon);
    if refused_until > now {
        return Some(format!(
            "ids and sessions with a time before {} may have been forgotten, and are refused for the next {} \
             (REQUEST_TOO_OLD, SESSION_TOO_OLD): the clock was ahead when they were forgotten, or is behind now. If it \
             is wrong now, fix it; if it is right, sumd reset-horizon makes the server accept them again",
            date(refused_until),
            duration(refused_until - now)
        ));
    }
    (head.time - now > MAX_BEHIND).then(|| {
        format!(
            "the clock is {} behind the time of the last batch: it was wrong then, or is wrong now",
            duration(head.time - now)
        )
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::notice::tests::logged;

    const DAY: Millis = 24 * 3_600_000;

    /// A clock that jumps by over a day while the process runs is not believed, and time goes on without it, the same
    /// for every lane. Once the clock is corrected, it is believed again.
    #[tokio::test(start_paused = true)]
    async fn a_clock_that_jumps_by_over_a_day_is_not_believed() {
        let wall = Arc::new(AtomicI64::new(5 * DAY));
        let clock = Clock::new({
            let wall = wall.clone();
            move || wall.load(Ordering::Relaxed)
        });
        assert_eq!(clock.now(), 5 * DAY, "at the start it is believed");
        wall.store(400 * DAY, Ordering::Relaxed);
        tokio::time::advance(Duration::from_secs(3)).await;
        let another = clock.clone();
        assert_eq!(another.now(), 5 * DAY + 3000);
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(clock.now(), 5 * DAY + 6000);
        wall.store(5 * DAY + 5000, Ordering::Relaxed);
        assert_eq!(clock.now(), 5 * DAY + 5000, "it is mended");
        wall.store(6 * DAY, Ordering::Relaxed);
        assert_eq!(clock.now(), 6 * DAY, "of a day, as after a suspend");
        wall.store(2 * DAY, Ordering::Relaxed);
        assert_eq!(clock.now(), 2 * DAY, "and back");
    }

    /// At a start, a warning says that the clock is behind, and which ids are refused for it, if any are.
    #[test]
    fn a_clock_that_is_behind_is_told() {
        let now = 5 * DAY;
        let head = |horizon, session_horizon, time| Head {
            time,
            horizon,
            session_horizon,
            ..Head::default()
        };
        let told = |head| behind(head, now).unwrap_or_default();
        assert_eq!(told(head(now, now, now + MAX_BEHIND)), "");
        let late = told(head(now, now, now + MAX_BEHIND + 1));
        assert!(late.contains("behind the time of the last batch"), "{late}");
        for head in [
            head(now + DAY, 0, now + 2 * DAY),
            head(0, now + DAY, now + 2 * DAY),
        ] {
            let refused = told(head);
            assert!(refused.contains("REQUEST_TOO_OLD"), "{refused}");
            assert!(
                refused.contains("are refused for the next 1day "),
                "{refused}"
            );
        }
    }

    /// New ids with a time, or sessions, are refused until the clock reaches the latest horizon of any lane.
    #[tokio::test(start_paused = true)]
    async fn a_clock_is_behind_a_horizon_that_is_to_come() {
        let clock = Clock::new(|| 100);
        let note = |horizon, session_horizon| {
            clock.note(Head {
                horizon,
                session_horizon,
                ..Head::default()
            });
        };
        assert!(!clock.is_behind_horizon());
        note(100, 50);
        assert!(!clock.is_behind_horizon());
        note(0, 101);
        assert!(clock.is_behind_horizon());
        note(0, 0);
        assert!(clock.is_behind_horizon());
    }

    /// The log says once that a clock is not believed, and once that it is believed again.
    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_not_believed_is_told() {
        let wall = Arc::new(AtomicI64::new(0));
        let clock = Clock::new({
            let wall = wall.clone();
            move || wall.load(Ordering::Relaxed)
        });
        let told = |now: Millis| {
            wall.store(now, Ordering::Relaxed);
            logged(|| {
                clock.now();
                clock.now();
            })
        };
        assert_eq!(told(DAY), "");
        let off = told(4 * DAY);
        assert!(
            off.contains("WARN") && off.contains("set forward by 3days"),
            "{off}"
        );
        assert_eq!(off.lines().count(), 1, "{off}");
        let mended = told(DAY);
        assert!(mended.contains("believed again"), "{mended}");
    }
}
