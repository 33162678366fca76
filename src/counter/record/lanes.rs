//! A stream whose session has parts in several lanes, some of which other nodes commit best.

use std::time::Duration;

use bytes::Bytes;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::super::error::{Kind, lane_error, read_error};
use super::super::peers::Elsewhere;
use super::moved::{self, Moved};
use super::parts::{Parts, Whole};
use super::{Stream, add, decode_part, part, reply};
use crate::grpc::Replies;
use crate::lane::LaneError;
use crate::model::{Follows, Increments, Refused, Session};
use crate::status;
use crate::store::LaneNumber;

impl Stream {
    /// Tells what is acknowledged so far, in all lanes.
    pub(super) async fn resume(
        &mut self,
        acknowledged: u64,
        replies: &Replies,
    ) -> Result<(), Status> {
        let (session, time) = self.session.clone().expect("the first message has set it");
        let found = self.service.store.session(session.clone()).await;
        let found = found.map_err(|error| read_error(&error))?;
        let (applied, failures) = Session::merge(&found.lanes);
        self.moved = Moved::of(&found);
        if let Some(moved) = &self.moved {
            // No lane has applied anything of it before that.
            self.session = Some((session.clone(), time.max(moved.at())));
        }
        if acknowledged > applied {
            self.refuse_lost(&found, acknowledged, applied).await?;
        }
        self.take_age(&found.lanes, applied);
        let acknowledged = acknowledged.max(applied);
        if self.parts.is_none() {
            let lanes = self.service.store.lanes();
            self.parts = Some(Parts::new(
                self.service.digests,
                lanes,
                &session,
                acknowledged,
            ));
        }
        let mut reply = reply();
        let revision = if acknowledged > 0 { found.revision } else { 0 };
        add(
            &mut reply,
            acknowledged,
            revision,
            part::failures(&failures),
        );
        replies.send(&reply).await;
        Ok(())
    }

    /// Hands each lane its part of a message.
    pub(super) async fn split(
        &mut self,
        sequence: u64,
        acknowledged: u64,
        increments: Increments,
        fields: part::Fields<'_>,
        replies: &Replies,
    ) -> Result<(), Status> {
        if sequence <= self.told {
            let acknowledged = self.told;
            let known = LaneError::Refused(Refused::Acknowledged { acknowledged });
            return Err(lane_error(known, Kind::Session));
        }
        let parts = self.parts.as_mut().expect("the first message has set it");
        let expected = parts.expected();
        if sequence > expected {
            let gap = LaneError::Refused(Refused::Gap { expected });
            return Err(lane_error(gap, Kind::Session));
        }
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
        for (lane, part, increments) in parts.split(sequence, acknowledged, increments) {
            let elsewhere = self.service.elsewhere(lane);
            if elsewhere.is_none() && self.places.are_free(lane, None) {
                let record = self.record(sequence, acknowledged, Follows::InLane(part), increments);
                self.places.take(lane, None);
                self.enqueue(lane, record).await?;
                continue;
            }
            let (session, time) = self.session.as_ref().expect("the first message has set it");
            let payload = fields.encode((session, *time), (sequence, acknowledged), lane, &part);
            self.hand_out(lane, elsewhere, payload).await?;
        }
        Ok(())
    }

    /// Has a part carried out where its lane is committed best, once it cannot overtake those before it.
    async fn hand_out(
        &mut self,
        lane: LaneNumber,
        elsewhere: Option<Elsewhere>,
        payload: Bytes,
    ) -> Result<(), Status> {
        let node = elsewhere.as_ref().and_then(Elsewhere::node);
        if !self.places.are_free(lane, node) {
            self.held.push_back((lane, payload));
            return Ok(());
        }
        if let Some(elsewhere) = elsewhere {
            self.places.take(lane, elsewhere.node());
            self.sent.push(part::send(elsewhere, lane, payload));
            return Ok(());
        }
        self.carry_out(lane, payload).await
    }

    /// The same, here.
    async fn carry_out(&mut self, lane: LaneNumber, payload: Bytes) -> Result<(), Status> {
        let (_, request) = decode_part(payload, self.service.digests)?;
        self.places.take(lane, None);
        self.enqueue(lane, request).await
    }

    /// Hands out what was held back, as far as that is possible by now.
    pub(super) async fn release(&mut self) -> Result<(), Status> {
        for (lane, payload) in std::mem::take(&mut self.held) {
            let elsewhere = self.service.elsewhere(lane);
            self.hand_out(lane, elsewhere, payload).await?;
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

    /// Sends what comes of the answer of another node. Where that has none, the part is carried out here.
    pub(super) async fn reply_of_part(
        &mut self,
        (lane, payload, answer): part::Answered,
        replies: &Replies,
    ) -> Result<(), Status> {
        self.places.leave(lane);
        let Some(answer) = answer else {
            return self.carry_out(lane, payload).await;
        };
        let answer = answer.map_err(|status| self.refused(status))?;
        let Some(parts) = &mut self.parts else {
            return Ok(());
        };
        let whole = parts.durable(lane, answer.acknowledged, answer.revision, answer.failures);
        self.tell_whole(whole, replies).await;
        Ok(())
    }

    async fn tell_whole(&mut self, whole: Vec<Whole>, replies: &Replies) {
        let mut reply = reply();
        if self.add_whole(&mut reply, whole) {
            replies.send(&reply).await;
        }
    }
}
