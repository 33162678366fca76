//! From what etcd sends to what has happened: whole revisions, in order, each once.

use crate::proto::etcd::etcdserverpb::WatchResponse;
use crate::proto::etcd::mvccpb::Event;

/// What has happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Everything that was watched has been told up to this revision, and nothing after it.
    pub revision: i64,
    /// The changes, in their order; those of one revision are never torn apart. None, where only time has passed.
    pub events: Vec<Event>,
}

/// Events have come after later ones were told.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OutOfOrder;

/// Where a watch stands.
#[derive(Debug)]
pub(super) struct Events {
    /// The first revision that has not been told.
    next: i64,
    /// Those of a revision of which more may come.
    held: Vec<Event>,
}

impl Events {
    pub(super) fn new(from: i64) -> Self {
        Self {
            next: from,
            held: Vec::new(),
        }
    }

    /// Where to go on from. What was held back comes again.
    pub(super) fn resume(&mut self) -> i64 {
        self.held.clear();
        self.next
    }

    /// Takes what etcd has sent, and gives what can be told. A fragment may end inside a transaction, whose other
    /// events then come in the next one.
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

    /// Nothing has happened up to a revision. A member that lags behind may say so of one that was told before.
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

    /// What `take` has given: up to where, and of which revisions.
    fn told(batch: Option<Batch>) -> Option<(i64, Vec<i64>)> {
        batch.map(|batch| (batch.revision, batch.events.iter().map(revision).collect()))
    }

    /// A transaction that two fragments share is told with the second.
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

    /// Half a transaction that was held back when the stream broke is asked for again.
    #[test]
    fn resumption_is_after_what_was_told() {
        let mut events = Events::new(3);
        events.take(response(true, 99, &[3, 4])).expect("in order");
        assert_eq!(events.resume(), 4);
        let batch = events.take(response(false, 99, &[4, 4])).expect("in order");
        assert_eq!(told(batch), Some((4, vec![4, 4])));
    }

    /// The header of events is how far the store is, which is no promise about the watch; only with no events it is
    /// one.
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
