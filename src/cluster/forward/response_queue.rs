//! Answers on their way back to the calling node.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tonic::Status;

use super::super::clocks;
use super::call::PeerRefusal;
use super::{
    MAX_CALLS, MAX_CALLS_BYTES, MAX_PAYLOAD_BYTES, MESSAGE_BYTES, OVERHEAD_BYTES, PROTOCOL,
};
use crate::proto::sumd::cluster::v1 as proto;
use crate::status;

/// The bounds are twice what a node leaves unanswered, so a node within its own bounds never has to wait.
const MAX_HELD: usize = 2 * MAX_CALLS;
const MAX_HELD_BYTES: usize = 2 * MAX_CALLS_BYTES;

/// The answers of one stream, sent and due.
pub(super) struct ResponseQueue(Mutex<State>);

#[derive(Default)]
struct State {
    answers: Vec<proto::Answer>,
    /// Whether the first message was sent.
    hello_sent: bool,
    /// Whether a message is due, with or without answers.
    keepalive: bool,
    /// To be told in the next message.
    draining: bool,
    /// Calls whose answers were not sent yet, and their bytes.
    held: usize,
    held_bytes: usize,
    /// The end of the stream, after all answers are sent; an error ends it at once.
    end: Option<Result<(), Status>>,
    /// The waker of the response.
    sender: Option<Waker>,
    /// The waker of the reader of calls, which waits for capacity.
    reader: Option<Waker>,
}

impl ResponseQueue {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::default()))
    }

    /// Registers a call and returns the handle to answer it with.
    pub(super) fn reply(self: &Arc<Self>, id: u64, bytes: usize) -> Reply {
        let mut state = self.state();
        state.held += 1;
        state.held_bytes += bytes;
        Reply {
            outgoing: self.clone(),
            id,
            bytes,
            sent: false,
        }
    }

    /// Waits until there is capacity for a message of calls.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.held < MAX_HELD && state.held_bytes < MAX_HELD_BYTES {
            return Poll::Ready(());
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    pub(super) fn keepalive(&self) {
        self.change(|state| state.keepalive = true);
    }

    pub(super) fn say_draining(&self) {
        self.change(|state| state.draining = true);
    }

    pub(super) fn end(&self, end: Result<(), Status>) {
        self.change(|state| state.end = Some(end));
    }

    /// The next message, with all available answers up to a size; or the end of the stream, or its error.
    pub(super) fn poll_message(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<proto::ForwardResponse, Status>>> {
        let mut state = self.state();
        match &state.end {
            Some(Err(error)) => return Poll::Ready(Some(Err(error.clone()))),
            Some(Ok(())) if state.held == 0 => return Poll::Ready(None),
            _ => {}
        }
        let greeting = !std::mem::replace(&mut state.hello_sent, true);
        let keepalive = std::mem::take(&mut state.keepalive);
        let draining = std::mem::take(&mut state.draining);
        if state.answers.is_empty() && !greeting && !keepalive && !draining {
            state.sender = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let mut bytes = 0;
        let fit = state.answers.iter().take_while(|answer| {
            let fits = bytes < MESSAGE_BYTES;
            bytes += size(answer) + OVERHEAD_BYTES;
            fits
        });
        let fit = fit.count();
        let answers: Vec<_> = if fit == state.answers.len() {
            std::mem::take(&mut state.answers)
        } else {
            state.answers.drain(..fit).collect()
        };
        state.held -= answers.len();
        state.held_bytes -= answers.iter().map(size).sum::<usize>();
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
        Poll::Ready(Some(Ok(proto::ForwardResponse {
            answers,
            protocol: if greeting { PROTOCOL } else { 0 },
            draining,
            time_ms: clocks::now(),
        })))
    }

    fn answer(&self, id: u64, request_bytes: usize, answer: Result<Bytes, PeerRefusal>) {
        let answer = match answer {
            Ok(answer) if answer.len() > MAX_PAYLOAD_BYTES => Err(PeerRefusal::unknown(
                "the answer is too large to be sent to another node",
            )),
            answer => answer,
        };
        let (result, refusal) = match answer {
            Ok(answer) => (proto::answer::Result::Ok(answer), None),
            Err(PeerRefusal { why, status }) => {
                let error = proto::answer::Result::Error(status::to_encoded(&status));
                (error, Some(proto::Refusal { why: Some(why) }))
            }
        };
        let answer = proto::Answer {
            id,
            result: Some(result),
            refusal,
        };
        self.change(|state| {
            state.held_bytes = state.held_bytes - request_bytes + size(&answer);
            state.answers.push(answer);
        });
    }

    /// Changes the state, and wakes the sender.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        let sender = state.sender.take();
        drop(state);
        if let Some(sender) = sender {
            sender.wake();
        }
    }

    /// The lock cannot leave a partial change, so a poisoned one is used as it is.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn size(answer: &proto::Answer) -> usize {
    match &answer.result {
        Some(proto::answer::Result::Ok(bytes) | proto::answer::Result::Error(bytes)) => bytes.len(),
        None => 0,
    }
}

/// The handle to answer a call with. Dropping it without an answer reports the outcome to the caller as unknown.
pub struct Reply {
    outgoing: Arc<ResponseQueue>,
    id: u64,
    /// The size of the request.
    bytes: usize,
    sent: bool,
}

impl Reply {
    /// Answers the call, from any thread, without waiting.
    pub fn send(mut self, answer: Result<Bytes, PeerRefusal>) {
        self.sent = true;
        self.outgoing.answer(self.id, self.bytes, answer);
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.sent {
            let lost = PeerRefusal::unknown("the other node lost the call");
            self.outgoing.answer(self.id, self.bytes, Err(lost));
        }
    }
}

#[cfg(test)]
mod tests;
