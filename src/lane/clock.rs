//! The time of day, as a node has it.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::model::Millis;

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
