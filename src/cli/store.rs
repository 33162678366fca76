//! `sumd backup`, `restore`, `check`, `move`, `reopen` and `reset-horizon`: work on a store, without a server.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::config::{
    BackupOptions, EtcdLayout, EtcdOptions, MoveOptions, ReopenOptions, ResetOptions,
    RestoreOptions, StoreAddress, StoreOptions,
};
use crate::etcd::{Address, Client};
use crate::maintenance::{Report, Tally, sqlite, transfer};
use crate::model::{Millis, date};
use crate::store::etcd::Location;

/// An error that the command prints to standard error.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Error>;

/// Makes a backup, and returns a report of the file as it was written.
///
/// # Errors
/// Returns an error if the store cannot be read or the file cannot be written.
pub async fn backup(BackupOptions { to, store }: BackupOptions) -> Result<Report> {
    Ok(match store.address() {
        StoreAddress::Sqlite(path) => sqlite::backup(&path, &to)?,
        StoreAddress::Etcd(address) => {
            transfer::backup(&reading_place(&address, &store.etcd)?, &to).await?
        }
    })
}

/// Restores a store from a backup.
///
/// # Errors
/// Returns an error if the backup cannot be used, or the store has data already or cannot be written.
pub async fn restore(RestoreOptions { from, store }: RestoreOptions) -> Result<Report> {
    Ok(match store.address() {
        StoreAddress::Sqlite(path) => sqlite::restore(&from, &path)?,
        StoreAddress::Etcd(address) => {
            let place = place(&address, &store.etcd, &store.layout)?;
            transfer::restore(&from, &place).await?
        }
    })
}

/// Reads and checks everything in a store.
///
/// # Errors
/// Returns an error if the store cannot be read. Damage is in the report.
pub async fn check(store: StoreOptions) -> Result<Report> {
    Ok(match store.address() {
        StoreAddress::Sqlite(path) => sqlite::check(&path)?,
        StoreAddress::Etcd(address) => {
            transfer::check_in_use(&reading_place(&address, &store.etcd)?).await?
        }
    })
}

/// Moves the data from one store to the other.
///
/// # Errors
/// Returns an error if either store cannot be used. The source is still served as before, or the move can be run again.
pub async fn transfer(options: MoveOptions) -> Result<Tally> {
    let etcd = &options.etcd;
    match (&options.from, &options.to) {
        (StoreAddress::Sqlite(path), StoreAddress::Etcd(address)) => {
            let to = format!("{address} under {}", etcd.etcd_prefix);
            let place = place(address, etcd, &options.layout)?;
            Ok(transfer::move_to_etcd(path, &place, &to, options.force).await?)
        }
        (StoreAddress::Etcd(address), StoreAddress::Sqlite(path)) => {
            let to = options.to.absolute().to_string();
            let place = place(address, etcd, &options.layout)?;
            Ok(transfer::move_to_sqlite(&place, path, &to, options.force).await?)
        }
        _ => unreachable!("the command line is refused"),
    }
}

/// Undoes an interrupted move.
///
/// # Errors
/// Returns an error if the store cannot be opened, or the data are served elsewhere.
pub async fn reopen(ReopenOptions { store, force }: ReopenOptions) -> Result<String> {
    let StoreAddress::Etcd(address) = store.address() else {
        return Err("a move from a file cannot be undone: if it was interrupted, run it again with the same target; \
                    otherwise serve the target".into());
    };
    let to = transfer::reopen(&reading_place(&address, &store.etcd)?, force).await?;
    Ok(format!(
        "the counters are served from here again, and not from {to}"
    ))
}

/// Moves times that are later than now back to now.
///
/// # Errors
/// Returns an error if the file cannot be opened, or is in use.
pub fn reset_horizon(options: &ResetOptions) -> Result<String> {
    let now = now();
    let before = sqlite::reset_horizon(&options.file, now)?;
    let times = [
        ("ids were refused up to", before.id_horizon),
        ("sessions were refused up to", before.session_horizon),
        ("an id was remembered with the time", before.id),
        ("a session was remembered with the time", before.session),
        ("the last batch had the time", before.last),
    ];
    let late = times.into_iter().filter(|(_, time)| *time > now);
    let mut lines: Vec<_> = late
        .map(|(what, time)| format!("{what} {}; changed to {}", date(time), date(now)))
        .collect();
    if lines.is_empty() {
        return Ok(format!(
            "the database has no time later than now ({}): nothing was changed",
            date(now)
        ));
    }
    lines.push(
        "ids and sessions with a time between the two are accepted as new: if such an id was counted and then \
         forgotten, its increment counts twice when it is sent again"
            .to_owned(),
    );
    Ok(lines.join("\n"))
}

/// The time of day, by the clock of this machine.
#[must_use]
pub fn now() -> Millis {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    since_1970.map_or(0, |time| {
        Millis::try_from(time.as_millis()).unwrap_or(Millis::MAX)
    })
}

fn place(address: &Address, options: &EtcdOptions, layout: &EtcdLayout) -> Result<Location> {
    Ok(options.place(Client::new(options.client(address)?)?, layout))
}

/// The location of data that are only read, so their layout does not matter.
fn reading_place(address: &Address, options: &EtcdOptions) -> Result<Location> {
    place(address, options, &EtcdLayout::default())
}
