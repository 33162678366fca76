//! A store in memory that fails, hangs or loses unsynced data when a test says so.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use sumd::model::{Commit, Head, KeyedHasher, Pack, Session, SessionId};
use sumd::store::{
    After, Capabilities, ChangeFeed, Committed, LaneNumber, Loaded, Page, Reply, Row, Rows, Scan,
    SessionRows, Store, StoreError, Sum,
};
use tokio::sync::watch;

use super::Reopen;

/// The data, and the faults to come. It outlives the stores that are opened on it.
#[derive(Clone, Default)]
pub struct Unreliable(Arc<Inner>);

#[derive(Default)]
struct Inner {
    synced: Mutex<Data>,
    /// Whether the next commit fails: before it is applied (`false`) or after (`true`).
    fail: Mutex<Option<bool>>,
    /// The counter that cannot be read.
    unreadable: Mutex<Option<Arc<str>>>,
    frozen: watch::Sender<bool>,
    /// Counts losses of power, at which commits in flight are lost.
    life: watch::Sender<u32>,
    /// Number of commits that hang.
    hanging: watch::Sender<usize>,
    commits: Mutex<usize>,
    changes: OnceLock<ChangeFeed>,
}

#[derive(Default)]
struct Data {
    head: Head,
    packs: Vec<Pack>,
    rows: BTreeMap<Arc<str>, Row>,
    sessions: HashMap<SessionId, Vec<u8>>,
}

impl Unreliable {
    pub fn fail_next_commit(&self, applied: bool) {
        *self.0.fail.lock().expect("no panic") = Some(applied);
    }

    /// Makes every read that includes this counter fail.
    pub fn fail_reads_of(&self, name: Option<&str>) {
        *self.0.unreadable.lock().expect("no panic") = name.map(Arc::from);
    }

    /// Makes commits hang after they have begun.
    pub fn freeze(&self) {
        self.0.frozen.send_replace(true);
    }

    pub fn thaw(&self) {
        self.0.frozen.send_replace(false);
    }

    /// Discards all unsynced data.
    pub fn lose_power(&self) {
        self.0.life.send_modify(|life| *life += 1);
        self.thaw();
    }

    pub async fn commit_hangs(&self) {
        let mut hanging = self.0.hanging.subscribe();
        let hangs = crate::support::soon(hanging.wait_for(|count| *count > 0));
        hangs.await.expect("it is held");
    }

    pub fn commits(&self) -> usize {
        *self.0.commits.lock().expect("no panic")
    }

    fn data(&self) -> MutexGuard<'_, Data> {
        self.0.synced.lock().expect("no panic")
    }

    async fn try_commit(self, batch: Arc<Commit>) -> Result<Committed, StoreError> {
        let life = *self.0.life.borrow();
        let mut frozen = self.0.frozen.subscribe();
        self.0.hanging.send_modify(|count| *count += 1);
        frozen.wait_for(|frozen| !frozen).await.expect("it is held");
        self.0.hanging.send_modify(|count| *count -= 1);
        if *self.0.life.borrow() != life {
            return Err(StoreError::Failed("power was lost".into()));
        }
        *self.0.commits.lock().expect("no panic") += 1;
        let fail = self.0.fail.lock().expect("no panic").take();
        if fail == Some(false) {
            return Err(StoreError::Failed("told to fail".into()));
        }
        let base = self.data().commit(&batch)?;
        match fail {
            Some(_) => Err(StoreError::Failed("told to fail afterwards".into())),
            None => Ok(Committed::alone(base)),
        }
    }
}

impl Reopen for Unreliable {
    async fn open(&self) -> Arc<dyn Store> {
        Arc::new(self.clone())
    }
}

impl Data {
    fn commit(&mut self, batch: &Commit) -> Result<i64, StoreError> {
        if batch.seq != self.head.seq + 1 {
            return Err(StoreError::Failed("it does not follow".into()));
        }
        let base = self.head.revision;
        self.head = Head {
            seq: batch.seq,
            revision: base + i64::from(batch.places),
            time: batch.time,
            age: batch.stamp.age,
            horizon: batch.horizon,
            session_horizon: batch.session_horizon,
        };
        for change in &*batch.changes.counters {
            let row = Row {
                name: change.name.clone(),
                value: change.value,
                revision: base + i64::from(change.place),
            };
            self.rows.insert(change.name.clone(), row);
        }
        for (id, change) in &batch.changes.sessions {
            match &change.after {
                Some(session) => self.sessions.insert(id.clone(), session.encode()),
                None => self.sessions.remove(id),
            };
        }
        self.packs.retain(|pack| pack.seq >= batch.forget_before);
        self.packs.push(Pack {
            seq: batch.seq,
            time: batch.time,
            stamp: batch.stamp,
            base,
            ids: batch.ids.clone(),
        });
        Ok(base)
    }

    fn with_prefix(&self, prefix: &str) -> impl Iterator<Item = &Row> + Clone {
        let rows = self.rows.values();
        rows.filter(move |row| row.name.starts_with(prefix))
    }

    fn scan(&self, scan: &Scan) -> Page {
        let mut rows: Vec<_> = self
            .with_prefix(&scan.prefix)
            .filter(|row| scan.after.as_ref().is_none_or(|after| row.name > *after))
            .filter(|row| row.revision > scan.since && (row.value.is_some() || scan.since > 0))
            .cloned()
            .collect();
        let more = rows.len() > scan.limit;
        rows.truncate(scan.limit);
        Page {
            next: rows.last().filter(|_| more).map(|row| row.name.clone()),
            rows,
            revision: self.head.revision,
            forgotten: 0,
        }
    }
}

fn at_once<T: Send + 'static>(answer: T) -> Reply<T> {
    Box::pin(async { Ok(answer) })
}

impl Store for Unreliable {
    fn hasher(&self) -> KeyedHasher {
        KeyedHasher::new([7; 16])
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            is_shared: false,
            lanes: 1,
            batch_bytes: 768 << 10,
        }
    }

    fn load(&self, _lane: LaneNumber) -> Reply<Loaded> {
        let data = self.data();
        let decode = |(id, state): (&SessionId, &Vec<u8>)| {
            let session = Session::decode(state).expect("what was encoded");
            (id.clone(), Arc::new(session))
        };
        at_once(Loaded {
            head: data.head,
            packs: data.packs.clone(),
            sessions: data.sessions.iter().map(decode).collect(),
            before: None,
        })
    }

    fn after(&self, _lane: LaneNumber, _seq: u64) -> Reply<After> {
        at_once(After::Batches(Vec::new()))
    }

    fn session(&self, _id: SessionId) -> Reply<SessionRows> {
        at_once(SessionRows::default())
    }

    fn changes(&self) -> &ChangeFeed {
        self.0.changes.get_or_init(|| ChangeFeed::new(0))
    }

    fn commit(&self, _lane: LaneNumber, batch: Arc<Commit>) -> Reply<Committed> {
        Box::pin(self.clone().try_commit(batch))
    }

    fn read(&self, names: Vec<Arc<str>>) -> Reply<Rows> {
        let unreadable = self.0.unreadable.lock().expect("no panic");
        if unreadable.as_ref().is_some_and(|name| names.contains(name)) {
            let error = StoreError::Unavailable("told to fail".into());
            return Box::pin(async { Err(error) });
        }
        let data = self.data();
        let rows = names.iter().map(|name| data.rows.get(name).cloned());
        at_once(Rows {
            rows: rows.collect(),
            revision: data.head.revision,
        })
    }

    fn scan(&self, scan: Scan) -> Reply<Page> {
        at_once(self.data().scan(&scan))
    }

    fn sum(&self, prefix: Arc<str>) -> Reply<Sum> {
        let data = self.data();
        let values = data.with_prefix(&prefix).filter_map(|row| row.value);
        at_once(Sum {
            sum: values.clone().map(i128::from).sum(),
            count: i64::try_from(values.count()).expect("few"),
            revision: data.head.revision,
        })
    }
}
