//! Where counters are kept, and how much of them in memory.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;

use crate::model::Bounds;

/// The database's file in a data directory.
const FILE: &str = "sumd.db";

/// Where counters are kept.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Counters")]
pub struct StoreOptions {
    /// The folder that counters are kept in
    #[arg(
        long,
        env = "SUMD_DATA_DIR",
        value_name = "FOLDER",
        default_value = "./sumd-data"
    )]
    pub data_dir: PathBuf,

    /// Keep counters elsewhere: sqlite:PATH is a database file [default: sumd.db in --data-dir]
    #[arg(long, env = "SUMD_STORE", value_name = "STORE")]
    pub store: Option<StoreAddress>,
}

impl StoreOptions {
    /// The database's file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match &self.store {
            Some(StoreAddress::Sqlite(path)) => path.clone(),
            None => self.data_dir.join(FILE),
        }
    }
}

/// A store, as `--store` takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreAddress {
    /// A database file.
    Sqlite(PathBuf),
}

impl FromStr for StoreAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("sqlite:") {
            Some(path) if !path.is_empty() => Ok(Self::Sqlite(path.into())),
            _ => Err("expected sqlite:PATH".to_owned()),
        }
    }
}

impl fmt::Display for StoreAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
        }
    }
}

/// What is remembered, and in how much memory.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Counters")]
pub struct MemoryOptions {
    /// How long request ids are remembered at the least
    #[arg(long, env = "SUMD_ID_HORIZON", value_name = "TIME", default_value = "10m",
          value_parser = horizon)]
    pub id_horizon: Duration,

    /// How long sessions are remembered that are not used
    #[arg(long, env = "SUMD_SESSION_HORIZON", value_name = "TIME", default_value = "1day",
          value_parser = horizon)]
    pub session_horizon: Duration,

    /// Memory for request ids and sessions, some 50 bytes an id; once it is full new ids are refused
    #[arg(long, env = "SUMD_ID_MEMORY", value_name = "SIZE", default_value = "256MiB",
          value_parser = memory)]
    pub id_memory: usize,

    /// Memory for counters, some 130 bytes each; those not used for the longest are read again from disk. Half of it
    /// is for those of which only the log is up to date on disk
    #[arg(long, env = "SUMD_COUNTER_MEMORY", value_name = "SIZE", default_value = "256MiB",
          value_parser = memory)]
    pub counter_memory: usize,
}

impl MemoryOptions {
    /// The bytes of counters whose rows are not up to date; while these are written, there may be as many again.
    #[must_use]
    pub fn recent_bytes(&self) -> usize {
        self.counter_memory / 4
    }

    /// The same for a lane.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        Bounds {
            id_bytes: self.id_memory,
            counter_bytes: self.counter_memory / 2,
            id_horizon: millis(self.id_horizon),
            session_horizon: millis(self.session_horizon),
        }
    }
}

/// A second to a year.
fn horizon(text: &str) -> Result<Duration, String> {
    let longest = Duration::from_hours(366 * 24);
    match humantime::parse_duration(text) {
        Ok(time) if (Duration::from_secs(1)..=longest).contains(&time) => Ok(time),
        _ => Err("expected a time from 1s to 1year, like 10m or 1day".to_owned()),
    }
}

/// 64 KiB to 1 TiB.
fn memory(text: &str) -> Result<usize, String> {
    let size = text.parse::<ByteSize>().ok().map(|size| size.as_u64());
    size.filter(|bytes| (1 << 16..=1 << 40).contains(bytes))
        .and_then(|bytes| usize::try_from(bytes).ok())
        .ok_or_else(|| "expected a size from 64KiB to 1TiB, like 256MiB".to_owned())
}
