//! What the tools of all stores tell.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::PathBuf;

use super::{etcd, sqlite};
use crate::model::Done;

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

/// What operations were answered, by their revisions.
pub(super) type Answers = HashMap<i64, Done>;

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
            (Some(Done::Incremented(added)), value) => value == Some(added.value),
            (Some(Done::Batch(all)), Some(value)) => all.iter().any(|added| added.value == value),
            (Some(Done::Failed(_) | Done::Batch(_)), _) => false,
            _ => true,
        };
        if !fits || revision <= 0 || revision > self.revision {
            let problem = format!("counter {name:?} is not what revision {revision} made it");
            self.problems.push(problem);
        }
    }
}
