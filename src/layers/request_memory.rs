//! A bound on the bytes of all request messages that have not come whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytesize::ByteSize;
use tracing::warn;

use super::frame_error::FrameError;
use crate::notice::Rarely;

/// The memory of a server for unfinished messages.
#[derive(Debug)]
pub struct RequestMemory {
    max_bytes: usize,
    used: AtomicUsize,
}

impl RequestMemory {
    /// Memory of up to `max_bytes`.
    #[must_use]
    pub fn new(max_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            max_bytes,
            used: AtomicUsize::new(0),
        })
    }

    /// Changes the bytes that a call has of it.
    ///
    /// # Errors
    /// Returns [`FrameError::MemoryFull`] if there is no room for more.
    pub(super) fn resize(&self, held: &mut usize, bytes: usize) -> Result<(), FrameError> {
        if bytes > *held {
            self.grow(bytes - *held)?;
        } else if bytes < *held {
            self.used.fetch_sub(*held - bytes, Ordering::Relaxed);
        }
        *held = bytes;
        Ok(())
    }

    fn grow(&self, bytes: usize) -> Result<(), FrameError> {
        static NOTICE: Rarely = Rarely::new();
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) <= self.max_bytes {
            return Ok(());
        }
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        if NOTICE.is_due() {
            let max = ByteSize::b(self.max_bytes as u64);
            warn!(%max, "refusing messages (--request-memory)");
        }
        Err(FrameError::MemoryFull {
            max_bytes: self.max_bytes,
        })
    }
}
