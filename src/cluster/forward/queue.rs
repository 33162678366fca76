//! The calls for one peer: those that wait, and those that it has not answered.
//!
//! Callers, the stream that takes calls and the task that brings answers are all on one thread, so the lock is never waited
//! for.

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

/// What a caller is told.
pub(super) type CallResult = Result<Answer, ForwardError>;

/// Sweeps after which nobody waits for an answer any more.
const ANSWER_TICKS: u32 = 40;
/// Sweeps after which a sign of life is sent where nothing else was: well before either side takes the stream for idle.
const IDLE_TICKS: u32 = 40;

#[derive(Default)]
pub(super) struct PeerQueue {
    state: Mutex<State>,
    /// Told when there may be room for calls again, or none will be taken any more.
    room: Notify,
}

#[derive(Default)]
struct State {
    phase: Phase,
    /// Which connection it is: what an earlier one still asks for, it does not get.
    epoch: u64,
    /// The first message has been sent, with the version.
    hello_sent: bool,
    /// A message is to be sent, with or without calls.
    keepalive: bool,
    waiting: VecDeque<Waiting>,
    in_flight: InFlight,
    /// The payloads of both.
    bytes: usize,
    ticks: u32,
    /// The sweep before which the last message was sent.
    last_sent: u32,
    /// When a call was carried out last.
    last_answer: Option<Instant>,
    /// Of the stream that takes calls.
    waker: Option<Waker>,
}

/// What becomes of a call now.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    /// It waits, for the first connection is being made. Who would carry it out meanwhile would get in the way of the node that
    /// does so as soon as there is one.
    #[default]
    Opening,
    /// It is refused, for there is no connection.
    Shut,
    /// It is taken.
    Open,
    /// It is refused, and the stream ends. Answers still come.
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

    /// Whether calls are taken, to be sent now or once there is a connection.
    pub(super) fn takes_calls(&self) -> bool {
        self.state().phase.takes()
    }

    /// When a call was carried out last, as far as is known.
    pub(super) fn last_answer(&self) -> Option<Instant> {
        self.state().last_answer
    }

    /// Queues a call.
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

    /// Queues a call as soon as there is room for it.
    pub(super) async fn push_ordered(
        &self,
        call: Call,
    ) -> Result<oneshot::Receiver<CallResult>, NotSent> {
        loop {
            // Made before it is tried, lest room that comes in between be missed.
            let room = self.room.notified();
            match self.push(call.clone()) {
                Err(NotSent::Full) => room.await,
                pushed => return pushed,
            }
        }
    }

    /// Begins a connection, which takes no calls yet. Gives its number.
    pub(super) fn begin(&self) -> u64 {
        if self.state().phase != Phase::Opening {
            self.fail();
        }
        let mut state = self.state();
        state.epoch += 1;
        state.hello_sent = false;
        state.epoch
    }

    /// Takes calls from now on.
    pub(super) fn open(&self) {
        let mut state = self.state();
        state.phase = Phase::Open;
        wake(state);
    }

    /// Takes no more calls, and ends the stream of them. Those that were not sent are told so, and those that were are
    /// still waited for.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.phase = Phase::Closing;
        state.refuse_waiting(NotSent::NotConnected);
        wake(state);
        self.room.notify_waiters();
    }

    /// The connection is no more.
    pub(super) fn fail(&self) {
        let mut state = self.state();
        state.phase = Phase::Shut;
        // An earlier stream that is still asking gets nothing.
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

    /// The next message of a connection: all that waits, up to a bound. `None` at its end.
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

    /// Hands answers out. Those that nobody waits for any more are passed over.
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

    /// To be called now and then: ends what has waited for too long, and what nobody waits for. Gives whether anything is
    /// left.
    pub(super) fn tick(&self, now: Instant) -> bool {
        let mut state = self.state();
        let state = &mut *state;
        state.ticks = state.ticks.wrapping_add(1);
        let ticks = state.ticks;
        let is_old = |since: u32| ticks.wrapping_sub(since) > ANSWER_TICKS;
        let is_late = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        // None is late before those in front of it are, but by a deadline: that is looked at again when it is sent.
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

    /// Whole after each of its changes.
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
            // Rounded up, since 0 is for ever.
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

/// Has the stream that takes calls look again, once it can.
fn wake(mut state: MutexGuard<'_, State>) {
    let waker = state.waker.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Whoever has stopped waiting is not missed.
fn tell(caller: oneshot::Sender<CallResult>, outcome: CallResult) {
    let _ = caller.send(outcome);
}

/// A call that was sent.
struct InFlightCall {
    caller: oneshot::Sender<CallResult>,
    since: u32,
    deadline: Option<Instant>,
    bytes: usize,
}

/// Calls that were sent, by their ids: a place in the list, and above it how many calls have had that place before.
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
