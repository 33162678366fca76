//! Turns etcd's responses into whole revisions, in order, each once.

use crate::proto::etcd::etcdserverpb::WatchResponse;
use crate::proto::etcd::mvccpb::Event;

/// Changes of the watched keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// All changes up to this revision have been delivered, and none after it.
    pub revision: i64,
    /// The changes, in order; those of one revision are never split. Empty if only the revision has moved.
    pub events: Vec<Event>,
}

/// Events have come after later ones were delivered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OutOfOrder;

/// The position of a watch.
#[derive(Debug)]
pub(super) struct Events {
    /// The first revision that has not been delivered.
    next: i64,
    /// Events of a revision that may have more of them.
    held: Vec<Event>,
}

impl Events {
    pub(super) fn new(from: i64) -> Self {
        Self {
            next: from,
            held: Vec::new(),
        }
    }

    /// The revision to resume from. Held events come again.
    pub(super) fn resume(&mut self) -> i64 {
        self.held.clear();
        self.next
    }

    /// Takes in a response, and returns the events that can be delivered. A fragment may end inside a transaction,
    /// whose other events come in the next one.
    pub(super) fn take(&mut self, response: WatchResponse) -> Result<Option<Batch>, OutOfOrder> {
        let fragment = response.fragment;
        let mut last = self.held.last().map_or(self.next, revision);
        if response.events.is_empty() {
            let passed = response.header.map_or(0, |header| header.revision);
            return Ok(self.passed(passed));
        }
        for event in response.events {
            let at = revision(&event);
            if at < last {
                return Err(OutOfOrder);
            }
            last = at;
            self.held.push(event);
        }
        let complete = if fragment {
            self.held.partition_point(|event| revision(event) < last)
        } else {
            self.held.len()
        };
        let rest = self.held.split_off(complete);
        let events = std::mem::replace(&mut self.held, rest);
        Ok(events.last().map(revision).map(|revision| {
            self.next = revision + 1;
            Batch { revision, events }
        }))
    }

    /// Records that nothing has happened up to a revision. A member that lags behind may report an earlier one than was
    /// delivered.
    fn passed(&mut self, revision: i64) -> Option<Batch> {
        if revision < self.next || !self.held.is_empty() {
            return None;
        }
        self.next = revision + 1;
        Some(Batch {
            revision,
            events: Vec::new(),
        })
    }
}

fn revision(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcd::etcdserverpb::ResponseHeader;
    use crate::proto::etcd::mvccpb::KeyValue;

    fn response(fragment: bool, header: i64, revisions: &[i64]) -> WatchResponse {
        let event = |&mod_revision: &i64| Event {
            kv: Some(KeyValue {
                mod_revision,
                ..KeyValue::default()
            }),
            ..Event::default()
        };
        WatchResponse {
            header: Some(ResponseHeader {
                revision: header,
                ..ResponseHeader::default()
            }),
            fragment,
            events: revisions.iter().map(event).collect(),
            ..WatchResponse::default()
        }
    }

    /// The revision of a batch, and those of its events.
    fn told(batch: Option<Batch>) -> Option<(i64, Vec<i64>)> {
        batch.map(|batch| (batch.revision, batch.events.iter().map(revision).collect()))
    }

    /// A transaction that two fragments share is delivered with the second.
    #[test]
    fn fragments_do_not_tear_transactions_apart() {
        let mut events = Events::new(3);
        let mut take = |fragment, revisions: &[i64]| {
            let batch = events.take(response(fragment, 99, revisions));
            told(batch.expect("they are in order"))
        };
        assert_eq!(take(true, &[3, 4, 4]), Some((3, vec![3])));
        assert_eq!(take(true, &[4, 4]), None);
        assert_eq!(take(true, &[4, 6]), Some((4, vec![4, 4, 4, 4, 4])));
        assert_eq!(take(false, &[6, 7]), Some((7, vec![6, 6, 7])));
    }

    /// Half a transaction that was held back when the stream broke is requested again.
    #[test]
    fn resumption_is_after_what_was_told() {
        let mut events = Events::new(3);
        events.take(response(true, 99, &[3, 4])).expect("in order");
        assert_eq!(events.resume(), 4);
        let batch = events.take(response(false, 99, &[4, 4])).expect("in order");
        assert_eq!(told(batch), Some((4, vec![4, 4])));
    }

    /// The header of a response with events has the revision of the store, which promises nothing about the watch.
    /// Without events it does.
    #[test]
    fn progress_moves_the_point_of_resumption() {
        let mut events = Events::new(3);
        events.take(response(false, 99, &[5])).expect("in order");
        assert_eq!(events.resume(), 6);
        let batch = events.take(response(false, 8, &[])).expect("in order");
        assert_eq!(told(batch), Some((8, vec![])));
        assert_eq!(events.resume(), 9);
        let batch = events.take(response(false, 7, &[])).expect("in order");
        assert_eq!(told(batch), None, "from a member that lags behind");
        assert_eq!(events.resume(), 9);
    }

    #[test]
    fn late_events_are_not_passed_over() {
        let mut events = Events::new(3);
        events.take(response(false, 99, &[5])).expect("in order");
        assert_eq!(events.take(response(false, 99, &[4])), Err(OutOfOrder));
        let mut events = Events::new(3);
        assert_eq!(events.take(response(false, 99, &[5, 4])), Err(OutOfOrder));
    }
}
