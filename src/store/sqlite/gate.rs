//! Holds up who would begin, until those who have begun are done.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Clone, Default)]
pub(super) struct Gate(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    opened: Condvar,
}

#[derive(Default)]
struct State {
    closed: bool,
    inside: usize,
}

/// Somebody is inside for as long as this is there.
pub(super) struct Pass(Gate);

impl Gate {
    /// Goes in, once it is open.
    pub(super) fn enter(&self) -> Pass {
        let state = self.state();
        let waited = self.0.opened.wait_while(state, |state| state.closed);
        waited.unwrap_or_else(PoisonError::into_inner).inside += 1;
        Pass(self.clone())
    }

    /// Lets nobody in any more; says whether everybody is out.
    pub(super) fn close(&self) -> bool {
        let mut state = self.state();
        state.closed = true;
        state.inside == 0
    }

    pub(super) fn open(&self) {
        self.state().closed = false;
        self.0.opened.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Both fields are right after each step.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.state().inside -= 1;
    }
}
