//! Verifies the logs of all lanes, which must have no gaps, and collects their contents.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::maintenance::etcd::verify::{lane_of, note};
use crate::maintenance::report::Answers;
use crate::model::{Corrupt, MAX_SKEW, Millis, PackEntry, check_name};
use crate::proto::etcd::mvccpb::KeyValue;
use crate::proto::sumd::store::v1::{Batch, Head, Pack};
use crate::store::LaneNumber;
use crate::store::Remembered;
use crate::store::etcd::rows::{self, Layout};
use crate::store::etcd::sessions::Told;

/// Changes in the logs that are newer than the rows.
#[derive(Default)]
pub(in crate::maintenance) struct Overlay {
    /// Counters, with the latest value and its revision.
    pub(in crate::maintenance) counters: BTreeMap<Arc<str>, (Option<i64>, i64)>,
    /// Sessions, by id and lane.
    pub(in crate::maintenance) sessions: BTreeMap<(String, LaneNumber), Told>,
}

/// The contents of all logs.
#[derive(Default)]
pub(in crate::maintenance) struct Found {
    pub(in crate::maintenance) overlay: Overlay,
    pub(in crate::maintenance) packs: Vec<Remembered>,
    pub(in crate::maintenance) answers: Answers,
    pub(in crate::maintenance) ids: u64,
    pub(in crate::maintenance) forgotten: i64,
    pub(in crate::maintenance) time: Millis,
    pub(in crate::maintenance) horizon: Millis,
    pub(in crate::maintenance) session_horizon: Millis,
}

/// The log of a lane, as far as it has been read.
struct Log {
    head: Head,
    row_revision: i64,
    /// The first batch in the log.
    first: Option<u64>,
    /// The last batch so far, then its revision and time.
    seq: u64,
    revision: i64,
    time: Millis,
    ids: HashSet<[u8; 16]>,
}

/// All logs. The heads are read first, then the packs in the order of their keys.
pub(in crate::maintenance) struct Lanes<'a> {
    layout: &'a Layout,
    logs: BTreeMap<LaneNumber, Log>,
    found: Found,
}

impl<'a> Lanes<'a> {
    pub(in crate::maintenance) fn new(layout: &'a Layout) -> Self {
        Self {
            layout,
            logs: BTreeMap::new(),
            found: Found::default(),
        }
    }

    pub(in crate::maintenance) fn head(&mut self, row: &KeyValue, problems: &mut Vec<String>) {
        let lane = self.layout.lane_of_head(&row.key);
        let lane = lane.ok_or(Corrupt("its key is not that of a lane"));
        let read = lane.and_then(|lane| Ok((lane, self.layout.open::<Head>(row)?)));
        let Some((lane, head)) = note(&row.key, read, problems) else {
            return;
        };
        let fits = head.folded <= head.seq
            && head.forget_before <= head.seq + 1
            && head.horizon <= head.time.saturating_add(MAX_SKEW)
            && head.log_from <= head.open_from
            && head.open_from <= head.seq + 1
            && head.forgotten <= self.layout.end(row.mod_revision);
        if !fits {
            problems.push(format!("lane {lane:04x}: its head contradicts itself"));
        }
        let found = &mut self.found;
        found.forgotten = found.forgotten.max(head.forgotten);
        found.time = found.time.max(head.time);
        found.horizon = found.horizon.max(head.horizon);
        found.session_horizon = found.session_horizon.max(head.session_horizon);
        let log = Log {
            head,
            row_revision: row.mod_revision,
            first: None,
            seq: 0,
            revision: i64::MIN,
            time: Millis::MIN,
            ids: HashSet::new(),
        };
        self.logs.insert(lane, log);
    }

    pub(in crate::maintenance) fn pack(&mut self, row: &KeyValue, problems: &mut Vec<String>) {
        let all = self.layout.all_packs();
        let place = self.layout.lane_of(&row.key, &all);
        let place = place.and_then(|(lane, seq)| Some((lane, u64::from_str_radix(seq, 16).ok()?)));
        let place = place.ok_or(Corrupt("its key is not that of a pack"));
        let read = place.and_then(|place| Ok((place, self.layout.open::<Pack>(row)?)));
        let Some(((lane, first), pack)) = note(&row.key, read, problems) else {
            return;
        };
        let Some(log) = self.logs.get_mut(&lane) else {
            problems.push(format!("lane {lane:04x}: there is a pack, but no head"));
            return;
        };
        if pack.batches.first().map(|batch| batch.seq) != Some(first) {
            problems.push(format!(
                "lane {lane:04x}: pack {first} begins with another batch"
            ));
        }
        for batch in &pack.batches {
            if batch.seq >= log.head.open_from {
                let seq = batch.seq;
                problems.push(format!(
                    "lane {lane:04x}: batch {seq} is in a pack, but the head says that it is in none"
                ));
            }
            let taken = take(
                self.layout,
                lane,
                log,
                &mut self.found,
                batch,
                row.mod_revision,
            );
            note(&row.key, taken, problems);
        }
    }

    pub(in crate::maintenance) fn end(mut self, problems: &mut Vec<String>) -> Found {
        for (lane, mut log) in self.logs {
            let batches = std::mem::take(&mut log.head.batches);
            for batch in &batches {
                let revision = log.row_revision;
                let taken = take(
                    self.layout,
                    lane,
                    &mut log,
                    &mut self.found,
                    batch,
                    revision,
                );
                note(&self.layout.head(lane), taken, problems);
            }
            let needed = log.head.forget_before.min(log.head.folded + 1).max(1);
            let begins = log.first.is_some_and(|first| first <= needed);
            if log.seq != log.head.seq || !begins {
                problems.push(format!(
                    "lane {lane:04x}: its log is from batch {} to {}; expected {needed} to {}",
                    log.first.unwrap_or(0),
                    log.seq,
                    log.head.seq
                ));
            }
            self.found.ids += log.ids.len() as u64;
        }
        self.found
    }
}

/// Adds the next batch of a log.
fn take(
    layout: &Layout,
    lane: LaneNumber,
    log: &mut Log,
    found: &mut Found,
    batch: &Batch,
    row_revision: i64,
) -> Result<(), Corrupt> {
    let base = layout.base_of(batch, row_revision);
    let follows = log.first.is_none() || batch.seq == log.seq + 1;
    let is_later = base >= log.revision && batch.time >= log.time;
    log.first.get_or_insert(batch.seq);
    log.seq = batch.seq;
    log.revision = base + i64::from(batch.places);
    log.time = batch.time;
    if !follows {
        return Err(Corrupt("a batch is missing before those of this row"));
    }
    if !is_later || batch.etcd_revision > row_revision {
        return Err(Corrupt(
            "a batch has a revision or time that cannot follow the one before it",
        ));
    }
    for change in rows::changes(batch)? {
        if check_name(&change.name).is_err() || lane_of(layout, &change.name) != lane {
            return Err(Corrupt(
                "a batch has changed a counter of another lane, or one with an invalid name",
            ));
        }
        if change.place > batch.places {
            return Err(Corrupt(
                "a change has a position after the end of its batch",
            ));
        }
        if batch.seq > log.head.folded {
            let revision = base + i64::from(change.place);
            let latest = (change.value, revision);
            found.overlay.counters.insert(change.name, latest);
        }
    }
    if batch.seq > log.head.folded {
        for change in &batch.sessions {
            let told = found.overlay.sessions.entry((change.id.clone(), lane));
            told.or_default().take(change);
        }
    }
    if batch.seq < log.head.forget_before || batch.ids.is_empty() {
        return Ok(());
    }
    for entry in PackEntry::read_all(&batch.ids)? {
        if entry.place > batch.places || !log.ids.insert(entry.digest) {
            return Err(Corrupt("a batch has a duplicate or misplaced id"));
        }
        found
            .answers
            .insert(base + i64::from(entry.place), entry.done);
    }
    found.packs.push(Remembered {
        time: batch.time,
        newest: rows::stamp(batch.time, &batch.extras)?.newest,
        base,
        places: batch.places,
        ids: Arc::from(&*batch.ids),
    });
    Ok(())
}

#[cfg(test)]
mod tests;
