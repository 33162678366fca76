//! Keeps etcd small: compacts its history after a while, and makes room if it is full.
//!
//! Every node does so, since none is special. Doing it more than once costs nothing.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use super::hold::Holds;
use super::kv;
use super::rows::Layout;
use crate::etcd::{Alarm, AlarmKind, Client, Error, Outcome, Refusal, get, prefix};

/// How long history is kept: a reader or a watcher that was away for less can resume.
const KEPT: Duration = Duration::from_mins(1);
/// How often each node compacts.
const INTERVAL: Duration = Duration::from_secs(10);
/// Timeouts of one call and, below, of one defragmentation, which takes a member some seconds.
const CALL: Duration = Duration::from_secs(5);
const DEFRAGMENT: Duration = Duration::from_mins(1);
/// The time between two attempts to make room: if etcd is full again sooner, there is no room to be made.
const ROOM_INTERVAL: Duration = Duration::from_mins(5);

/// Revisions of etcd, each with the time when it was the newest.
#[derive(Default)]
struct History(VecDeque<(Instant, i64)>);

impl History {
    fn note(&mut self, now: Instant, revision: i64) {
        self.0.push_back((now, revision));
    }

    /// The newest revision that is old enough to be compacted.
    fn old(&mut self, now: Instant) -> Option<i64> {
        let mut old = None;
        while let Some((then, revision)) = self.0.front()
            && now.duration_since(*then) >= KEPT
        {
            old = Some(*revision);
            self.0.pop_front();
        }
        old
    }
}

/// The time when room was last made.
#[derive(Default)]
struct MadeRoom(Option<Instant>);

impl MadeRoom {
    /// Whether this node has to make room now. If it did so recently, that would not help.
    fn is_due(&mut self, now: Instant, is_full: bool) -> bool {
        let is_new = (self.0).is_none_or(|then| now.duration_since(then) >= ROOM_INTERVAL);
        let is_due = is_full && is_new;
        if is_due {
            self.0 = Some(now);
        }
        is_due
    }
}

/// The deadline of a call from now on.
fn in_time() -> Instant {
    Instant::now() + CALL
}

/// Runs until it is dropped.
pub(super) async fn keep(client: Client, layout: Layout) {
    let mut history = History::default();
    let mut holds = Holds::default();
    let mut may_compact = true;
    let mut made_room = MadeRoom::default();
    loop {
        // The jitter keeps nodes from doing so all at once.
        sleep(INTERVAL.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
        let ranges = vec![get(layout.meta()), prefix(layout.holds(), 0)];
        let Ok(found) = kv::read(&client, ranges).await else {
            continue;
        };
        let now = Instant::now();
        history.note(now, found.revision);
        let held = found.ranges.get(1).into_iter();
        let held = held.flat_map(|range| range.kvs.iter().map(|row| row.mod_revision));
        let held = holds.first(now, &held.collect::<Vec<_>>());
        let old = history.old(now);
        let old = old.map(|old| forgettable(old, held));
        if let Some(old) = old.filter(|_| may_compact)
            && let Err(error) = client.compact(old, in_time()).await
            && is_denied(&error)
        {
            may_compact = false;
            warn!(
                "this user may not compact etcd, which needs the role root: let etcd compact itself \
                 (--auto-compaction-mode periodic --auto-compaction-retention 5m), or else its history grows without \
                 bound"
            );
        }
        let alarms = client.alarms(in_time()).await;
        let alarms = alarms.unwrap_or_default();
        let full = |alarm: &&Alarm| alarm.kind == AlarmKind::NoSpace;
        let full: Vec<_> = alarms.iter().filter(full).copied().collect();
        if made_room.is_due(Instant::now(), !full.is_empty()) {
            error!("etcd is full and accepts no more increments (NOSPACE): making room");
            match make_room(&client, found.revision, &full).await {
                Ok(()) => info!("etcd has room again"),
                Err(error) => error!(
                    "cannot make room: {error}. Raise etcd's --quota-backend-bytes, compact and defragment it, and \
                     disarm the alarm"
                ),
            }
        }
    }
}

/// The last revision to compact: old enough, and before every held revision.
fn forgettable(old: i64, held: Option<i64>) -> i64 {
    held.map_or(old, |held| old.min(held - 1))
}

/// Whether the user lacks the permission, which does not pass.
fn is_denied(error: &Error) -> bool {
    error.outcome == Outcome::Definite(Refusal::Denied)
}

/// Compacts all history and returns free space to the disks, one member after the other.
async fn make_room(client: &Client, revision: i64, full: &[Alarm]) -> Result<(), Error> {
    client.compact(revision, in_time()).await?;
    let mut problem = None;
    let mut is_made = false;
    for (host, member) in client.members(in_time()).await {
        let deadline = Instant::now() + DEFRAGMENT;
        let defragmented = match member {
            Ok(_) => client.defragment(&host, deadline).await,
            Err(error) => Err(error),
        };
        match defragmented {
            Ok(()) => is_made = true,
            // The other members have room all the same, and a member that is still full reports it again.
            Err(error) => {
                warn!("cannot make room on {host}: {error}");
                problem = Some(error);
            }
        }
    }
    if let Some(error) = problem.filter(|_| !is_made) {
        return Err(error);
    }
    for alarm in full {
        client.disarm(*alarm, in_time()).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::Doubt;

    /// A revision that was the newest a while ago is compacted, and nothing that is newer.
    #[test]
    fn history_is_forgotten_once_it_is_old() {
        let mut history = History::default();
        let start = Instant::now();
        let second = Duration::from_secs(1);
        for i in 0..100u8 {
            history.note(start + second * u32::from(i), i64::from(i));
        }
        assert_eq!(history.old(start + KEPT - second), None);
        assert_eq!(history.old(start + KEPT), Some(0));
        assert_eq!(history.old(start + KEPT), None);
        assert_eq!(history.old(start + KEPT + 10 * second), Some(10));
    }

    /// Making room costs all history: it is done only if etcd is full, and not again soon.
    #[test]
    fn room_is_made_where_there_is_none() {
        let mut made = MadeRoom::default();
        let start = Instant::now();
        let second = Duration::from_secs(1);
        assert!(!made.is_due(start, false));
        assert!(made.is_due(start, true));
        assert!(!made.is_due(start + ROOM_INTERVAL - second, true));
        assert!(!made.is_due(start + ROOM_INTERVAL, false));
        assert!(made.is_due(start + ROOM_INTERVAL, true));
    }

    /// A reader finds everything that was there at the revision that it holds.
    #[test]
    fn what_is_held_is_not_forgotten() {
        assert_eq!(forgettable(10, None), 10);
        assert_eq!(forgettable(10, Some(5)), 4);
        assert_eq!(forgettable(10, Some(20)), 10);
    }

    /// A node stops compacting only if its user lacks the permission.
    #[test]
    fn what_is_denied_once_is_so_for_good() {
        let failed = |outcome| is_denied(&Error::new(outcome, "as a test has it".to_owned()));
        assert!(failed(Outcome::Definite(Refusal::Denied)));
        assert!(!failed(Outcome::Definite(Refusal::NotConnected)));
        assert!(!failed(Outcome::Unknown(Doubt::Deadline)));
    }
}
