//! How old a session is. A lane that knows nothing of it takes its messages only where it cannot have forgotten any: where the
//! session's time is after all that is forgotten. That is when the session began, and later the last moment before which
//! nothing was sent that may come again.

use super::Stream;
use crate::model::{MAX_SKEW, SESSION_WINDOW, Session};

impl Stream {
    /// Takes what lanes have of the session for what it tells of its age. Whatever was sent and is not known to be applied was
    /// sent after the last that is; only where there is something between does that tell nothing.
    pub(super) fn take_age(&mut self, lanes: &[Session], applied: u64) {
        self.first_sent_here = applied + SESSION_WINDOW + 1;
        if let Some((_, time)) = &mut self.session
            && let Some(used) = Session::last_used(lanes, applied)
        {
            *time = used.max(*time);
        }
    }

    /// Messages up to this one are whole. What comes after those that may have been sent on an earlier stream, too, is as
    /// young as it can be.
    pub(super) fn stay_young(&mut self, sequence: u64) {
        if sequence < self.first_sent_here {
            return;
        }
        let now = self.service.lanes.now() - MAX_SKEW;
        if let Some((_, time)) = &mut self.session {
            *time = now.max(*time);
        }
    }
}
