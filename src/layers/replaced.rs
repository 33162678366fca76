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

/// The last replaced message of a request, with its number, counted from 1. The body has nothing after that message before
/// the method has read on, so it is the message that the method has just read. The number holds that.
#[derive(Default)]
pub struct LastReplaced(Mutex<Option<(u64, Replaced)>>);

impl LastReplaced {
    pub(super) fn set(&self, number: u64, replaced: Replaced) {
        *self.lock() = Some((number, replaced));
    }

    /// Takes the content of an empty message that has just been read, if it was replaced.
    #[must_use]
    pub fn take(&self, number: u64) -> Option<Replaced> {
        let (_, content) = self.lock().take_if(|(of, _)| *of == number)?;
        Some(content)
    }

    /// The lock, even if it is poisoned: the value is valid after each change.
    fn lock(&self) -> MutexGuard<'_, Option<(u64, Replaced)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
