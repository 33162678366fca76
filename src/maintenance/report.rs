//! What work on a store finds, and why it is not done.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::model::{Effect, MAX_SKEW, Millis, date, duration};
use crate::store::{etcd, sqlite};

/// Revisions that a restore leaves out: those that were given between the backup and the restore are not given again. Each
/// revision of etcd is a million, and a backup does not tell whether it is of etcd: it is some eight thousand million of those.
pub(super) const RESTORE_GAP: i64 = 1 << 53;

/// Why a tool has not done its work.
#[derive(Debug)]
pub enum ToolError {
    /// A database cannot be had.
    Open(sqlite::OpenError),
    /// etcd, or what is there, cannot be had.
    Etcd(etcd::OpenError),
    /// The target is there already.
    Exists(PathBuf),
    /// A file cannot be written.
    Io(PathBuf, io::Error),
    /// The data cannot be read, or is damaged.
    Data(PathBuf, String),
    /// The target, which this prefix is of, is not empty.
    NotEmpty(String),
    /// What there is does not allow it.
    Refused(String),
}

impl fmt::Display for ToolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(error) => error.fmt(f),
            Self::Etcd(error) => error.fmt(f),
            Self::Exists(path) => {
                write!(f, "{} is there already; move it away first", path.display())
            }
            Self::Io(path, error) => write!(f, "cannot write {}: {error}", path.display()),
            Self::Data(path, what) => write!(f, "{}: {what}", path.display()),
            Self::NotEmpty(prefix) => write!(
                f,
                "there are data under {prefix} in etcd already: take another --etcd-prefix, or delete them first"
            ),
            Self::Refused(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for ToolError {}

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

/// What a check has found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Counters that are there.
    pub counters: u64,
    /// Counters that were deleted, and are remembered for watchers.
    pub deleted: u64,
    /// Request ids that are remembered.
    pub ids: u64,
    /// Sessions that are remembered.
    pub sessions: u64,
    /// The revision of the last change.
    pub revision: i64,
    /// The latest times of day in it.
    pub times: Times,
    /// What is wrong.
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

/// The latest times of day that data have, of all lanes together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// That of the last batch.
    pub last: Millis,
    /// Request ids with a time up to this are refused, unless they are remembered.
    pub id_horizon: Millis,
    /// The same of sessions.
    pub session_horizon: Millis,
    /// That of an id that is remembered. The horizon is moved to it when the id is forgotten.
    pub id: Millis,
    /// That of a session's last message, which moves the horizon of sessions likewise.
    pub session: Millis,
}

impl Times {
    /// That of each, if it is later.
    pub(super) fn take(&mut self, other: Self) {
        *self = Self {
            last: self.last.max(other.last),
            id_horizon: self.id_horizon.max(other.id_horizon),
            session_horizon: self.session_horizon.max(other.session_horizon),
            id: self.id.max(other.id),
            session: self.session.max(other.session),
        };
    }

    /// The consequences of times that are later than `now` by over a minute: a clock was ahead, or that which tells `now` is
    /// behind. The data are not damaged by that.
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
                "a request id is remembered that has a time of {until}: once it is forgotten, ids up to that time are refused"
            ));
        }
        if let Some(until) = late(self.session) {
            notes.push(format!(
                "a session is remembered that was used at {until}: once it is forgotten, sessions up to that time are refused"
            ));
        }
        if let Some(last) = late(self.last) {
            notes.push(format!(
                "the last batch has a time of {last}, which refuses nothing by itself"
            ));
        }
        if !notes.is_empty() {
            notes.push(format!(
                "it is {} now by the clock of this machine. If that is right, the clock of a server was ahead; sumd reset-horizon \
                 takes the times back (see its --help)",
                date(now)
            ));
        }
        notes
    }
}

/// What operations were answered, by their revisions.
pub(super) type Answers = HashMap<i64, Effect>;

impl Report {
    /// Counts a counter, and checks it against what the operation that changed it last was answered.
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
            let problem = format!("counter {name:?} is not what revision {revision} made it");
            self.problems.push(problem);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Applied, FailedIncrement, Invalid, LimitError};

    /// A counter is what the operation at its revision was answered, if that is remembered.
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
            // The answer tells the value from before.
            (4, Some(7), true),
            (4, None, true),
            // Not remembered.
            (5, Some(7), true),
            // Of no revision that there is.
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
}
