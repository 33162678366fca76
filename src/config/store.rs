//! Where counters are kept, and how much of them in memory.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;

use super::memory;
use crate::model::Bounds;
use crate::store::etcd::client::{Address, Client, Identity, Login, Options, ParseAddressError};
use crate::store::etcd::{DEFAULT_LANES, MAX_LANES, MIN_TXN_OPS, Place};
use crate::store::sqlite::DATABASE;

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

    /// Keep counters elsewhere: sqlite:PATH is a database file, etcd://HOST:PORT,HOST:PORT,... an etcd cluster
    /// (etcds:// by TLS) that any number of nodes share [default: sumd.db in --data-dir]
    #[arg(long, env = "SUMD_STORE", value_name = "STORE")]
    pub store: Option<StoreAddress>,

    /// The options of etcd.
    #[command(flatten)]
    pub etcd: EtcdOptions,
}

/// How to use etcd.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Counters on etcd")]
pub struct EtcdOptions {
    /// What all keys begin with: nodes with the same prefix share their counters
    #[arg(
        long,
        env = "SUMD_ETCD_PREFIX",
        value_name = "PREFIX",
        default_value = "/sumd"
    )]
    pub etcd_prefix: String,

    /// Operations in one transaction, as etcd's --max-txn-ops allows
    #[arg(long, env = "SUMD_ETCD_MAX_TXN_OPS", value_name = "N", default_value_t = 128,
          value_parser = clap::value_parser!(u32).range(MIN_TXN_OPS as i64..=1_000_000))]
    pub etcd_max_txn_ops: u32,

    /// Lanes that new counters are divided into: a lane's groups are committed together, by one node, so take one or two
    /// for each node, and no more than that. Counters that are there keep theirs
    #[arg(long, env = "SUMD_ETCD_LANES", value_name = "N", default_value_t = DEFAULT_LANES,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_LANES)))]
    pub etcd_lanes: u32,

    /// Who has to have signed the members' certificates, a PEM file [default: whom the system trusts]
    #[arg(long, env = "SUMD_ETCD_CACERT", value_name = "FILE")]
    pub etcd_cacert: Option<PathBuf>,

    /// The certificate to show to etcd, a PEM file
    #[arg(
        long,
        env = "SUMD_ETCD_CERT",
        value_name = "FILE",
        requires = "etcd_key"
    )]
    pub etcd_cert: Option<PathBuf>,

    /// Its key, a PEM file
    #[arg(
        long,
        env = "SUMD_ETCD_KEY",
        value_name = "FILE",
        requires = "etcd_cert"
    )]
    pub etcd_key: Option<PathBuf>,

    /// The user to log in as. The password is taken from the environment: SUMD_ETCD_PASSWORD
    #[arg(long, env = "SUMD_ETCD_USER", value_name = "NAME")]
    pub etcd_user: Option<String>,
}

impl EtcdOptions {
    /// What the client has to know.
    ///
    /// # Errors
    /// Where the options do not go together.
    pub fn client(&self, address: &Address) -> Result<Options, String> {
        let mut options = Options::new(address);
        if let Some(tls) = &mut options.tls {
            tls.ca.clone_from(&self.etcd_cacert);
            let identity = self.etcd_cert.clone().zip(self.etcd_key.clone());
            tls.identity = identity.map(|(cert, key)| Identity { cert, key });
        } else if self.etcd_cacert.is_some() || self.etcd_cert.is_some() {
            return Err("--etcd-cacert and --etcd-cert are for etcds://".to_owned());
        }
        if let Some(user) = &self.etcd_user {
            let password = std::env::var("SUMD_ETCD_PASSWORD");
            let password = password.map_err(|_| {
                "--etcd-user wants a password in the environment: SUMD_ETCD_PASSWORD".to_owned()
            })?;
            options.login = Some(Login {
                user: user.clone(),
                password,
            });
        }
        Ok(options)
    }

    /// The data that a client reaches.
    #[must_use]
    pub fn place(&self, client: Client) -> Place {
        Place {
            client,
            prefix: self.etcd_prefix.clone(),
            max_operations: self.etcd_max_txn_ops as usize,
            lanes: self.etcd_lanes,
        }
    }
}

impl StoreOptions {
    /// Where counters are.
    #[must_use]
    pub fn address(&self) -> StoreAddress {
        let default = || StoreAddress::Sqlite(self.data_dir.join(DATABASE));
        self.store.clone().unwrap_or_else(default)
    }
}

/// What `sumd move` takes.
#[derive(Args, Clone, Debug)]
pub struct MoveOptions {
    /// Where the counters are: sqlite:PATH, or etcd://HOST:PORT,... (etcds:// by TLS). Nobody may be serving them
    #[arg(long, value_name = "STORE")]
    pub from: StoreAddress,

    /// Where they are to be, where there are none yet
    #[arg(long, value_name = "STORE")]
    pub to: StoreAddress,

    /// The options of etcd.
    #[command(flatten)]
    pub etcd: EtcdOptions,
}

/// A store, as `--store` takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreAddress {
    /// A database file.
    Sqlite(PathBuf),
    /// The members of an etcd cluster.
    Etcd(Address),
}

impl FromStr for StoreAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("etcd") {
            let address = text.parse();
            return address
                .map(Self::Etcd)
                .map_err(|error: ParseAddressError| error.to_string());
        }
        match text.strip_prefix("sqlite:") {
            Some(path) if !path.is_empty() => Ok(Self::Sqlite(path.into())),
            _ => Err("expected sqlite:PATH or etcd://HOST:PORT".to_owned()),
        }
    }
}

impl fmt::Display for StoreAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Etcd(address) => address.fmt(f),
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
          value_parser = size)]
    pub id_memory: usize,

    /// Memory for counters, some 130 bytes each; those not used for the longest are read again from disk. Up to half of it,
    /// and to 128 MiB, is for those of which only the log is up to date on disk [default: a quarter of the machine's memory,
    /// or of what its control group may have]
    #[arg(long, env = "SUMD_COUNTER_MEMORY", value_name = "SIZE", value_parser = size)]
    counter_memory: Option<usize>,
}

/// However much memory there is, no more than this waits to be written into its rows: the next start reads it all again,
/// from the log.
const MAX_RECENT_BYTES: usize = 64 << 20;

impl MemoryOptions {
    fn counter_memory(&self) -> usize {
        let quarter = || usize::try_from(memory::available() / 4).unwrap_or(usize::MAX);
        self.counter_memory.unwrap_or_else(quarter)
    }

    /// The bytes of counters whose rows are not up to date; while these are written, there may be as many again.
    #[must_use]
    pub fn recent_bytes(&self) -> usize {
        (self.counter_memory() / 4).min(MAX_RECENT_BYTES)
    }

    /// The same for a lane.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        Bounds {
            id_bytes: self.id_memory,
            counter_bytes: self.counter_memory() - 2 * self.recent_bytes(),
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
fn size(text: &str) -> Result<usize, String> {
    let size = text.parse::<ByteSize>().ok().map(|size| size.as_u64());
    size.filter(|bytes| (1 << 16..=1 << 40).contains(bytes))
        .and_then(|bytes| usize::try_from(bytes).ok())
        .ok_or_else(|| "expected a size from 64KiB to 1TiB, like 256MiB".to_owned())
}
