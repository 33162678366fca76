//! A stream of changes: the state first, from the store, and then what the lane commits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use http::Response;
use tonic::Status;

use super::convert::{MAX_BATCH, Violations};
use super::error::read_error;
use super::read::counter;
use super::service::CounterService;
use crate::grpc::{self, Replies, ResponseBody};
use crate::lane::{Changed, Seen};
use crate::proto::sum::v1::{WatchCountersRequest, WatchCountersResponse};
use crate::store::{Row, Scan};

/// Changes within this time come as one, however many watchers there are.
const INTERVAL: Duration = Duration::from_millis(10);
/// Counters in one answer, which keeps it well below the 4 MiB that clients take by default.
const MAX_COUNTERS: usize = 1000;

enum Watched {
    Names(BTreeSet<Arc<str>>),
    Prefix(Arc<str>),
}

struct Watch {
    service: CounterService,
    watched: Watched,
    replies: Replies,
    /// Everything up to this revision was sent.
    revision: i64,
    synced: bool,
}

pub(super) fn serve(
    service: &CounterService,
    request: WatchCountersRequest,
) -> Result<Response<ResponseBody>, Status> {
    let mut violations = Violations::default();
    let names = request.counters;
    if names.len() > MAX_BATCH {
        let problem = format!(
            "it has {} elements, and takes up to {MAX_BATCH}",
            names.len()
        );
        violations.add("counters", problem);
    }
    for (index, name) in names.iter().enumerate().take(MAX_BATCH) {
        violations.name(&format!("counters[{index}]"), name);
    }
    if !names.is_empty() && !request.prefix.is_empty() {
        violations.add(
            "prefix",
            "it is given beside counters, and one of them is enough",
        );
    }
    violations.prefix(&request.prefix);
    if request.from_revision < 0 {
        let problem = format!("it is {}, below 0", request.from_revision);
        violations.add("from_revision", problem);
    }
    let watched = if names.is_empty() {
        Watched::Prefix(request.prefix.into())
    } else {
        Watched::Names(names.into_iter().map(Arc::from).collect())
    };
    violations.check(())?;
    let service = service.clone();
    Ok(grpc::stream(move |replies| {
        let watch = Watch {
            service,
            watched,
            replies,
            revision: request.from_revision,
            synced: false,
        };
        watch.run()
    }))
}

impl Watch {
    async fn run(mut self) -> Result<(), Status> {
        let changes = self.service.lane.changes().clone();
        loop {
            match changes.since(self.revision) {
                // From the beginning it is the state that is asked for.
                Seen::Changes(commits, end) if self.synced || self.revision > 0 => {
                    self.tell(&commits, end).await;
                }
                _ => self.tell_state().await?,
            }
            // In this order: a watcher that is far behind is not held up.
            changes.reach(self.revision + 1).await;
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Sends what commits have changed, of each counter the latest.
    async fn tell(&mut self, commits: &[Changed], end: i64) {
        let mut latest = BTreeMap::new();
        for commit in commits {
            for change in self.watched.of(commit) {
                let row = Row {
                    name: change.name.clone(),
                    value: change.value,
                    revision: commit.base + i64::from(change.place),
                };
                latest.insert(change.name.clone(), row);
            }
        }
        let rows: Vec<_> = latest.into_values().collect();
        // The first answer comes at once, if only to say that there is nothing new.
        if rows.is_empty() && self.synced {
            self.revision = end;
        } else {
            self.send(&rows, false, Some(end)).await;
        }
    }

    /// Sends the state in the store, as far as it has changed.
    async fn tell_state(&mut self) -> Result<(), Status> {
        let store = self.service.store.clone();
        let failed = |error| read_error(&error);
        let last = match &self.watched {
            Watched::Names(names) => {
                let names: Vec<_> = names.iter().cloned().collect();
                let found = store.read(names.clone()).await.map_err(failed)?;
                let rows = names.into_iter().zip(found.rows).map(|(name, row)| {
                    let none = Row {
                        name,
                        value: None,
                        revision: 0,
                    };
                    row.unwrap_or(none)
                });
                // They are few: all of them, whatever has changed.
                let rows: Vec<_> = rows.collect();
                self.send(&rows, true, Some(found.revision)).await;
                found.revision
            }
            Watched::Prefix(prefix) => {
                let prefix = prefix.clone();
                let mut reset = self.revision == 0;
                let (mut first, mut after) = (None, None);
                loop {
                    let since = if reset { 0 } else { self.revision };
                    let scan = Scan {
                        prefix: prefix.clone(),
                        after,
                        since,
                        limit: MAX_COUNTERS,
                    };
                    let page = store.scan(scan).await.map_err(failed)?;
                    let begins = first.is_none();
                    let forgotten = page.forgotten > since || page.revision < since;
                    if !reset && forgotten {
                        // Also in the middle of it: what was forgotten meanwhile would never be told.
                        (reset, first, after) = (true, None, None);
                        self.revision = 0;
                        continue;
                    }
                    let moment = *first.get_or_insert(page.revision);
                    after = page.next;
                    let end = after.is_none().then_some(moment);
                    if end.is_some() || begins || !page.rows.is_empty() {
                        self.send(&page.rows, reset && begins, end).await;
                    }
                    if end.is_some() {
                        break page.revision;
                    }
                }
            }
        };
        // What was read may be ahead of what the lane has told: no counter goes back.
        self.service.lane.changes().reach(last).await;
        Ok(())
    }

    /// Sends counters, in as many answers as it takes. The last has the new revision, where that is reached.
    async fn send(&mut self, rows: &[Row], reset: bool, end: Option<i64>) {
        let mut parts: Vec<_> = rows.chunks(MAX_COUNTERS).collect();
        if parts.is_empty() {
            parts.push(&[]);
        }
        let last = parts.len() - 1;
        self.synced &= !reset;
        for (index, rows) in parts.into_iter().enumerate() {
            let mut reply = WatchCountersResponse {
                restarted: reset && index == 0,
                ..WatchCountersResponse::default()
            };
            for row in rows {
                match (row.value, &self.watched) {
                    (None, Watched::Prefix(_)) => reply.deleted.push(row.name.to_string()),
                    (None, Watched::Names(_)) if !reset => reply.deleted.push(row.name.to_string()),
                    _ => reply.counters.push(counter(&row.name, Some(row))),
                }
            }
            if let Some(end) = end.filter(|_| index == last) {
                reply.synced = !std::mem::replace(&mut self.synced, true);
                self.revision = end;
            }
            reply.revision = self.revision;
            self.replies.send(&reply).await;
        }
    }
}

impl Watched {
    /// Those of a commit's changes that are watched. They are in the order of names.
    fn of<'a>(&self, commit: &'a Changed) -> Vec<&'a crate::model::CounterChange> {
        let all = &commit.counters;
        match self {
            Self::Names(names) => {
                let find = |name: &Arc<str>| {
                    let found = all.binary_search_by(|change| change.name.cmp(name));
                    found.ok().map(|at| &all[at])
                };
                names.iter().filter_map(find).collect()
            }
            Self::Prefix(prefix) => {
                let from = all.partition_point(|change| *change.name < **prefix);
                let rest = all[from..].iter();
                rest.take_while(|change| change.name.starts_with(&**prefix))
                    .collect()
            }
        }
    }
}
