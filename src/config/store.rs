//! The store of the counters.

use std::fmt;
use std::ops::Deref;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

use super::values;
use crate::etcd::{Address, Client, Identity, Login, Options, ParseAddressError};
use crate::maintenance::transfer;
use crate::ranged;
use crate::store::etcd::{DEFAULT_LANES, Location, MAX_LANES, MIN_TXN_OPS};
use crate::store::sqlite::DATABASE;

/// The variable with the password of --etcd-user. There is no such option, because every user can read command lines.
pub(super) const ETCD_PASSWORD: &str = "SUMD_ETCD_PASSWORD";

/// The store of the counters.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Counters")]
pub struct StoreOptions {
    /// Folder of the counters, unless --store is given
    #[arg(
        long,
        env = "SUMD_DATA_DIR",
        value_name = "FOLDER",
        default_value = "./sumd-data"
    )]
    pub data_dir: PathBuf,

    /// Store of the counters, in place of --data-dir: sqlite:PATH or etcd://HOST:PORT,... [default: sumd.db in
    /// --data-dir]
    ///
    /// sqlite:PATH is a database file. etcd://HOST:PORT,HOST:PORT,... is an etcd cluster (etcds:// with TLS), which any
    /// number of nodes can share.
    #[arg(long, env = "SUMD_STORE", value_name = "STORE")]
    pub store: Option<StoreAddress>,

    /// The options of etcd.
    #[command(flatten)]
    pub etcd: EtcdOptions,
}

/// A store that may not have counters yet.
#[derive(Args, Clone, Debug)]
pub struct NewStoreOptions {
    /// The store.
    #[command(flatten)]
    pub store: StoreOptions,

    /// How counters are laid out in etcd.
    #[command(flatten)]
    pub layout: EtcdLayout,
}

/// How counters are written to etcd.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Counters on etcd")]
pub struct EtcdLayout {
    /// Maximum operations in one transaction, no more than etcd's --max-txn-ops
    #[arg(long, env = "SUMD_ETCD_MAX_TXN_OPS", value_name = "N", default_value_t = MAX_TXN_OPS,
          value_parser = ranged::number(MIN_TXN_OPS as u32..=1_000_000))]
    pub etcd_max_txn_ops: u32,

    /// Number of lanes into which new counters are divided [default: 8]
    ///
    /// The groups of a lane are committed together, by one node: use one or two lanes for each node, and no more.
    /// Existing counters keep their number of lanes; if it differs, a warning says so.
    #[arg(long, env = "SUMD_ETCD_LANES", value_name = "N",
          value_parser = ranged::number(1..=MAX_LANES))]
    pub etcd_lanes: Option<u32>,
}

/// Equal to etcd's own default.
const MAX_TXN_OPS: u32 = 128;

impl Default for EtcdLayout {
    fn default() -> Self {
        Self {
            etcd_max_txn_ops: MAX_TXN_OPS,
            etcd_lanes: None,
        }
    }
}

/// How to reach etcd.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Counters on etcd")]
pub struct EtcdOptions {
    /// Prefix of all keys; nodes with the same prefix share their counters
    #[arg(
        long,
        env = "SUMD_ETCD_PREFIX",
        value_name = "PREFIX",
        default_value = "/sumd",
        value_parser = values::prefix
    )]
    pub etcd_prefix: String,

    /// PEM file with the CAs that sign the members' certificates [default: the CAs that the system trusts]
    #[arg(long, env = "SUMD_ETCD_CACERT", value_name = "FILE")]
    pub etcd_cacert: Option<PathBuf>,

    /// PEM file with the client certificate for etcd
    #[arg(
        long,
        env = "SUMD_ETCD_CERT",
        value_name = "FILE",
        requires = "etcd_key"
    )]
    pub etcd_cert: Option<PathBuf>,

    /// PEM file with the key of --etcd-cert
    #[arg(
        long,
        env = "SUMD_ETCD_KEY",
        value_name = "FILE",
        requires = "etcd_cert"
    )]
    pub etcd_key: Option<PathBuf>,

    /// User to log in as, with the password in the environment variable SUMD_ETCD_PASSWORD
    #[arg(long, env = "SUMD_ETCD_USER", value_name = "NAME", value_parser = values::non_empty)]
    pub etcd_user: Option<String>,
}

impl EtcdOptions {
    /// The options of the etcd client.
    ///
    /// # Errors
    /// Returns a description of the problem if the options do not go together.
    pub fn client(&self, address: &Address) -> Result<Options, String> {
        let mut options = Options::new(address);
        if let Some(tls) = &mut options.tls {
            tls.ca.clone_from(&self.etcd_cacert);
            let identity = self.etcd_cert.clone().zip(self.etcd_key.clone());
            tls.identity = identity.map(|(cert, key)| Identity { cert, key });
        } else if self.etcd_cacert.is_some() || self.etcd_cert.is_some() {
            return Err(
                "--etcd-cacert and --etcd-cert need an address that begins with etcds://"
                    .to_owned(),
            );
        }
        let password = std::env::var(ETCD_PASSWORD).ok();
        let password = password.filter(|password| !password.is_empty());
        options.login = match (self.etcd_user.clone(), password) {
            (Some(user), Some(password)) => Some(Login { user, password }),
            (None, None) => None,
            (Some(_), None) => {
                return Err(format!(
                    "--etcd-user needs a password in the environment variable {ETCD_PASSWORD}"
                ));
            }
            (None, Some(_)) => {
                return Err(format!(
                    "{ETCD_PASSWORD} needs --etcd-user, which is missing"
                ));
            }
        };
        Ok(options)
    }

    /// The location of the counters in etcd.
    #[must_use]
    pub fn place(&self, client: Client, layout: &EtcdLayout) -> Location {
        Location {
            client,
            prefix: self.etcd_prefix.clone(),
            max_operations: layout.etcd_max_txn_ops as usize,
            lanes: layout.etcd_lanes.unwrap_or(DEFAULT_LANES),
        }
    }
}

impl StoreOptions {
    /// The address of the store.
    #[must_use]
    pub fn address(&self) -> StoreAddress {
        let default = || StoreAddress::Sqlite(self.data_dir.join(DATABASE));
        self.store.clone().unwrap_or_else(default)
    }

    /// Refuses options that do not go together, and options in `given` that would have no effect.
    pub(super) fn check(&self, given: &[String]) -> Result<(), String> {
        if self.store.is_some() && given.iter().any(|id| id == "data_dir") {
            return Err(
                "--data-dir puts the counters into its sumd.db, and --store (SUMD_STORE) puts them elsewhere: leave \
                 out one of the two, or use --store sqlite:FOLDER/sumd.db if SUMD_STORE is set by somebody else"
                    .to_owned(),
            );
        }
        match self.address() {
            StoreAddress::Sqlite(_) => match given.iter().find(|id| id.starts_with("etcd_")) {
                Some(id) => Err(format!(
                    "--{} needs --store etcd://HOST:PORT: it is for counters on etcd",
                    id.replace('_', "-")
                )),
                None => Ok(()),
            },
            StoreAddress::Etcd(address) => self.etcd.client(&address).map(drop),
        }
    }
}

impl Deref for NewStoreOptions {
    type Target = StoreOptions;

    fn deref(&self) -> &StoreOptions {
        &self.store
    }
}

impl MoveOptions {
    pub(super) fn check(&self, given: &[String]) -> Result<(), String> {
        let is_layout = |id: &&String| ["etcd_lanes", "etcd_max_txn_ops"].contains(&id.as_str());
        if matches!(self.to, StoreAddress::Sqlite(_))
            && let Some(id) = given.iter().find(is_layout)
        {
            return Err(format!(
                "--{} needs --to etcd://HOST:PORT: it is for a move to etcd",
                id.replace('_', "-")
            ));
        }
        match (&self.from, &self.to) {
            (StoreAddress::Sqlite(_), StoreAddress::Etcd(address))
            | (StoreAddress::Etcd(address), StoreAddress::Sqlite(_)) => {
                self.etcd.client(address).map(drop)
            }
            _ => Err("a move goes from sqlite: to etcd:, or from etcd: to sqlite:".to_owned()),
        }
    }
}

/// Options of `sumd move`.
#[derive(Args, Clone, Debug)]
pub struct MoveOptions {
    /// Store to move from: sqlite:PATH or etcd://HOST:PORT,... (etcds:// with TLS); no server may be using it
    #[arg(long, value_name = "STORE")]
    pub from: StoreAddress,

    /// Store to move to, which must have no counters yet
    #[arg(long, value_name = "STORE")]
    pub to: StoreAddress,

    /// Repeat a complete move whose target is lost
    ///
    /// The counters are moved as they were at the first move; increments that were counted at the target since then are
    /// missing. If the first target is served after all, the two count separately, and a request that is sent to both
    /// is counted in both.
    #[arg(long)]
    pub force: bool,

    /// The options of etcd.
    #[command(flatten)]
    pub etcd: EtcdOptions,

    /// How counters are laid out in etcd.
    #[command(flatten)]
    pub layout: EtcdLayout,
}

/// A store, as given to `--store`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreAddress {
    /// A database file.
    Sqlite(PathBuf),
    /// The members of an etcd cluster.
    Etcd(Address),
}

impl StoreAddress {
    /// The same store with an absolute path.
    #[must_use]
    pub fn absolute(&self) -> Self {
        match self {
            Self::Sqlite(path) => Self::Sqlite(transfer::absolute(path)),
            Self::Etcd(_) => self.clone(),
        }
    }
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
