//! The time of day, as a node has it.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use humantime::FormattedDuration;
use tracing::{info, warn};

use crate::model::{Head, Millis};

/// How far it may be behind at a start without a word, in milliseconds: what is corrected all the time.
const MAX_BEHIND: Millis = 60_000;

/// What tells lanes the time of day. It may be wrong, and corrected at any moment; what has passed is told by another clock,
/// the runtime's, which only ticks.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Millis + Send + Sync>);

impl Clock {
    /// A clock that is read by calling `now`.
    pub fn new(now: impl Fn() -> Millis + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    pub(super) fn now(&self) -> Millis {
        self.0()
    }
}

/// That of the machine.
impl Default for Clock {
    fn default() -> Self {
        Self::new(|| {
            let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
            let millis = since_1970.map_or(0, |time| time.as_millis());
            Millis::try_from(millis).unwrap_or(Millis::MAX)
        })
    }
}

/// Whether a lane believes the clock.
#[derive(Default)]
pub(super) struct Trust {
    is_ahead: bool,
}

impl Trust {
    /// Says so when the clock is not believed any more, being ahead by so much, and when it is again.
    pub(super) fn tell(&mut self, ahead: Option<Millis>) {
        if std::mem::replace(&mut self.is_ahead, ahead.is_some()) == ahead.is_some() {
            return;
        }
        let Some(ahead) = ahead else {
            info!("the clock is believed again");
            return;
        };
        warn!(
            "the clock was set forward by {}, which is not believed: ids of that time are refused \
             (REQUEST_FROM_FUTURE). If it is right, as after the machine was suspended, start sumd again",
            duration(ahead)
        );
    }
}

/// Says so where the clock is behind what it was when the lane was here before: it was wrong then, or is now.
pub(super) fn compare(head: Head, now: Millis) {
    if head.time - now > MAX_BEHIND {
        warn!(
            "the clock is {} behind that of the last batch. What was forgotten by that one stays forgotten: for the \
             next {} ids with a time are refused (REQUEST_TOO_OLD), and others are remembered. If it is wrong now, \
             mend it",
            duration(head.time - now),
            duration(head.horizon - now)
        );
    }
}

fn duration(millis: Millis) -> FormattedDuration {
    let seconds = u64::try_from(millis / 1000).unwrap_or(0);
    humantime::format_duration(Duration::from_secs(seconds))
}
