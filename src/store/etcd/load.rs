//! Loads a lane: all of it, or the batches after a known one.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::kv::{self, Kv, MAX_RANGES, ReadError};
use super::log::{Log, Newer, Sessions};
use super::rows::{self, Layout, needed};
use super::sessions::{Told, tell};
use crate::etcd::{get, range};
use crate::model::{Batch, Corrupt, Head, Millis, Pack, Session, SessionId};
use crate::proto::etcd::etcdserverpb::RangeRequest;
use crate::proto::etcd::mvccpb::KeyValue;
use crate::proto::sumd::store::v1 as stored;
use crate::store::{LaneNumber, Loaded, StoreError, damaged_session};

/// All rows with a prefix, as of a revision of etcd.
pub(super) async fn rows(
    kv: &impl Kv,
    prefix: &[u8],
    from: Option<Vec<u8>>,
    revision: i64,
    page: i64,
) -> Result<Vec<KeyValue>, ReadError> {
    let end = crate::etcd::prefix_end(prefix);
    let mut from = from.unwrap_or_else(|| prefix.to_vec());
    let mut all = Vec::new();
    loop {
        let mut request = range(from, end.clone(), page);
        request.revision = revision;
        let found = kv::read(kv, vec![request]).await?;
        let Some(found) = found.ranges.into_iter().next() else {
            return Ok(all);
        };
        let more = found.more;
        all.extend(found.kvs);
        match all.last() {
            Some(last) if more => {
                from = last.key.to_vec();
                from.push(0);
            }
            _ => return Ok(all),
        }
    }
}

/// Loads a lane as of a moment after the call.
pub(super) async fn load(
    kv: &impl Kv,
    layout: &Layout,
    lane: LaneNumber,
) -> Result<(Log, Loaded), StoreError> {
    loop {
        match try_load(kv, layout, lane).await {
            Err(ReadError::Compacted) => {}
            Err(error) => return Err(error.into()),
            Ok((log, loaded)) => return Ok((log, loaded?)),
        }
    }
}

async fn try_load(
    kv: &impl Kv,
    layout: &Layout,
    lane: LaneNumber,
) -> Result<(Log, Result<Loaded, StoreError>), ReadError> {
    let found = kv::read(kv, vec![get(layout.head(lane))]).await?;
    let revision = found.revision;
    let mut log = Log::empty(layout.clone(), lane);
    let head = found.ranges.first().and_then(|range| range.kvs.first());
    let page = layout.tuning.packs_page;
    let packs = rows(kv, &layout.packs(lane), None, revision, page).await?;
    let Some(head) = head else {
        if let Some(pack) = packs.first() {
            let missing = Corrupt("the head of its lane is missing");
            return Ok((log, Err(needed(&pack.key, missing))));
        }
        let nothing = Loaded {
            head: Head::default(),
            packs: Vec::new(),
            sessions: Vec::new(),
            before: None,
        };
        return Ok((log, Ok(nothing)));
    };
    let sessions = rows(kv, &layout.sessions(lane), None, revision, 1000).await?;
    let loaded = put_together(layout, &mut log, head, &packs, &sessions);
    Ok((log, loaded))
}

fn put_together(
    layout: &Layout,
    log: &mut Log,
    head_row: &KeyValue,
    packs: &[KeyValue],
    sessions: &[KeyValue],
) -> Result<Loaded, StoreError> {
    let head: stored::Head = layout.need(head_row)?;
    log.set_folded(head.folded);
    let mut loaded = Loaded {
        head: Head::default(),
        packs: Vec::new(),
        sessions: Vec::new(),
        before: None,
    };
    let mut told = BTreeMap::new();
    let first = head.forget_before.min(head.folded + 1).max(1);
    let mut last: Option<(u64, i64, Option<Millis>)> = None;
    let mut take = |batch: &stored::Batch, row: &KeyValue| {
        let base = layout.base_of(batch, row.mod_revision);
        let pack = pack(batch, base).map_err(|damage| needed(&row.key, damage))?;
        if !last.map_or(batch.seq <= first, |(seq, ..)| batch.seq == seq + 1) {
            return Err(needed(
                &row.key,
                Corrupt("a batch is missing before those of this row"),
            ));
        }
        last = Some((batch.seq, base + i64::from(batch.places), pack.stamp.age));
        if batch.seq >= head.forget_before && !batch.ids.is_empty() {
            loaded.packs.push(pack);
        }
        if batch.seq > head.folded {
            tell(batch, &mut told);
        }
        Ok::<_, StoreError>(())
    };
    for row in packs {
        let stored: stored::Pack = layout.need(row)?;
        let added = log.add_pack(&stored, row.mod_revision);
        added.map_err(|damage| needed(&row.key, damage))?;
        for batch in &stored.batches {
            take(batch, row)?;
        }
    }
    for batch in &head.batches {
        take(batch, head_row)?;
    }
    let Some((seq, revision, age)) = last.filter(|(seq, ..)| *seq == head.seq) else {
        let missing = Corrupt("a lane's last batch is missing");
        return Err(needed(&head_row.key, missing));
    };
    loaded.head = Head {
        seq,
        revision,
        time: head.time,
        age,
        horizon: head.horizon,
        session_horizon: head.session_horizon,
    };
    let lane = log.lane();
    let prefix = layout.sessions(lane);
    for row in sessions {
        let id = row.key.strip_prefix(&*prefix);
        let id = id.and_then(|id| std::str::from_utf8(id).ok());
        let id = id.ok_or_else(|| needed(&row.key, Corrupt("a session's key is not UTF-8")))?;
        let session = layout.open::<stored::Session>(row);
        if session.is_err() && layout.has_another_key(row) {
            return Err(needed(&row.key, Corrupt("the key of a session is damaged")));
        }
        if let Some(told) = told.get_mut(id) {
            told.set_row(session);
        } else {
            let mut told = Told::default();
            told.set_row(session);
            let session = told.session();
            tell_damage(layout, lane, id, &session);
            loaded
                .sessions
                .extend(known(session, head.time).map(|session| (id.into(), session)));
        }
    }
    for (id, told) in told {
        let session = told.session();
        tell_damage(layout, lane, &id, &session);
        let session = known(session, head.time);
        log.set_session(id.clone(), session.clone());
        loaded.sessions.extend(session.map(|session| (id, session)));
    }
    let taken = log.set_head(head, head_row.mod_revision);
    taken.map_err(|damage| needed(&head_row.key, damage))?;
    Ok(loaded)
}

/// A lane's session, unless it is forgotten. A damaged one is kept as such; `last` is the time of the data's last
/// batch.
fn known(session: Result<Option<Session>, Corrupt>, last: Millis) -> Option<Arc<Session>> {
    let session = session.unwrap_or_else(|_| Some(Session::damaged(last)));
    session.map(Arc::new)
}

/// Reports a damaged session to the operator. Only the loading of a lane does so, since a client may open streams as
/// often as it likes.
fn tell_damage(
    layout: &Layout,
    lane: LaneNumber,
    id: &str,
    session: &Result<Option<Session>, Corrupt>,
) {
    if let Err(Corrupt(problem)) = session {
        let key = layout.session(lane, id);
        let row = String::from_utf8_lossy(&key);
        damaged_session(&format_args!(
            "the row of session {id:?} is damaged ({row}: {problem})"
        ));
    }
}

fn pack(batch: &stored::Batch, base: i64) -> Result<Pack, Corrupt> {
    Ok(Pack {
        seq: batch.seq,
        time: batch.time,
        stamp: rows::stamp(batch.time, &batch.extras)?,
        base,
        ids: batch.ids.to_vec().into(),
    })
}

/// The batches after the last one of a known lane.
pub(super) enum Found {
    Nothing,
    Batches(Vec<Batch>, Newer),
    /// Too many, or they cannot all be read: the lane has to be loaded again.
    TooMany,
}

/// Reads the batches committed to a lane after the last one of its log. The log stays as it is.
pub(super) async fn after(kv: &impl Kv, layout: &Layout, log: &Log) -> Result<Found, StoreError> {
    let (lane, seq) = (log.lane(), log.head().seq);
    let found = kv::read(kv, vec![get(layout.head(lane))]).await?;
    let Some(row) = found.ranges.first().and_then(|range| range.kvs.first()) else {
        return match log.revision() {
            0 => Ok(Found::Nothing),
            _ => Err(StoreError::Failed("the head of a lane is gone".into())),
        };
    };
    if row.mod_revision == log.revision() {
        return Ok(Found::Nothing);
    }
    let head: stored::Head = layout.need(row)?;
    let has_folded = head.folded != log.head().folded;
    let mut from = log.head().open_from;
    if has_folded {
        // A checkpoint has changed what the memtable holds, so it is read again.
        from = from.min(head.log_from);
    }
    let mut packs = Vec::new();
    if head.open_from > from {
        let first = layout.pack(lane, from).to_vec();
        let prefix = layout.packs(lane);
        let page = layout.tuning.packs_page;
        let read = rows(kv, &prefix, Some(first), found.revision, page).await;
        let read = match read {
            Ok(rows) => rows,
            Err(ReadError::Compacted) => return Ok(Found::TooMany),
            Err(error) => return Err(error.into()),
        };
        for row in read {
            packs.push((layout.need::<stored::Pack>(&row)?, row.mod_revision));
        }
    }
    if packs.len() > layout.tuning.packs_behind {
        return Ok(Found::TooMany);
    }
    let mut batches = Vec::new();
    for (pack, row_revision) in &packs {
        take_new(
            layout,
            seq,
            &head,
            &pack.batches,
            *row_revision,
            &mut batches,
        )?;
    }
    take_new(
        layout,
        seq,
        &head,
        &head.batches,
        row.mod_revision,
        &mut batches,
    )?;
    let known = if has_folded {
        head.folded.min(seq)
    } else {
        seq
    };
    let stored = packs.iter().flat_map(|(pack, _)| &pack.batches);
    let new = stored
        .chain(&head.batches)
        .filter(|batch| batch.seq > known);
    // If a batch is missing, loading the whole lane reports why.
    let complete = new.clone().map(|batch| batch.seq).eq(known + 1..=head.seq);
    if !complete || batches.is_empty() {
        return Ok(Found::TooMany);
    }
    let mut told = BTreeMap::new();
    new.for_each(|batch| tell(batch, &mut told));
    let of_log = Some(log).filter(|_| !has_folded);
    let moment = (found.revision, head.time);
    let sessions = match put_on_known(kv, layout, lane, of_log, told, moment).await {
        Err(ReadError::Compacted) => return Ok(Found::TooMany),
        sessions => sessions?,
    };
    if let Some(last) = batches.last_mut() {
        last.sessions.clone_from(&sessions);
    }
    let newer = Newer {
        head,
        row_revision: row.mod_revision,
        packs,
        sessions,
        from: has_folded.then_some(from),
    };
    Ok(Found::Batches(batches, newer))
}

/// Applies changes to the sessions in a log, or else to their rows at a revision of etcd. `last` is the time of the
/// last batch.
async fn put_on_known(
    kv: &impl Kv,
    layout: &Layout,
    lane: LaneNumber,
    log: Option<&Log>,
    mut told: BTreeMap<SessionId, Told>,
    (revision, last): (i64, Millis),
) -> Result<Sessions, ReadError> {
    let in_log = |id: &str| log.and_then(|log| log.session(id));
    let unknown = told.iter_mut();
    let mut unknown: Vec<_> = unknown
        .filter(|(id, told)| told.needs_row() && in_log(id).is_none())
        .collect();
    for some in unknown.chunks_mut(MAX_RANGES) {
        let row = |(id, _): &(&SessionId, _)| RangeRequest {
            revision,
            ..get(layout.session(lane, id))
        };
        let found = kv::read(kv, some.iter().map(row).collect()).await?;
        for ((_, told), range) in some.iter_mut().zip(found.ranges) {
            if let Some(row) = range.kvs.first() {
                told.set_row(layout.open(row));
            }
        }
    }
    let put = |(id, told): (SessionId, Told)| {
        let session = match in_log(&id).filter(|_| told.needs_row()) {
            Some(session) => told.put_on(Session::clone(session)).map(Some),
            None => told.session(),
        };
        (id, known(session, last))
    };
    Ok(told.into_iter().map(put).collect())
}

fn take_new(
    layout: &Layout,
    seq: u64,
    head: &stored::Head,
    stored: &[stored::Batch],
    row_revision: i64,
    batches: &mut Vec<Batch>,
) -> Result<(), Corrupt> {
    for batch in stored.iter().filter(|batch| batch.seq > seq) {
        let base = layout.base_of(batch, row_revision);
        let pack = pack(batch, base)?;
        let mut counters = Vec::new();
        for change in rows::changes(batch)? {
            counters.push((change.name, change.value));
        }
        batches.push(Batch {
            head: Head {
                seq: batch.seq,
                revision: base + i64::from(batch.places),
                time: batch.time,
                age: pack.stamp.age,
                // Horizons only grow: those of the last batch are right for all.
                horizon: head.horizon,
                session_horizon: head.session_horizon,
            },
            pack,
            counters,
            // All sessions come with the last batch.
            sessions: Vec::new(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
