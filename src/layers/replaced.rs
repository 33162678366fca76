//! Messages of a request that were replaced by empty ones.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::frame_error::FrameError;
use crate::sum::wire::{Malformed, Total};

/// The content of a message that was replaced by an empty one.
#[derive(Debug, PartialEq, Eq)]
pub enum Replaced {
    /// The message was refused, and its method continues without it.
    Refused(FrameError),
    /// The message came in parts or compressed, and was summed.
    Summed(Result<Total, Malformed>),
}

/// The last replaced message of a request. The body has nothing after that message before the method has read on, so it is
/// the message that the method has just read.
#[derive(Default)]
pub struct LastReplaced(Mutex<Option<Replaced>>);

impl LastReplaced {
    pub(super) fn set(&self, replaced: Replaced) {
        *self.lock() = Some(replaced);
    }

    /// Takes the content of an empty message that has just been read, if it was replaced.
    #[must_use]
    pub fn take(&self) -> Option<Replaced> {
        self.lock().take()
    }

    /// The lock, even if it is poisoned: the value is valid after each change.
    fn lock(&self) -> MutexGuard<'_, Option<Replaced>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
