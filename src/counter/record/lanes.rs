//! A stream whose session has parts in several lanes, some of which other nodes commit best.

use std::time::Duration;

use bytes::Bytes;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::super::error::{Kind, lane_error, read_error};
use super::super::peers::Elsewhere;
use super::moved::{self, Moved};
use super::parts::{Parts, Whole};
use super::{Stream, add, decode_parts, part, reply};
use crate::grpc::Replies;
use crate::lane::LaneError;
use crate::model::{Follows, Increments, LowerBound, Part, Refused, Resumed};
use crate::proto::sum::v1::RecordIncrementsResponse;
use crate::status;
use crate::store::{LaneNumber, SessionRows};

impl Stream {
    /// Tells what is acknowledged so far, in all lanes.
    pub(super) async fn resume(
        &mut self,
        acknowledged: u64,
        replies: &Replies,
    ) -> Result<(), Status> {
        let (found, resumed) = self.look().await?;
        let applied = resumed.applied;
        self.moved = Moved::of(&found);
        if acknowledged > applied {
            self.refuse_lost(&found, acknowledged, applied).await?;
        }
        let acknowledged = acknowledged.max(applied);
        if self.parts.is_none() {
            let lanes = self.service.store.lanes();
            let (session, _) = self.session.as_ref().expect("the first message has set it");
            self.parts = Some(Parts::new(
                self.service.digests,
                lanes,
                session,
                acknowledged,
            ));
        }
        let mut reply = reply();
        let revision = if acknowledged > 0 { found.revision } else { 0 };
        add(
            &mut reply,
            acknowledged,
            revision,
            part::failures(&resumed.failures),
        );
        self.resumed = Some(resumed);
        replies.send(&reply).await;
        Ok(())
    }

    /// Reads what lanes have of the session.
    async fn look(&mut self) -> Result<(SessionRows, Resumed), Status> {
        let (session, begun) = self.session.clone().expect("the first message has set it");
        // Before anything is read: nothing that is not found was applied before this.
        let now = self.service.lanes.now();
        let found = self.service.store.session(session).await;
        let found = found.map_err(|error| read_error(&error))?;
        let resumed = Resumed::new(&found.lanes, begun, now, found.horizon);
        let resumed =
            resumed.map_err(|refused| lane_error(LaneError::Refused(refused), Kind::Session))?;
        Ok((found, resumed))
    }

    /// The lower bound that a message goes with.
    async fn bound(&mut self, sequence: u64, is_first: bool) -> Result<LowerBound, Status> {
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

    /// Hands each lane its part of a message.
    pub(super) async fn split(
        &mut self,
        sequence: u64,
        acknowledged: u64,
        mut increments: Increments,
        fields: part::Fields<'_>,
        replies: &Replies,
    ) -> Result<(), Status> {
        if sequence <= self.told {
            let acknowledged = self.told;
            let known = LaneError::Refused(Refused::Acknowledged { acknowledged });
            return Err(lane_error(known, Kind::Session));
        }
        let parts = self.parts.as_ref().expect("the first message has set it");
        let expected = parts.expected();
        if sequence > expected {
            let gap = LaneError::Refused(Refused::Gap { expected });
            return Err(lane_error(gap, Kind::Session));
        }
        let bound = self.bound(sequence, sequence == expected).await?;
        let parts = self.parts.as_mut().expect("the first message has set it");
        if let Some(whole) = moved::replay(
            self.moved.as_ref(),
            parts,
            sequence,
            self.service.digests,
            &increments,
        ) {
            self.tell_whole(whole?, replies).await;
            return Ok(());
        }
        let mut sent: Vec<(Elsewhere, Vec<(LaneNumber, Part)>)> = Vec::new();
        let numbers = (sequence, acknowledged);
        for (lane, part) in parts.split(sequence, acknowledged, bound.above, &increments) {
            let known = sent.iter().position(|(to, _)| to.is_of(lane));
            let elsewhere = match known {
                Some(_) => None,
                None => self.service.elsewhere(lane),
            };
            let to = known.map(|at| &sent[at].0).or(elsewhere.as_ref());
            let node = to.and_then(Elsewhere::node);
            if !self.places.are_free(lane, node) {
                let payload = self.encode(&fields, bound, numbers, vec![(lane, part)]);
                self.held.push_back((lane, payload));
                continue;
            }
            self.places.take(lane, node);
            match (known, elsewhere) {
                (Some(at), _) => sent[at].1.push((lane, part)),
                (None, Some(to)) => sent.push((to, vec![(lane, part)])),
                (None, None) => {
                    let increments = part.take(&mut increments);
                    let follows = Follows::InLane(part);
                    let record = self.record_since(bound.time, numbers, follows, increments);
                    self.enqueue(lane, record).await?;
                }
            }
        }
        for (elsewhere, parts) in sent {
            let lanes = parts.iter().map(|(lane, _)| *lane).collect();
            let payload = self.encode(&fields, bound, numbers, parts);
            self.sent.push(part::send(elsewhere, lanes, payload));
        }
        Ok(())
    }

    fn encode(
        &self,
        fields: &part::Fields<'_>,
        bound: LowerBound,
        numbers: (u64, u64),
        parts: Vec<(LaneNumber, Part)>,
    ) -> Bytes {
        let (session, _) = self.session.as_ref().expect("the first message has set it");
        fields.encode((session, bound), numbers, parts)
    }

    /// Carries out parts here, as another node would have: those of the lanes that are wanted.
    async fn carry_out(
        &mut self,
        payload: Bytes,
        wanted: impl Fn(LaneNumber) -> bool,
    ) -> Result<(), Status> {
        for (lane, request) in
            decode_parts(payload, self.service.digests, self.service.store.lanes())?
        {
            if wanted(lane) {
                self.places.take(lane, None);
                self.enqueue(lane, request).await?;
            }
        }
        Ok(())
    }

    /// Hands out what was held back, as far as that is possible by now.
    pub(super) async fn release(&mut self) -> Result<(), Status> {
        for (lane, payload) in std::mem::take(&mut self.held) {
            let elsewhere = self.service.elsewhere(lane);
            let node = elsewhere.as_ref().and_then(Elsewhere::node);
            if !self.places.are_free(lane, node) {
                self.held.push_back((lane, payload));
                continue;
            }
            match elsewhere {
                Some(elsewhere) => {
                    self.places.take(lane, elsewhere.node());
                    self.sent.push(part::send(elsewhere, vec![lane], payload));
                }
                None => self.carry_out(payload, |_| true).await?,
            }
        }
        Ok(())
    }

    /// Why a message was refused. One that was not known to be acknowledged when it came, and is by now, came to its lane behind
    /// later ones: it was sent again, and what this stream was told first did not wait for it. That is no fault of the client's.
    pub(super) fn refused(&self, status: Status) -> Status {
        let info = status.get_details_error_info();
        let known = info.filter(|info| info.reason == "SEQUENCE_ACKNOWLEDGED");
        let known = known.and_then(|info| info.metadata.get("acknowledged")?.parse::<u64>().ok());
        if self.parts.is_none() || known.is_none_or(|known| known > self.told) {
            return status;
        }
        status::retriable(
            Code::Unavailable,
            "a message that was sent again was acknowledged meanwhile",
            "MESSAGE_OVERTAKEN",
            &[status::unknown()],
            Duration::from_millis(1),
        )
    }

    /// Sends what comes of the answer of another node. Where that has none, the parts are carried out here.
    pub(super) async fn reply_of_parts(
        &mut self,
        answered: part::Answered,
        replies: &Replies,
    ) -> Result<(), Status> {
        let lanes = answered.lanes;
        for lane in &lanes {
            self.places.leave(*lane);
        }
        let Some(answers) = answered.answers else {
            return self.carry_out(answered.payload, |_| true).await;
        };
        let parts = self.parts.as_mut().expect("the first message has set it");
        let (mut whole, mut left) = (Vec::new(), Vec::new());
        let mut refused = Ok(());
        for (lane, answer) in lanes.into_iter().zip(answers?) {
            match answer {
                Ok(answer) => {
                    let RecordIncrementsResponse {
                        acknowledged,
                        revision,
                        failures,
                        ..
                    } = answer;
                    whole.extend(parts.durable(lane, acknowledged, revision, failures));
                }
                // Here it waits until there is room.
                Err(status) if status.code() == Code::Unavailable => left.push(lane),
                Err(status) => refused = Err(status),
            }
        }
        self.tell_whole(whole, replies).await;
        refused.map_err(|status| self.refused(status))?;
        if !left.is_empty() {
            self.carry_out(answered.payload, |lane| left.contains(&lane))
                .await?;
        }
        Ok(())
    }

    async fn tell_whole(&mut self, whole: Vec<Whole>, replies: &Replies) {
        let mut reply = reply();
        if Self::add_whole(&mut reply, whole) {
            replies.send(&reply).await;
        }
    }
}
