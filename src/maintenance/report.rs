//! Results and errors of maintenance commands.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::model::{Effect, MAX_SKEW, Millis, date, duration};
use crate::store::{etcd, sqlite};

/// Revisions that a restore skips, so that those given between the backup and the restore are not given again. One
/// revision of etcd is a million of sumd's, and a backup does not record whether it is of etcd: the gap is some eight
/// thousand million revisions of etcd.
pub(super) const RESTORE_GAP: i64 = 1 << 53;

/// The reason why a maintenance command has failed.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// A database cannot be opened.
    #[error(transparent)]
    Open(sqlite::OpenError),
    /// etcd, or the data in it, cannot be used.
    #[error(transparent)]
    Etcd(etcd::OpenError),
    /// The target exists.
    #[error("{path} already exists; move it away first", path = .0.display())]
    Exists(PathBuf),
    /// A file cannot be written.
    #[error("cannot write {path}: {1}", path = .0.display())]
    Io(PathBuf, io::Error),
    /// The data cannot be read, or is damaged.
    #[error("{path}: {1}", path = .0.display())]
    Data(PathBuf, String),
    /// The prefix of the target is not empty.
    #[error(
        "there are data under {0} in etcd already: use another --etcd-prefix, or delete them first"
    )]
    NotEmpty(String),
    /// The present state of the data does not allow the operation.
    #[error("{0}")]
    Refused(String),
}

impl From<sqlite::OpenError> for ToolError {
    fn from(error: sqlite::OpenError) -> Self {
        Self::Open(error)
    }
}

impl From<etcd::OpenError> for ToolError {
    fn from(error: etcd::OpenError) -> Self {
        Self::Etcd(error)
    }
}

/// The findings of a check.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Counters that exist.
    pub counters: u64,
    /// Deleted counters whose rows are kept for watchers.
    pub deleted: u64,
    /// Remembered request ids.
    pub ids: u64,
    /// Remembered sessions.
    pub sessions: u64,
    /// The revision of the last change.
    pub revision: i64,
    /// The latest times of day in the data.
    pub times: Times,
    /// Descriptions of everything that is wrong.
    pub problems: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "counters={} deleted={} ids={} sessions={} revision={} problems={}",
            self.counters,
            self.deleted,
            self.ids,
            self.sessions,
            self.revision,
            self.problems.len()
        )
    }
}

/// The latest times of day in the data, over all lanes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// The time of the last batch.
    pub last: Millis,
    /// Request ids with a time up to this are refused, unless they are remembered.
    pub id_horizon: Millis,
    /// Sessions that began up to this time are refused, unless they are remembered.
    pub session_horizon: Millis,
    /// The latest time of a remembered id. The horizon moves to it when the id is forgotten.
    pub id: Millis,
    /// The latest time of a session's last message. The horizon of sessions moves to it when the session is forgotten.
    pub session: Millis,
}

impl Times {
    /// Raises each time to that of `other`, if it is later.
    pub(super) fn take(&mut self, other: Self) {
        *self = Self {
            last: self.last.max(other.last),
            id_horizon: self.id_horizon.max(other.id_horizon),
            session_horizon: self.session_horizon.max(other.session_horizon),
            id: self.id.max(other.id),
            session: self.session.max(other.session),
        };
    }

    /// The consequences of times that are more than a minute after `now`. Either a server's clock was ahead, or the
    /// clock that gives `now` is behind. The data are not damaged by that.
    #[must_use]
    pub fn notes(&self, now: Millis) -> Vec<String> {
        let late = |time: Millis| (time > now.saturating_add(MAX_SKEW)).then(|| date(time));
        let mut notes = Vec::new();
        if let Some(until) = late(self.id_horizon) {
            notes.push(format!(
                "request ids with a time up to {until} are refused (REQUEST_TOO_OLD), which is all of them for the next {}",
                duration(self.id_horizon - now)
            ));
        }
        if let Some(until) = late(self.session_horizon) {
            notes.push(format!(
                "sessions that began up to {until} are refused (SESSION_TOO_OLD), which is all new ones for the next {}",
                duration(self.session_horizon - now)
            ));
        }
        if let Some(until) = late(self.id) {
            notes.push(format!(
                "a remembered request id has the time {until}: once it is forgotten, ids up to that time are refused"
            ));
        }
        if let Some(until) = late(self.session) {
            notes.push(format!(
                "a remembered session was last used at {until}: once it is forgotten, sessions up to that time are \
                 refused"
            ));
        }
        if let Some(last) = late(self.last) {
            notes.push(format!(
                "the last batch has a time of {last}, which refuses nothing by itself"
            ));
        }
        if !notes.is_empty() {
            notes.push(format!(
                "the clock of this machine says {}. If that is right, the clock of a server was ahead; sumd \
                 reset-horizon moves the times back (see its --help)",
                date(now)
            ));
        }
        notes
    }
}

/// The answers of operations, by revision.
pub(super) type Answers = HashMap<i64, Effect>;

impl Report {
    /// Counts a counter, and checks it against the remembered answer of the operation that changed it last.
    pub(super) fn take(
        &mut self,
        answers: &Answers,
        name: &str,
        value: Option<i64>,
        revision: i64,
    ) {
        match value {
            Some(_) => self.counters += 1,
            None => self.deleted += 1,
        }
        let fits = match (answers.get(&revision), value) {
            (Some(Effect::Incremented(added)), value) => value == Some(added.value),
            (Some(Effect::Batch(all)), Some(value)) => all.iter().any(|added| added.value == value),
            (Some(Effect::Failed(_) | Effect::Batch(_)), _) => false,
            _ => true,
        };
        if !fits || revision <= 0 || revision > self.revision {
            let problem = format!(
                "counter {name:?} does not have the value that revision {revision} gave it"
            );
            self.problems.push(problem);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Applied, FailedIncrement, Invalid, LimitError};

    /// A counter has the value that its last change answered, if that answer is remembered.
    #[test]
    fn a_counter_is_what_its_last_change_has_made_it() {
        let added = |value| Applied { value, applied: 1 };
        let failure = FailedIncrement {
            index: 0,
            refusal: LimitError::Invalid(Invalid::NotUtf8),
        };
        let answers = Answers::from([
            (1, Effect::Incremented(added(10))),
            (2, Effect::Batch([added(20), added(30)].into())),
            (3, Effect::Failed(failure)),
            (4, Effect::Replaced(40)),
        ]);
        for (revision, value, fits) in [
            (1, Some(10), true),
            (1, Some(11), false),
            (1, None, false),
            (2, Some(30), true),
            (2, Some(10), false),
            (2, None, false),
            // A failed increment changes nothing.
            (3, Some(10), false),
            (3, None, false),
            // The answer to a replacement has the earlier value, so the new one cannot be checked.
            (4, Some(7), true),
            (4, None, true),
            // No answer is remembered for this revision.
            (5, Some(7), true),
            // Revisions outside of the store's.
            (0, Some(7), false),
            (7, Some(7), false),
        ] {
            let mut report = Report {
                revision: 6,
                ..Report::default()
            };
            report.take(&answers, "a", value, revision);
            let case = format!("{value:?} at {revision}: {:?}", report.problems);
            assert_eq!(report.problems.is_empty(), fits, "{case}");
            let counted = (u64::from(value.is_some()), u64::from(value.is_none()));
            assert_eq!((report.counters, report.deleted), counted);
        }
    }

    /// Times that are later than clocks may differ are told of, each by itself.
    #[test]
    fn times_that_are_ahead_are_told_of() {
        const NOW: Millis = 1_700_000_000_000;
        let notes = |ahead: Millis| {
            let at = NOW + ahead;
            let none = Times::default();
            let each = [
                Times { last: at, ..none },
                Times {
                    id_horizon: at,
                    ..none
                },
                Times {
                    session_horizon: at,
                    ..none
                },
                Times { id: at, ..none },
                Times {
                    session: at,
                    ..none
                },
            ];
            each.map(|times| times.notes(NOW))
        };
        assert!(notes(MAX_SKEW).iter().all(Vec::is_empty));
        let notes = notes(MAX_SKEW + 1);
        for (at, note) in notes.iter().enumerate() {
            let (told, now) = (note.first(), note.last());
            let is_first = notes.iter().position(|other| other.first() == told);
            assert_eq!((note.len(), is_first), (2, Some(at)), "{note:?}");
            assert_eq!(now, notes[0].last());
        }
    }
}
