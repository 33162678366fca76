//! Messages of a session that spans lanes: split into parts, and reassembled.
//!
//! A session has a row in each lane that its messages have had a part in. Each part names the session's previous
//! message with a part in the same lane. So a part that was overtaken by a later one, on another route to its lane, is
//! neither skipped nor applied twice. A message is acknowledged once all of its parts, and all messages before it, are
//! durable.

use std::collections::VecDeque;

use super::reply::RecordFailure;
use crate::model::{Increments, KeyedHasher, Part, SessionId, group};
use crate::store::LaneNumber;

/// A message that was split into parts.
struct Pending {
    sequence: u64,
    /// The lanes whose parts are not known to be durable.
    left: Vec<LaneNumber>,
    revision: i64,
    failures: Vec<RecordFailure>,
}

/// A message whose parts are all durable, as are all messages before it.
pub struct CompletedMessage {
    /// Its number.
    pub sequence: u64,
    /// The highest revision of its parts.
    pub revision: i64,
    /// Its failures, in the order of its increments.
    pub failures: Vec<RecordFailure>,
}

/// A stream's knowledge of its session.
pub struct SessionReassembler {
    hasher: KeyedHasher,
    lanes: u32,
    /// The lane of increments that name no counter, and of messages without increments.
    home: LaneNumber,
    /// All messages up to this one were applied in all lanes when the stream began.
    whole: u64,
    /// The last message that has arrived.
    last: u64,
    /// The messages with a part in each lane, in order. Confirmed messages are removed when the lane gets its next
    /// part.
    sent_to: Vec<VecDeque<u64>>,
    pending: VecDeque<Pending>,
}

impl SessionReassembler {
    /// Starts after the message `acknowledged`: all messages up to it are durable.
    #[must_use]
    pub fn new(hasher: KeyedHasher, lanes: u32, session: &SessionId, acknowledged: u64) -> Self {
        Self {
            hasher,
            lanes,
            home: hasher.lane(session, lanes),
            whole: acknowledged,
            last: acknowledged,
            sent_to: vec![VecDeque::new(); lanes as usize],
            pending: VecDeque::new(),
        }
    }

    /// The number of the next message, unless an earlier one is resent.
    #[must_use]
    pub fn expected(&self) -> u64 {
        self.last + 1
    }

    /// Whether a message has not arrived before on this stream.
    #[must_use]
    pub fn is_new(&self, sequence: u64) -> bool {
        sequence > self.last
    }

    /// Number of messages that are not completed.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Splits a message whose number is not above the expected one. `above` is that of the message's lower bound.
    ///
    /// # Panics
    /// Panics if it has more parts than there can be lanes.
    pub fn split(
        &mut self,
        sequence: u64,
        acknowledged: u64,
        above: u64,
        increments: &Increments,
    ) -> Vec<(LaneNumber, Part)> {
        self.last = self.last.max(sequence);
        let parts = self.by_lane(increments);
        self.pending.push_back(Pending {
            sequence,
            left: parts.iter().map(|(lane, _)| *lane).collect(),
            revision: 0,
            failures: Vec::new(),
        });
        let count = u32::try_from(parts.len()).expect("a message is bounded");
        let part = |(lane, indices): (LaneNumber, Vec<u32>)| {
            let sent = &mut self.sent_to[lane as usize];
            while sent.front().is_some_and(|first| *first <= acknowledged) {
                sent.pop_front();
            }
            let at = sent.partition_point(|earlier| *earlier < sequence);
            let part = Part {
                previous: at.checked_sub(1).map(|before| sent[before]),
                whole: self.whole,
                parts: count,
                above: Some(above),
                indices,
            };
            if sent.get(at) != Some(&sequence) {
                sent.insert(at, sequence);
            }
            (lane, part)
        };
        parts.into_iter().map(part).collect()
    }

    /// The indices of each lane's increments; empty if one lane has all of them.
    fn by_lane(&self, increments: &Increments) -> Vec<(LaneNumber, Vec<u32>)> {
        let lanes = lanes_of(increments, self.hasher, self.lanes, self.home);
        let mut order: Vec<(LaneNumber, u32)> = lanes.zip(0..).collect();
        let first = order.first().map_or(self.home, |(lane, _)| *lane);
        if order.iter().all(|(lane, _)| *lane == first) {
            return vec![(first, Vec::new())];
        }
        // A pair is compared as one number, without a branch.
        order.sort_unstable_by_key(|&(lane, index)| u64::from(lane) << 32 | u64::from(index));
        let parts = order.chunk_by(|(lane, _), (next, _)| lane == next);
        parts
            .map(|part| (part[0].0, part.iter().map(|(_, index)| *index).collect()))
            .collect()
    }

    /// Records that a lane's part of a message is durable. Returns the messages that this completes, in order.
    pub fn on_part_durable(
        &mut self,
        lane: LaneNumber,
        sequence: u64,
        revision: i64,
        failures: Vec<RecordFailure>,
    ) -> Vec<CompletedMessage> {
        // Each lane answers a message twice if it was resent on this stream, and the lanes answer in any order.
        let of_it = self.pending.iter_mut();
        let mut of_it = of_it.filter(|pending| pending.sequence == sequence);
        let left = of_it.find_map(|pending| {
            let at = pending.left.iter().position(|left| *left == lane)?;
            Some((pending, at))
        });
        if let Some((pending, at)) = left {
            pending.left.swap_remove(at);
            pending.revision = pending.revision.max(revision);
            pending.failures.extend(failures);
        }
        self.whole()
    }

    /// Records a message that is durable, and of which no lane has a part. Returns the messages that this completes, in
    /// order.
    pub fn known(
        &mut self,
        sequence: u64,
        revision: i64,
        failures: Vec<RecordFailure>,
    ) -> Vec<CompletedMessage> {
        self.pending.push_back(Pending {
            sequence,
            left: Vec::new(),
            revision,
            failures,
        });
        self.whole()
    }

    fn whole(&mut self) -> Vec<CompletedMessage> {
        let mut whole = Vec::new();
        while let Some(mut pending) = self.pending.pop_front() {
            if !pending.left.is_empty() {
                self.pending.push_front(pending);
                break;
            }
            pending
                .failures
                .sort_unstable_by_key(RecordFailure::position);
            whole.push(CompletedMessage {
                sequence: pending.sequence,
                revision: pending.revision,
                failures: pending.failures,
            });
        }
        whole
    }
}

/// The lane of each increment, in order; `home` for an increment that names no counter. Increments of a group mostly
/// follow each other, and the group of such a run is hashed once.
pub(super) fn lanes_of(
    increments: &Increments,
    hasher: KeyedHasher,
    lanes: u32,
    home: LaneNumber,
) -> impl Iterator<Item = LaneNumber> {
    let mut last = None;
    increments.iter().map(move |increment| {
        let Ok(increment) = increment else {
            return home;
        };
        let group = group(increment.name);
        match last {
            Some((of, lane)) if of == group => lane,
            _ => {
                let lane = hasher.lane(group, lanes);
                last = Some((group, lane));
                lane
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Invalid, Limits};

    /// A resent message has the same predecessor as at first, whatever was sent since: the predecessor may not have
    /// been applied.
    #[test]
    fn what_a_part_follows_stays_the_same() {
        let hasher = KeyedHasher::new([7; 16]);
        let mut parts = SessionReassembler::new(hasher, 256, &"meter-7".into(), 7);
        let mut previous = |sequence, acknowledged| {
            let mut increments = Increments::default();
            increments.push("a/1", 1, Limits::default());
            let mut parts = parts.split(sequence, acknowledged, 0, &increments);
            parts.remove(0).1.previous
        };
        assert_eq!((previous(8, 7), previous(9, 7)), (None, Some(8)));
        assert_eq!((previous(9, 7), previous(8, 7)), (Some(8), None));
        assert_eq!((previous(10, 8), previous(10, 9)), (Some(9), None));
    }

    /// A part that is the whole message names none of its increments.
    #[test]
    fn increments_are_named_where_they_are_some_of_them() {
        let hasher = KeyedHasher::new([7; 16]);
        let mut parts = SessionReassembler::new(hasher, 256, &"meter-7".into(), 0);
        let mut named = |names: &[&str]| {
            let mut increments = Increments::default();
            for name in names {
                increments.push(name, 1, Limits::default());
            }
            let parts = parts.split(1, 0, 0, &increments);
            let mut named: Vec<_> = parts.into_iter().map(|(_, part)| part.indices).collect();
            named.sort();
            named
        };
        assert_eq!(named(&["a/1", "a/2"]), [vec![0_u32; 0]]);
        assert_eq!(named(&["a/1", "b/1", "a/2"]), [vec![0, 2], vec![1]]);
    }

    /// The expected message is the one after the last, even if an earlier one is resent.
    #[test]
    fn the_next_message_is_the_one_after_the_last() {
        let hasher = KeyedHasher::new([7; 16]);
        let mut parts = SessionReassembler::new(hasher, 256, &"meter-7".into(), 6);
        assert_eq!(parts.expected(), 7);
        for (sequence, is_new, expected) in [
            (7, true, 8),
            (8, true, 9),
            (7, false, 9),
            (8, false, 9),
            (9, true, 10),
        ] {
            assert_eq!(parts.is_new(sequence), is_new, "{sequence}");
            parts.split(sequence, 6, 0, &Increments::default());
            assert_eq!(parts.expected(), expected);
        }
    }

    /// Two answers of one lane to a resent message do not count for another lane.
    #[test]
    fn a_message_is_whole_when_every_lane_has_answered() {
        let hasher = KeyedHasher::new([7; 16]);
        let mut parts = SessionReassembler::new(hasher, 256, &"meter-7".into(), 0);
        let mut split = || {
            let mut increments = Increments::default();
            increments.push("a/1", 1, Limits::default());
            increments.push("b/1", 1, Limits::default());
            let parts = parts.split(1, 0, 0, &increments);
            parts.into_iter().map(|(lane, _)| lane).collect::<Vec<_>>()
        };
        let lanes = split();
        assert_eq!((split().len(), lanes.len()), (2, 2));
        assert_eq!(parts.pending(), 2);
        let mut on_part_durable = |lane| parts.on_part_durable(lane, 1, 5, Vec::new()).len();
        assert_eq!(
            (on_part_durable(lanes[0]), on_part_durable(lanes[0])),
            (0, 0)
        );
        assert_eq!(
            (on_part_durable(lanes[1]), on_part_durable(lanes[1])),
            (1, 1)
        );
        assert_eq!(parts.pending(), 0);
    }

    /// An increment goes to the lane of its own group, whatever increment precedes it.
    #[test]
    fn lanes_are_those_of_groups() {
        let hasher = KeyedHasher::new([7; 16]);
        let names = ["a/1", "a/2", "b", "a", "", "b/1", "ab/1", "a/1"];
        let mut increments = Increments::default();
        for name in names {
            match name {
                "" => increments.push_invalid(1, Invalid::NotUtf8),
                name => increments.push(name, 1, Limits::default()),
            }
        }
        let lanes: Vec<_> = lanes_of(&increments, hasher, 256, 1000).collect();
        let expected = names.map(|name| match name {
            "" => 1000,
            name => hasher.lane(group(name), 256),
        });
        assert_eq!(lanes, expected);
    }
}
