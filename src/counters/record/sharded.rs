//! A stream over a shared store: its session has parts in several lanes, some of which other nodes own.

use bytes::Bytes;

use super::super::error::Error;
use super::super::forward::RemoteOwner;
use super::imported::{self, ImportedParts};
use super::reassembly::{CompletedMessage, SessionReassembler};
use super::remote::PartAnswer;
use super::reply::{RecordReply, failures};
use super::{RecordStream, Replies, remote};
use crate::lane::LaneError;
use crate::model::{Increments, LowerBound, Part, Predecessor, Rejection, Resumed};
use crate::store::{LaneNumber, SessionRows};

impl RecordStream {
    /// Reads the session, and sends what is acknowledged so far in all lanes.
    pub(super) async fn resume(
        &mut self,
        acknowledged: u64,
        replies: &Replies,
    ) -> Result<(), Error> {
        let (found, resumed) = self.look().await?;
        let applied = resumed.applied;
        self.moved = ImportedParts::of(&found);
        if acknowledged > applied {
            self.refuse_lost(&found, acknowledged, applied).await?;
        }
        let acknowledged = acknowledged.max(applied);
        if self.parts.is_none() {
            let lanes = self.service.store().lanes();
            let (session, _) = self.session.as_ref().expect("the first message has set it");
            self.parts = Some(SessionReassembler::new(
                self.service.hasher,
                lanes,
                session,
                acknowledged,
            ));
        }
        let mut reply = RecordReply::default();
        let failures = failures(&resumed.failures);
        reply.add(acknowledged, found.revision, failures);
        self.resumed = Some(resumed);
        replies.send(reply).await;
        Ok(())
    }

    /// Reads the session in all lanes.
    async fn look(&mut self) -> Result<(SessionRows, Resumed), Error> {
        let (session, begun) = self.session.clone().expect("the first message has set it");
        // Taken before the read: no message that the read does not find was applied before this time.
        let now = self.service.lanes.now();
        let remembered = self.service.lanes.session_horizon();
        let found = self.service.store().session(session).await;
        let found = found.map_err(Error::of_session_read)?;
        let resumed = Resumed::new(&found.lanes, begun, now, found.horizon, remembered);
        let resumed = resumed.map_err(|refused| Error::of_session(LaneError::Refused(refused)))?;
        Ok((found, resumed))
    }

    /// The lower bound of a message. Reads the session again if the last read is too old.
    async fn bound(&mut self, sequence: u64, is_first: bool) -> Result<LowerBound, Error> {
        let lanes = &self.service.lanes;
        let (now, horizon) = (lanes.now(), lanes.session_horizon());
        let known = self.resumed.as_ref();
        let known = known.filter(|resumed| !resumed.is_old(now, horizon));
        if known.is_none() {
            self.resumed = Some(self.look().await?.1);
        }
        let resumed = self.resumed.as_ref().expect("it was looked for");
        Ok(resumed.bound(sequence, is_first, now))
    }

    /// Sends each lane its part of a message.
    pub(super) async fn split(
        &mut self,
        sequence: u64,
        acknowledged: u64,
        mut increments: Increments,
        fields: remote::RawIncrements<'_>,
        replies: &Replies,
    ) -> Result<(), Error> {
        if sequence <= self.told {
            let acknowledged = self.told;
            let known = LaneError::Refused(Rejection::Acknowledged { acknowledged });
            return Err(Error::of_session(known));
        }
        let parts = self.parts.as_ref().expect("the first message has set it");
        let expected = parts.expected();
        if sequence > expected {
            let gap = LaneError::Refused(Rejection::Gap { expected });
            return Err(Error::of_session(gap));
        }
        let is_first = parts.is_new(sequence);
        let bound = self.bound(sequence, is_first).await?;
        let parts = self.parts.as_mut().expect("the first message has set it");
        if let Some(whole) = imported::replay(
            self.moved.as_ref(),
            parts,
            sequence,
            self.service.hasher,
            &increments,
        ) {
            self.tell_whole(whole?, replies).await;
            return Ok(());
        }
        let mut sent: Vec<(RemoteOwner, Vec<(LaneNumber, Part)>)> = Vec::new();
        let numbers = (sequence, acknowledged);
        for (lane, part) in parts.split(sequence, acknowledged, bound.above, &increments) {
            let known = sent.iter().position(|(to, _)| to.is_of(lane));
            let elsewhere = match known {
                Some(_) => None,
                None => self.service.elsewhere(lane),
            };
            let to = known.map(|at| &sent[at].0).or(elsewhere.as_ref());
            let node = to.and_then(RemoteOwner::node);
            if !self.pins.may_use(lane, node) {
                let payload = self.encode(&fields, bound, numbers, vec![(lane, part)]);
                self.held.push_back((lane, sequence, payload));
                continue;
            }
            self.pins.pin(lane, node);
            match (known, elsewhere) {
                (Some(at), _) => sent[at].1.push((lane, part)),
                (None, Some(to)) => sent.push((to, vec![(lane, part)])),
                (None, None) => {
                    let increments = part.take(&mut increments);
                    let follows = Predecessor::InLane(part);
                    let record = self.record_since(bound.time, numbers, follows, increments);
                    self.enqueue(lane, record).await?;
                }
            }
        }
        for (elsewhere, parts) in sent {
            let lanes = parts.iter().map(|(lane, _)| *lane).collect();
            let payload = self.encode(&fields, bound, numbers, parts);
            self.sent
                .push(remote::send(elsewhere, sequence, lanes, payload));
        }
        Ok(())
    }

    fn encode(
        &self,
        fields: &remote::RawIncrements<'_>,
        bound: LowerBound,
        numbers: (u64, u64),
        parts: Vec<(LaneNumber, Part)>,
    ) -> Bytes {
        let (session, _) = self.session.as_ref().expect("the first message has set it");
        fields.encode((session, bound), numbers, parts)
    }

    /// Executes the parts of a call here, as another node would have, but only those of the wanted lanes.
    async fn carry_out(
        &mut self,
        payload: Bytes,
        wanted: impl Fn(LaneNumber) -> bool,
    ) -> Result<(), Error> {
        let parts = self.service.read_parts(payload);
        for (lane, request) in parts.map_err(|error| Error::bug(&error))? {
            if wanted(lane) {
                self.pins.pin(lane, None);
                self.enqueue(lane, request).await?;
            }
        }
        Ok(())
    }

    /// Sends the held parts whose lanes are free by now.
    pub(super) async fn release(&mut self) -> Result<(), Error> {
        for (lane, sequence, payload) in std::mem::take(&mut self.held) {
            let elsewhere = self.service.elsewhere(lane);
            let node = elsewhere.as_ref().and_then(RemoteOwner::node);
            if !self.pins.may_use(lane, node) {
                self.held.push_back((lane, sequence, payload));
                continue;
            }
            match elsewhere {
                Some(elsewhere) => {
                    self.pins.pin(lane, elsewhere.node());
                    self.sent
                        .push(remote::send(elsewhere, sequence, vec![lane], payload));
                }
                None => self.carry_out(payload, |_| true).await?,
            }
        }
        Ok(())
    }

    /// The error of a message that a lane has not accepted.
    pub(super) fn error(&self, error: LaneError) -> Error {
        match self.parts {
            Some(_) => part_error(error, self.told),
            None => Error::of_session(error),
        }
    }

    /// Sends the acknowledgements that follow from another node's answer. Unanswered parts are executed here.
    pub(super) async fn reply_of_parts(
        &mut self,
        answered: remote::RemoteAnswers,
        replies: &Replies,
    ) -> Result<(), Error> {
        let lanes = answered.lanes;
        for lane in &lanes {
            self.pins.unpin(*lane);
        }
        let parts = self.parts.as_mut().expect("the first message has set it");
        let (mut whole, mut left) = (Vec::new(), Vec::new());
        let mut refused = None;
        for (lane, answer) in lanes.into_iter().zip(answered.answers) {
            match answer {
                PartAnswer::Durable(RecordReply {
                    acknowledged,
                    revision,
                    failures,
                }) => whole.extend(parts.on_part_durable(lane, acknowledged, revision, failures)),
                PartAnswer::Again => left.push(lane),
                PartAnswer::Refused(why) => refused = Some(LaneError::Refused(why)),
            }
        }
        self.tell_whole(whole, replies).await;
        if let Some(refused) = refused {
            return Err(self.error(refused));
        }
        if !left.is_empty() {
            self.carry_out(answered.payload, |lane| left.contains(&lane))
                .await?;
        }
        Ok(())
    }

    async fn tell_whole(&mut self, whole: Vec<CompletedMessage>, replies: &Replies) {
        let mut reply = RecordReply::default();
        if Self::add_whole(&mut reply, whole) {
            replies.send(reply).await;
        }
    }
}

/// The error of one of several parts, on a stream whose client has confirmed messages up to `told`. A message that was
/// not confirmed when it arrived, and is by now, reached its lane after later messages: it was resent, and the
/// confirmation did not wait for it. That is no fault of the client.
fn part_error(error: LaneError, told: u64) -> Error {
    match error {
        LaneError::Refused(Rejection::Acknowledged { acknowledged }) if acknowledged <= told => {
            Error::ConfirmedMeanwhile
        }
        error => Error::of_part(error),
    }
}

#[cfg(test)]
mod tests {
    use tonic::{Code, Status};

    use super::*;

    /// A resent message gets a retriable error if its confirmation came on this stream after it. If the message was
    /// confirmed in another way, the error is the client's.
    #[test]
    fn a_message_that_is_acknowledged_meanwhile_is_to_be_sent_again() {
        let error = |acknowledged| {
            let refused = Rejection::Acknowledged { acknowledged };
            Status::from(part_error(LaneError::Refused(refused), 5)).code()
        };
        assert_eq!(error(4), Code::Unavailable);
        assert_eq!(error(5), Code::Unavailable);
        assert_ne!(error(6), Code::Unavailable);
    }
}
