//! Clients that record in bulk, in sessions that outlive their streams and the server.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sumd::proto::sum::v1::{RecordIncrementsRequest, RecordIncrementsResponse};
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming};
use tonic_types::RpcStatusExt as _;
use uuid::Uuid;

use super::finding::found;
use super::history::{Acknowledgement, History, Message, Recorded};
use super::link::{Link, in_time};
use super::operation::{Add, LimitError};

/// Number of clients that record.
pub const RECORDERS: usize = 4;
/// Number of tallies; every message adds to one of them.
pub const TALLIES: usize = 32;
/// Bits of a tally in which a client counts its messages; the first client has the lowest bits.
pub const TALLY_BITS: usize = 12;
/// The bits above are for calls.
pub const UNIT: i64 = 1 << (TALLY_BITS * RECORDERS);
/// The most messages that fit into the tallies.
const MAX_MESSAGES: usize = TALLIES * ((1 << TALLY_BITS) - 1);

/// The group of one client's own counters, in which failures follow from the order of its messages.
pub fn own_group(who: usize) -> String {
    format!("own{who}")
}

const OWN: usize = 5;

struct Recorder {
    link: Link,
    recorded: Recorded,
    session: String,
    /// Number of messages in earlier sessions.
    offset: usize,
    /// The last acknowledged message. Messages are numbered through all sessions.
    acknowledged: usize,
    /// When more was last acknowledged, or nothing was due, and the number of all clients' changes that were answered
    /// by then.
    progress: (Instant, usize),
    /// Up to this message, an abandoned stream may still apply messages, at an unknown time.
    doubtful: usize,
}

/// The state of one stream.
struct Stream {
    messages: UnboundedSender<RecordIncrementsRequest>,
    next: usize,
    window: usize,
    /// The messages that the first answer acknowledged; later ones were applied on this stream.
    known: Option<usize>,
    /// When the last answer came, or nothing was due.
    heard: Instant,
}

/// Records until it is told to stop and all messages are acknowledged, and asks once more after the last start of the
/// server.
pub async fn record(link: Link, who: usize) -> History {
    let mut recorder = Recorder {
        link,
        recorded: Recorded {
            who,
            ..Recorded::default()
        },
        session: Uuid::now_v7().to_string(),
        offset: 0,
        acknowledged: 0,
        progress: (Instant::now(), 0),
        doubtful: 0,
    };
    while !(recorder.link.stopped() && recorder.is_settled()) {
        if recorder.stream().await && recorder.link.rng.bool() {
            recorder.begin_session();
        }
    }
    recorder.link.context.audit.clone().cancelled().await;
    recorder.goes_on();
    while !recorder.stream().await {}
    History {
        sessions: vec![recorder.recorded],
        ..History::default()
    }
}

/// The rest of a deadline.
fn left(deadline: Option<Duration>, since: Instant) -> Option<Duration> {
    deadline.map(|deadline| deadline.saturating_sub(since.elapsed()))
}

impl Recorder {
    fn made(&self) -> usize {
        self.recorded.messages.len()
    }

    fn is_settled(&self) -> bool {
        self.acknowledged == self.made()
    }

    fn begin_session(&mut self) {
        self.session = Uuid::now_v7().to_string();
        self.offset = self.made();
    }

    /// Runs one stream from the last acknowledged message. Returns whether the server has ended it with OK.
    async fn stream(&mut self) -> bool {
        match self.try_stream().await {
            Ok(closed) => closed,
            Err(status) => {
                self.link.excuse(&status);
                self.assert_goes_on(&status);
                self.link.think(Duration::from_millis(10)).await;
                false
            }
        }
    }

    /// Fails if no more messages are acknowledged. That is a finding if other clients were answered meanwhile, and else
    /// an outage of the servers.
    fn assert_goes_on(&self, last: &Status) {
        let (since, answered) = self.progress;
        let outage = self.link.context.servers.outage;
        if since.elapsed() > outage {
            let others = self.link.context.answered.load(Ordering::Relaxed) - answered;
            let what = format!(
                "message {} of a session was not acknowledged in {outage:?}, and others were answered {others} times: \
                 {last:?}",
                self.acknowledged + 1
            );
            if others > 0 {
                found(what)
            } else {
                panic!("{what}")
            }
        }
    }

    fn goes_on(&mut self) {
        let answered = self.link.context.answered.load(Ordering::Relaxed);
        self.progress = (Instant::now(), answered);
    }

    async fn try_stream(&mut self) -> Result<bool, Status> {
        let (messages, queue) = mpsc::unbounded_channel();
        let mut stream = Stream {
            messages,
            next: self.acknowledged + 1,
            window: 0,
            known: None,
            heard: Instant::now(),
        };
        // It asks which messages are acknowledged, or resumes from its own knowledge.
        if self.is_settled() || self.link.rng.bool() {
            let hello = self.request(None, true);
            stream.messages.send(hello).expect("it was made just now");
        } else {
            stream.window = 1;
        }
        self.send(&mut stream);
        let deadline = self.link.deadline();
        let client = self.link.client().await;
        let asked = client.record_increments(UnboundedReceiverStream::new(queue));
        let mut answers = in_time(deadline, asked).await?.into_inner();
        stream.heard = Instant::now();
        loop {
            if self.is_settled() {
                stream.heard = Instant::now();
                self.goes_on();
            }
            self.send(&mut stream);
            let may_end = self.is_settled() && stream.known.is_some();
            if may_end && (self.link.stopped() || self.link.rng.u8(..) < 3) {
                return self.close(stream, answers).await;
            }
            // A message counts as several calls.
            let rest = 6 * self.link.context.rest.mul_f64(self.link.rng.f64());
            tokio::select! {
                answer = in_time(left(deadline, stream.heard), answers.message()) => {
                    let early = || Status::unknown("the server has ended the stream early");
                    self.take(&mut stream, &answer?.ok_or_else(early)?);
                    stream.heard = Instant::now();
                }
                () = tokio::time::sleep(rest), if !self.link.stopped() => {
                    if self.link.rng.u8(..) < 3 {
                        // It abandons the stream with messages in flight.
                        self.doubtful = self.made();
                        self.link.turn();
                        return Ok(false);
                    }
                    self.make();
                }
            }
        }
    }

    /// Sends messages within the window.
    fn send(&mut self, stream: &mut Stream) {
        let made = self.made();
        while stream.next <= made.min(self.acknowledged + stream.window) {
            let first = stream.known.is_none();
            let request = self.request(Some(stream.next), first);
            let message = &mut self.recorded.messages[stream.next - 1];
            message.sent.get_or_insert(self.link.context.clock.now());
            // If the stream is broken, its answers are about to tell the reason.
            let _ = stream.messages.send(request);
            stream.next += 1;
        }
    }

    fn request(&mut self, number: Option<usize>, named: bool) -> RecordIncrementsRequest {
        let sequence = |number: usize| (number - self.offset) as u64;
        let increments = number.map_or(&[][..], |number| {
            &self.recorded.messages[number - 1].increments
        });
        RecordIncrementsRequest {
            session_id: if named || self.link.rng.bool() {
                self.session.clone()
            } else {
                String::new()
            },
            session_time: None,
            sequence: number.map_or(0, sequence),
            acknowledged: sequence(self.acknowledged),
            increments: increments.iter().map(Add::to_proto).collect(),
        }
    }

    fn take(&mut self, stream: &mut Stream, answer: &RecordIncrementsResponse) {
        let at = self.link.context.clock.now();
        let number = |sequence: u64| self.offset + usize::try_from(sequence).expect("few");
        for failure in &answer.failures {
            let error = failure.error.as_ref().expect("an error");
            let info = error.get_details_error_info().expect("an ErrorInfo");
            let key = (number(failure.sequence), failure.index as usize);
            let refusal = LimitError::read(&info);
            let before = self.recorded.failures.insert(key, refusal.clone());
            if let Some(before) = before.filter(|before| *before != refusal) {
                let problem = format!("{key:?}: {before:?}, and then {refusal:?}");
                self.recorded.contradictions.push(problem);
            }
        }
        stream.window = answer.window as usize;
        let last = number(answer.acknowledged);
        if answer.acknowledged > 0 {
            if last > self.made() {
                found(format!("{answer:?} of {} messages", self.made()));
            }
            let known = stream.known;
            self.recorded.acknowledgements.push(Acknowledgement {
                at,
                number: last,
                revision: answer.revision,
                exact: known.is_some_and(|known| last > known)
                    && last > self.doubtful
                    && self.link.context.servers.one_lane,
            });
        }
        stream.known.get_or_insert(last);
        if last > self.acknowledged {
            self.acknowledged = last;
            self.goes_on();
        }
        stream.next = stream.next.max(self.acknowledged + 1);
    }

    /// Closes the client's side, and waits for the server's OK.
    async fn close(
        &mut self,
        mut stream: Stream,
        mut answers: Streaming<RecordIncrementsResponse>,
    ) -> Result<bool, Status> {
        if self.link.rng.bool() {
            // The server may forget what this client knows.
            stream.known = Some(self.made());
            let last = self.request(None, false);
            let _ = stream.messages.send(last);
        }
        let (closed, _) = mpsc::unbounded_channel();
        drop(std::mem::replace(&mut stream.messages, closed));
        let deadline = self.link.deadline();
        while let Some(answer) = in_time(deadline, answers.message()).await? {
            self.take(&mut stream, &answer);
        }
        Ok(true)
    }

    /// Makes some messages: mostly a few, sometimes more than the window holds.
    fn make(&mut self) {
        let count = match self.link.rng.u8(..) {
            0..2 => 400,
            2..40 => 40,
            _ => self.link.rng.usize(1..=8),
        };
        for _ in 0..count.min(MAX_MESSAGES - self.made()) {
            let increments = self.increments(self.made() + 1);
            self.recorded.messages.push(Message {
                increments,
                sent: None,
            });
        }
    }

    fn increments(&mut self, number: usize) -> Vec<Add> {
        let (who, names) = (self.recorded.who, &self.link.context.names);
        let rng = &mut self.link.rng;
        let mut all = vec![Add::new(
            names.of("tally", number % TALLIES),
            1 << (TALLY_BITS * who),
        )];
        for _ in 0..rng.usize(..8) {
            let own = rng.usize(..OWN);
            let mut add = Add::new(names.of(&own_group(who), own), rng.i64(-50..=60));
            match rng.u8(..12) {
                0 => add.min = Some(rng.i64(-100..=0)),
                1..=3 => add.max = Some(rng.i64(0..=300)),
                4 => (add.max, add.saturate) = (Some(300), true),
                5 => (add.min, add.max) = (Some(1), Some(rng.i64(-1..=3))),
                // The last counter overflows.
                _ if own == OWN - 1 => add.delta = rng.i64(..),
                _ => {}
            }
            all.insert(rng.usize(..=all.len()), add);
        }
        all
    }
}
