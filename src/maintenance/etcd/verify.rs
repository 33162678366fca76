//! Reads and verifies everything under a prefix, as of one revision of etcd. Nodes may keep writing meanwhile.
//!
//! Backup uses the contents, and check the problems.

mod lanes;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::maintenance::dump::Dump;
use crate::maintenance::report::{Answers, Report, Times, ToolError};
use crate::model::{Corrupt, Millis, PackEntry, Session, SessionId, check_name, group};
use crate::proto::etcd::mvccpb::KeyValue;
use crate::proto::sumd::store::v1::{self as stored, Meta};
use crate::store::etcd::imported::{BeforeRows, PACKS, Pages};
use crate::store::etcd::kv::{Kv, ReadError};
use crate::store::etcd::rows::Layout;
use crate::store::etcd::{OpenError, is_before_needed, meta};
use crate::store::{LaneNumber, Row};
use lanes::{Lanes, Overlay};

/// Rows per read.
const ROWS: i64 = 1000;

/// A read of everything under a prefix.
pub(in crate::maintenance) struct Survey<K> {
    kv: K,
    layout: Layout,
    pub(in crate::maintenance) meta: Meta,
    /// The revision of etcd to read at; 0 reads the latest.
    at: i64,
    pub(in crate::maintenance) report: Report,
    answers: Answers,
    overlay: Overlay,
}

impl<K: Kv> Survey<K> {
    /// Begins at a revision of etcd that is read during this call.
    pub(in crate::maintenance) async fn begin(kv: K, prefix: &str) -> Result<Self, ToolError> {
        let (Some((meta, meta_revision)), revision) = meta::read(&kv, prefix).await? else {
            let problem = format!("there are no counters under {prefix}");
            return Err(ToolError::Refused(problem));
        };
        let layout = Layout::new(prefix, &meta, meta_revision).map_err(OpenError::Data)?;
        let report = Report {
            revision: layout.end(revision),
            ..Report::default()
        };
        // Sealed or incomplete data do not change, so no old revision of them has to be kept.
        let is_still = meta.filling || !meta.moved_to.is_empty();
        Ok(Self {
            kv,
            layout,
            meta,
            at: if is_still { 0 } else { revision },
            report,
            answers: Answers::new(),
            overlay: Overlay::default(),
        })
    }

    /// Reads everything but the counters.
    pub(in crate::maintenance) async fn dump(&mut self) -> Result<Dump, ToolError> {
        let mut lanes = Lanes::new(&self.layout);
        let mut heads = self.pages(self.layout.heads(), ROWS);
        let mut packs = self.pages(self.layout.all_packs(), PACKS);
        let problems = &mut self.report.problems;
        while let Some(page) = next(&self.kv, &mut heads).await? {
            for row in &page {
                lanes.head(row, problems);
            }
        }
        while let Some(page) = next(&self.kv, &mut packs).await? {
            for row in &page {
                lanes.pack(row, problems);
            }
        }
        let found = lanes.end(problems);
        (self.overlay, self.answers) = (found.overlay, found.answers);
        let mut dump = Dump {
            hasher: self.layout.hasher,
            lanes: self.layout.lanes,
            revision: self.report.revision,
            forgotten: found.forgotten,
            time: found.time,
            horizon: found.horizon,
            session_horizon: found.session_horizon,
            packs: found.packs,
            sessions: Vec::new(),
        };
        let before = self.before(&mut dump).await?;
        self.report.ids = found.ids + before;
        dump.packs.sort_by_key(|pack| pack.base);
        dump.sessions = self.sessions(dump.time).await?;
        self.report.sessions = dump.sessions.len() as u64;
        let newest = dump.packs.iter().filter_map(|pack| pack.newest).max();
        let used = dump.sessions.iter().map(|(_, session)| session.used());
        self.report.times = Times {
            last: dump.time,
            id_horizon: dump.horizon,
            session_horizon: dump.session_horizon,
            id: newest.unwrap_or(0),
            session: used.max().unwrap_or(0),
        };
        Ok(dump)
    }

    /// Reads the imported ids and returns their number. Ids that are past the horizon are not included in the dump.
    async fn before(&mut self, dump: &mut Dump) -> Result<u64, ToolError> {
        let mut count = 0;
        let mut pages = self.pages(self.layout.all_before(), PACKS);
        let mut rows = BeforeRows::default();
        while let Some(page) = next(&self.kv, &mut pages).await? {
            for row in &page {
                let of_it = rows.read(&self.layout, row);
                let Some(of_it) = note(&row.key, of_it, &mut self.report.problems) else {
                    continue;
                };
                for pack in of_it {
                    let entries = PackEntry::read_all(&pack.ids);
                    let entries = note(&row.key, entries, &mut self.report.problems);
                    if !is_before_needed(pack.time, dump.horizon) {
                        continue;
                    }
                    for entry in entries.unwrap_or_default() {
                        count += 1;
                        let at = pack.base + i64::from(entry.place);
                        self.answers.insert(at, entry.done);
                    }
                    dump.packs.push(pack);
                }
            }
        }
        // An import in progress has not written the last rows yet.
        if !self.meta.filling {
            let all = self.layout.all_before();
            note(&all, rows.end(&self.layout), &mut self.report.problems);
        }
        Ok(count)
    }

    /// Reads all sessions, merged over the lanes, ordered by id.
    async fn sessions(&mut self, time: Millis) -> Result<Vec<(SessionId, Session)>, ToolError> {
        let mut states = std::mem::take(&mut self.overlay.sessions);
        let all = self.layout.all_sessions();
        let mut pages = self.pages(all.clone(), ROWS);
        let problems = &mut self.report.problems;
        while let Some(page) = next(&self.kv, &mut pages).await? {
            for row in &page {
                let place = self.layout.lane_of(&row.key, &all);
                let place = place.ok_or(Corrupt("its key is not that of a session"));
                let opened = self.layout.open::<stored::Session>(row);
                let both = place.and_then(|place| Ok((place, opened?)));
                if let Some(((lane, id), session)) = note(&row.key, both, problems) {
                    let told = states.entry((id.to_owned(), lane));
                    told.or_default().set_row(Ok(session));
                }
            }
        }
        let mut of_ids: BTreeMap<String, Vec<(LaneNumber, Session)>> = BTreeMap::new();
        for ((id, lane), told) in states {
            let key = self.layout.session(lane, &id);
            if let Some(Some(session)) = note(&key, told.session(), problems) {
                of_ids.entry(id).or_default().push((lane, session));
            }
        }
        let lanes = self.layout.lanes;
        let whole = |(id, rows): (String, Vec<_>)| {
            let session = Session::merge_shards(&rows, lanes, time);
            (SessionId::from(id), session)
        };
        Ok(of_ids.into_iter().map(whole).collect())
    }

    /// Reads the counters, deleted ones included, ordered by name. Counts them and records problems. Needs
    /// [`Self::dump`] first.
    pub(in crate::maintenance) async fn counters(
        &mut self,
        mut each: impl FnMut(&[Row]) -> Result<(), ToolError>,
    ) -> Result<(), ToolError> {
        let mut newer: VecDeque<Row> = std::mem::take(&mut self.overlay.counters)
            .into_iter()
            .map(|(name, (value, revision))| Row {
                name,
                value,
                revision,
            })
            .collect();
        let mut pages = self.pages(self.layout.counters(), ROWS);
        loop {
            let page = next(&self.kv, &mut pages).await?;
            let is_last = page.is_none();
            let mut rows = Vec::new();
            for row in page.unwrap_or_default() {
                let row = note(&row.key, self.row(&row), &mut self.report.problems);
                let Some(row) = row else { continue };
                while newer.front().is_some_and(|newer| newer.name < row.name) {
                    rows.extend(newer.pop_front());
                }
                let is_newer = newer.front().is_some_and(|newer| newer.name == row.name);
                let latest = if is_newer { newer.pop_front() } else { None };
                match latest {
                    Some(newer) if newer.revision < row.revision => {
                        let problem = format!("counter {:?} is ahead of its lane's log", row.name);
                        self.report.problems.push(problem);
                    }
                    Some(newer) => rows.push(newer),
                    None => rows.push(row),
                }
            }
            if is_last {
                rows.extend(newer.drain(..));
            }
            for row in &rows {
                self.report
                    .take(&self.answers, &row.name, row.value, row.revision);
            }
            each(&rows)?;
            if is_last {
                return Ok(());
            }
        }
    }

    fn row(&self, row: &KeyValue) -> Result<Row, Corrupt> {
        let name = self.layout.name(&row.key);
        let name = name.filter(|name| check_name(name).is_ok());
        let name = name.ok_or(Corrupt("its key is not that of a counter"))?;
        let counter: stored::Counter = self.layout.open(row)?;
        Ok(Row {
            name: name.into(),
            value: Some(counter.value),
            revision: counter.revision,
        })
    }

    fn pages(&self, prefix: Bytes, limit: i64) -> Pages {
        Pages::new(prefix, limit, self.at)
    }
}

/// Reads the next page of rows.
async fn next(kv: &impl Kv, pages: &mut Pages) -> Result<Option<Vec<KeyValue>>, ToolError> {
    pages.read(kv).await.map_err(|error| match error {
        ReadError::Compacted => ToolError::Refused(
            "the read took longer than etcd keeps its history: nodes keep it for an hour while it is read, and etcd \
             itself for its --auto-compaction-retention; raise that, or retry when the load is lower"
                .to_owned(),
        ),
        error => OpenError::from(error).into(),
    })
}

/// Records the problem if a row could not be read.
fn note<T>(key: &[u8], read: Result<T, Corrupt>, problems: &mut Vec<String>) -> Option<T> {
    let name = || String::from_utf8_lossy(key).into_owned();
    read.map_err(|Corrupt(what)| problems.push(format!("{}: {what}", name())))
        .ok()
}

/// The lane of a counter.
fn lane_of(layout: &Layout, name: &str) -> LaneNumber {
    layout.hasher.lane(group(name), layout.lanes)
}
