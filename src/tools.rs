//! The commands that work on stores themselves, and not by a server.

use sumd::config::{
    BackupOptions, EtcdOptions, MoveOptions, RestoreOptions, StoreAddress, StoreOptions,
};
use sumd::store::etcd::Place;
use sumd::store::etcd::client::{Address, Client};
use sumd::store::{Report, Tally, sqlite, transfer};

pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Error>;

pub(crate) async fn backup(BackupOptions { to, store }: BackupOptions) -> Result<String> {
    match store.address() {
        StoreAddress::Sqlite(path) => sqlite::backup(&path, &to)?,
        StoreAddress::Etcd(address) => {
            transfer::backup(&place(&address, &store.etcd)?, &to).await?;
        }
    }
    Ok(String::new())
}

pub(crate) async fn restore(RestoreOptions { from, store }: RestoreOptions) -> Result<Report> {
    Ok(match store.address() {
        StoreAddress::Sqlite(path) => sqlite::restore(&from, &path)?,
        StoreAddress::Etcd(address) => {
            transfer::restore(&from, &place(&address, &store.etcd)?).await?
        }
    })
}

pub(crate) async fn check(store: StoreOptions) -> Result<Report> {
    Ok(match store.address() {
        StoreAddress::Sqlite(path) => sqlite::check(&path)?,
        StoreAddress::Etcd(address) => {
            transfer::check_in_use(&place(&address, &store.etcd)?).await?
        }
    })
}

pub(crate) async fn transfer(options: MoveOptions) -> Result<Tally> {
    let etcd = &options.etcd;
    match (&options.from, &options.to) {
        (StoreAddress::Sqlite(path), StoreAddress::Etcd(address)) => {
            let to = format!("{address} under {}", etcd.etcd_prefix);
            Ok(transfer::move_to_etcd(path, &place(address, etcd)?, &to).await?)
        }
        (StoreAddress::Etcd(address), StoreAddress::Sqlite(path)) => {
            let to = StoreAddress::Sqlite(transfer::absolute(path)).to_string();
            Ok(transfer::move_to_sqlite(&place(address, etcd)?, path, &to).await?)
        }
        _ => Err("a move is from sqlite: to etcd:, or from etcd: to sqlite:".into()),
    }
}

pub(crate) async fn reopen(store: StoreOptions) -> Result<String> {
    let StoreAddress::Etcd(address) = store.address() else {
        return Err("a move from a file is not undone: run it again, to where it was going".into());
    };
    let to = transfer::reopen(&place(&address, &store.etcd)?).await?;
    Ok(format!(
        "the counters are served from here again, and not from {to}"
    ))
}

fn place(address: &Address, options: &EtcdOptions) -> Result<Place> {
    Ok(options.place(Client::new(options.client(address)?)?))
}
