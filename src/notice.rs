//! Warnings about what callers can bring about as often as they like.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Between two warnings of a kind.
const INTERVAL: Duration = Duration::from_mins(1);

/// When a warning of one kind was last due: the first time it is needed, and then at most once a minute.
#[derive(Debug, Default)]
pub struct Rarely(Mutex<Option<Instant>>);

impl Rarely {
    /// A warning that was never due.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Whether the warning is due now.
    pub fn is_due(&self) -> bool {
        self.is_due_at(Instant::now())
    }

    fn is_due_at(&self, now: Instant) -> bool {
        // If another thread is looking, that one warns.
        let Ok(mut last) = self.0.try_lock() else {
            return false;
        };
        let is_due = last.is_none_or(|last| now.saturating_duration_since(last) >= INTERVAL);
        if is_due {
            *last = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::{self, Write};
    use std::sync::Arc;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The log of this thread while it acts.
    pub fn logged(act: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt().with_writer(move || writer.clone());
        tracing::subscriber::with_default(log.with_ansi(false).finish(), act);
        let lines = lines.0.lock().expect("no panic");
        String::from_utf8_lossy(&lines).into_owned()
    }

    #[test]
    fn a_warning_is_due_at_once_and_then_each_minute() {
        let rarely = Rarely::new();
        let begun = Instant::now();
        let due = [0, 1, 59, 60, 61, 119, 120]
            .map(|second| rarely.is_due_at(begun + Duration::from_secs(second)));
        assert_eq!(due, [true, false, false, true, false, false, true]);
    }
}
