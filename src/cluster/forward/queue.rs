//! The calls for one peer: waiting ones, and those in flight.
//!
//! Callers, the stream that takes calls and the task that brings answers all run on one thread, so the lock is never
//! contended.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::call::{self, Answer, Call, Doubt, ForwardError, NotSent};
use super::{
    MAX_CALLS, MAX_CALLS_BYTES, MAX_PAYLOAD_BYTES, MESSAGE_BYTES, OVERHEAD_BYTES, PROTOCOL,
};
use crate::proto::sumd::cluster::v1 as proto;

/// The result of a call, as its caller gets it.
pub(super) type CallResult = Result<Answer, ForwardError>;

/// Ticks after which an unanswered call is given up.
const ANSWER_TICKS: u32 = 40;
/// Ticks after which a keepalive is sent if no message was: well before either side treats the stream as idle.
const IDLE_TICKS: u32 = 40;

#[derive(Default)]
pub(super) struct PeerQueue {
    state: Mutex<State>,
    /// Notified when there may be capacity again, or when no more calls will be accepted.
    room: Notify,
}

#[derive(Default)]
struct State {
    phase: Phase,
    /// The number of the connection. A stream of an earlier connection gets no calls.
    epoch: u64,
    /// Whether the first message, with the version, was sent.
    hello_sent: bool,
    /// Whether a message is due, with or without calls.
    keepalive: bool,
    waiting: VecDeque<Waiting>,
    in_flight: InFlight,
    /// The bytes of all payloads, waiting and in flight.
    bytes: usize,
    ticks: u32,
    /// The tick count when the last message was sent.
    last_sent: u32,
    /// The time of the last successful answer.
    last_answer: Option<Instant>,
    /// The waker of the stream that takes calls.
    waker: Option<Waker>,
}

/// The state of the connection, which decides what happens to a new call.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    /// The first connection is being made, and calls wait. Executed elsewhere meanwhile, they would compete with the
    /// node that gets the next calls as soon as it is connected.
    #[default]
    Opening,
    /// There is no connection: calls are refused.
    Shut,
    /// Calls are accepted.
    Open,
    /// Calls are refused, and the stream of calls ends. Answers still come.
    Closing,
}

impl Phase {
    fn takes(self) -> bool {
        matches!(self, Self::Open | Self::Opening)
    }
}

struct Waiting {
    call: Call,
    caller: oneshot::Sender<CallResult>,
    since: u32,
}

impl PeerQueue {
    pub(super) fn is_open(&self) -> bool {
        self.state().phase == Phase::Open
    }

    /// Whether calls are accepted, to be sent now or after the first connection is made.
    pub(super) fn takes_calls(&self) -> bool {
        self.state().phase.takes()
    }

    /// The time of the last successful answer, as far as is known.
    pub(super) fn last_answer(&self) -> Option<Instant> {
        self.state().last_answer
    }

    /// Queues a call, or refuses it at once.
    pub(super) fn push(&self, call: Call) -> Result<oneshot::Receiver<CallResult>, NotSent> {
        if call.payload.len() > MAX_PAYLOAD_BYTES {
            return Err(NotSent::TooLarge);
        }
        let mut state = self.state();
        if !state.phase.takes() {
            return Err(NotSent::NotConnected);
        }
        let calls = state.waiting.len() + state.in_flight.count;
        let bytes = state.bytes + call.payload.len();
        if calls >= MAX_CALLS || bytes > MAX_CALLS_BYTES {
            return Err(NotSent::Full);
        }
        state.bytes = bytes;
        let (caller, outcome) = oneshot::channel();
        let since = state.ticks;
        state.waiting.push_back(Waiting {
            call,
            caller,
            since,
        });
        wake(state);
        Ok(outcome)
    }

    /// Queues a call as soon as there is capacity for it.
    pub(super) async fn push_ordered(
        &self,
        call: Call,
    ) -> Result<oneshot::Receiver<CallResult>, NotSent> {
        loop {
            // Created before the attempt, so that no notification in between is missed.
            let room = self.room.notified();
            match self.push(call.clone()) {
                Err(NotSent::Full) => room.await,
                pushed => return pushed,
            }
        }
    }

    /// Begins a connection, which does not accept calls yet. Returns its number.
    pub(super) fn begin(&self) -> u64 {
        if self.state().phase != Phase::Opening {
            self.fail();
        }
        let mut state = self.state();
        state.epoch += 1;
        state.hello_sent = false;
        state.epoch
    }

    /// Accepts calls from now on.
    pub(super) fn open(&self) {
        let mut state = self.state();
        state.phase = Phase::Open;
        wake(state);
    }

    /// Accepts no more calls, and ends the stream of calls. Waiting calls are refused; calls in flight still wait for
    /// their answers.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.phase = Phase::Closing;
        state.refuse_waiting(NotSent::NotConnected);
        wake(state);
        self.room.notify_waiters();
    }

    /// Marks the connection as broken, and fails all calls.
    pub(super) fn fail(&self) {
        let mut state = self.state();
        state.phase = Phase::Shut;
        // An earlier stream that is still polled gets no calls.
        state.epoch += 1;
        state.refuse_waiting(NotSent::NotConnected);
        for in_flight_call in state.in_flight.take_all() {
            tell(
                in_flight_call.caller,
                Err(ForwardError::Unknown(Doubt::Broken)),
            );
        }
        state.bytes = 0;
        self.room.notify_waiters();
    }

    /// The next message of a connection: all waiting calls, up to a size. `None` at its end.
    pub(super) fn poll_message(
        &self,
        epoch: u64,
        cx: &mut Context<'_>,
    ) -> Poll<Option<proto::ForwardRequest>> {
        let mut state = self.state();
        if state.epoch != epoch {
            return Poll::Ready(None);
        }
        let calls = match state.phase {
            Phase::Opening => Vec::new(),
            _ => state.take_waiting(),
        };
        let greeting = !std::mem::replace(&mut state.hello_sent, true);
        let keepalive = std::mem::take(&mut state.keepalive);
        if calls.is_empty() && !greeting && !keepalive {
            if state.phase == Phase::Closing {
                return Poll::Ready(None);
            }
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        state.last_sent = state.ticks;
        Poll::Ready(Some(proto::ForwardRequest {
            calls,
            protocol: if greeting { PROTOCOL } else { 0 },
        }))
    }

    /// Hands out answers. Answers to calls that were given up are ignored.
    pub(super) fn answered(&self, answers: Vec<proto::Answer>) {
        let mut state = self.state();
        let is_well =
            |answer: &proto::Answer| matches!(answer.result, Some(proto::answer::Result::Ok(_)));
        if answers.iter().any(is_well) {
            state.last_answer = Some(Instant::now());
        }
        for answer in answers {
            if let Some(in_flight_call) = state.in_flight.take(answer.id) {
                state.bytes -= in_flight_call.bytes;
                tell(
                    in_flight_call.caller,
                    Ok(call::read(answer.result, answer.refusal)),
                );
            }
        }
        self.room.notify_waiters();
    }

    /// Ends overdue calls, and calls whose callers have gone; to be called at an interval. Returns whether any calls
    /// are left.
    pub(super) fn tick(&self, now: Instant) -> bool {
        let mut state = self.state();
        let state = &mut *state;
        state.ticks = state.ticks.wrapping_add(1);
        let ticks = state.ticks;
        let is_old = |since: u32| ticks.wrapping_sub(since) > ANSWER_TICKS;
        let is_late = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        // Calls are overdue in the order of the queue, except by their deadlines, which are checked again before
        // sending.
        while let Some(first) = state.waiting.front()
            && (is_old(first.since) || first.caller.is_closed() || is_late(first.call.deadline))
        {
            let first = state.waiting.pop_front().expect("it was there");
            state.bytes -= first.call.payload.len();
            tell(first.caller, Err(ForwardError::NotSent(NotSent::Late)));
        }
        let overdue = |in_flight_call: &InFlightCall| {
            is_old(in_flight_call.since)
                || in_flight_call.caller.is_closed()
                || is_late(in_flight_call.deadline)
        };
        for in_flight_call in state.in_flight.take_where(overdue) {
            state.bytes -= in_flight_call.bytes;
            tell(
                in_flight_call.caller,
                Err(ForwardError::Unknown(Doubt::NoAnswer)),
            );
        }
        if state.phase == Phase::Open && ticks.wrapping_sub(state.last_sent) > IDLE_TICKS {
            state.keepalive = true;
            if let Some(waker) = state.waker.take() {
                waker.wake();
            }
        }
        self.room.notify_waiters();
        !state.waiting.is_empty() || state.in_flight.count > 0
    }

    /// The lock cannot leave a partial change, so a poisoned one is used as it is.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take_waiting(&mut self) -> Vec<proto::Call> {
        if self.waiting.is_empty() {
            return Vec::new();
        }
        let now = Instant::now();
        let mut calls = Vec::with_capacity(self.waiting.len().min(MAX_CALLS));
        let mut bytes = 0;
        while bytes < MESSAGE_BYTES
            && let Some(waiting) = self.waiting.pop_front()
        {
            let Waiting { call, caller, .. } = waiting;
            let left = call
                .deadline
                .map(|deadline| deadline.saturating_duration_since(now));
            if caller.is_closed() || left.is_some_and(|left| left.is_zero()) {
                self.bytes -= call.payload.len();
                tell(caller, Err(ForwardError::NotSent(NotSent::Late)));
                continue;
            }
            // Rounded up, since 0 means no timeout.
            let timeout_ms = left.map_or(0, |left| left.as_micros().div_ceil(1000));
            bytes += call.payload.len() + OVERHEAD_BYTES;
            let in_flight_call = InFlightCall {
                caller,
                since: self.ticks,
                deadline: call.deadline,
                bytes: call.payload.len(),
            };
            calls.push(proto::Call {
                id: self.in_flight.put(in_flight_call),
                kind: proto::Kind::from(call.kind).into(),
                payload: call.payload,
                own_id: call.own_id,
                timeout_ms: u32::try_from(timeout_ms).unwrap_or(u32::MAX),
            });
        }
        calls
    }

    fn refuse_waiting(&mut self, why: NotSent) {
        for waiting in std::mem::take(&mut self.waiting) {
            self.bytes -= waiting.call.payload.len();
            tell(waiting.caller, Err(ForwardError::NotSent(why)));
        }
    }
}

/// Wakes the stream that takes calls, after releasing the lock.
fn wake(mut state: MutexGuard<'_, State>) {
    let waker = state.waker.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// The caller may have stopped waiting.
fn tell(caller: oneshot::Sender<CallResult>, outcome: CallResult) {
    let _ = caller.send(outcome);
}

/// A call that was sent and is not answered yet.
struct InFlightCall {
    caller: oneshot::Sender<CallResult>,
    since: u32,
    deadline: Option<Instant>,
    bytes: usize,
}

/// Calls in flight by id. An id is a slot, and in its upper half how many calls have used that slot before.
#[derive(Default)]
struct InFlight {
    places: Vec<(u32, Option<InFlightCall>)>,
    free: Vec<u32>,
    count: usize,
}

impl InFlight {
    fn put(&mut self, in_flight_call: InFlightCall) -> u64 {
        self.count += 1;
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push((0, None));
            u32::try_from(self.places.len() - 1).expect("calls are bounded")
        });
        let (uses, slot) = &mut self.places[place as usize];
        *slot = Some(in_flight_call);
        u64::from(*uses) << 32 | u64::from(place)
    }

    fn take(&mut self, id: u64) -> Option<InFlightCall> {
        let (uses, place) = ((id >> 32) as u32, (id & 0xffff_ffff) as u32);
        let slot = self.places.get_mut(place as usize)?;
        if slot.0 != uses {
            return None;
        }
        let in_flight_call = slot.1.take()?;
        slot.0 = slot.0.wrapping_add(1);
        self.free.push(place);
        self.count -= 1;
        Some(in_flight_call)
    }

    fn take_where(&mut self, condition: impl Fn(&InFlightCall) -> bool) -> Vec<InFlightCall> {
        if self.count == 0 {
            return Vec::new();
        }
        let ids = self.places.iter().enumerate().filter_map(|(place, slot)| {
            let meets = slot.1.as_ref().is_some_and(&condition);
            meets.then(|| u64::from(slot.0) << 32 | place as u64)
        });
        let ids: Vec<_> = ids.collect();
        ids.into_iter().filter_map(|id| self.take(id)).collect()
    }

    fn take_all(&mut self) -> Vec<InFlightCall> {
        self.take_where(|_| true)
    }
}

#[cfg(test)]
mod tests;
