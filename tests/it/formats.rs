//! Data of every format that was ever written are opened, served and checked, and nothing in them is lost or counted
//! twice.
//!
//! Each format has a fixture in `tests/fixtures`, made by the sumd that wrote the format, which never changes. A new
//! format needs a name in [`FIXTURES`] and a file. The command below makes the file, with the program of that commit or,
//! without `SUMD_FIXTURE_PROGRAM`, with the present one:
//!
//! ```console
//! $ SUMD_FIXTURE=etcd-4 SUMD_FIXTURE_PROGRAM=/path/of/sumd cargo test --test it -- --ignored --exact formats::write
//! ```
//!
//! The name begins with the store. If it ends with `moved`, the data were created in the other store and then moved.

mod fixture;
mod scenario;
mod sessions;

use std::env;
use std::path::Path;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use tokio::process::Command;

use crate::crash::operation::Client;
use crate::etcd::cluster::Cluster;
use crate::faults::clock::{Clock, Shim};
use crate::support::process::{Process, SUMD, command};
use crate::support::soon;
use scenario::Part;

const FIXTURES: [&str; 14] = [
    "sqlite-1",
    "sqlite-2",
    "sqlite-3",
    "sqlite-3-moved",
    "sqlite-4",
    "sqlite-4-moved",
    "sqlite-5",
    "sqlite-5-moved",
    "etcd-1",
    "etcd-2-moved",
    "etcd-3",
    "etcd-3-moved",
    "etcd-4",
    "etcd-4-moved",
];

/// The time at which the sessions of all fixtures began. Servers that write or read fixtures have their clocks set near
/// it, so that nothing remembered in them is ever too old.
const BEGUN: Duration = Duration::from_secs(1_790_000_000);

/// A store for a fixture, a folder for files, and a clock.
struct Location {
    folder: TempDir,
    etcd: Option<Cluster>,
    shim: Shim,
    clock: Clock,
}

impl Location {
    async fn new(name: &str) -> Self {
        let mut etcd = None;
        if is_of_etcd(name) {
            etcd = Some(Cluster::start(1, &[]).await);
        }
        let folder = tempfile::tempdir().expect("a folder");
        let clock = Clock::new(folder.path().join("clock"));
        let since = BEGUN + Duration::from_mins(1);
        let by = SystemTime::UNIX_EPOCH + since;
        clock.set(by.elapsed().expect("it is past"), false);
        Self {
            shim: Shim::compile().await,
            folder,
            etcd,
            clock,
        }
    }

    /// A program with that clock.
    fn command(&self, program: &str) -> Command {
        let mut command = command(program);
        command
            .env("LD_PRELOAD", self.shim.path())
            .env("CLOCK_FILE", self.clock.file());
        command
    }

    async fn serve(&self, program: &str, store: &str) -> (Process, Client) {
        let mut command = self.command(program);
        let mut flags = vec!["--store", store, "--drain-delay", "0s"];
        if is_of_etcd(store) {
            // The first versions had no names of nodes.
            flags.extend(["--node-id", "a"]);
        }
        let mut process = Process::start(command.arg("serve"), &flags).await;
        if is_of_etcd(store) {
            process.logged("counting").await;
        }
        let client = Client::connect(format!("http://{}", process.address)).await;
        (process, client.expect("it listens"))
    }

    /// Runs a command of a program to its end.
    async fn run(&self, program: &str, args: &[&str]) {
        let output = soon(self.command(program).args(args).output()).await;
        let output = output.expect("the program is built");
        assert!(output.status.success(), "{args:?}: {output:?}");
    }

    /// One run of a server, which ends by a signal; after a kill, rows are not written back.
    async fn live(&self, program: &str, part: Part, end: &str) {
        let (mut server, mut client) = self.serve(program, &self.store()).await;
        scenario::fill(&mut client, part).await;
        server.signal(end);
        server.exit().await;
    }

    fn file(&self, name: &str) -> String {
        let path = self.folder.path().join(name);
        path.into_os_string().into_string().expect("text")
    }

    fn store(&self) -> String {
        match &self.etcd {
            Some(etcd) => etcd.address().to_string(),
            None => format!("sqlite:{}", self.file("sumd.db")),
        }
    }

    async fn load(&self, text: &str) {
        match &self.etcd {
            Some(etcd) => fixture::load_etcd(text, &etcd.client()).await,
            None => fixture::load_database(text, Path::new(&self.file("sumd.db"))),
        }
    }

    async fn dump(&self) -> String {
        match &self.etcd {
            Some(etcd) => fixture::dump_etcd(&etcd.client()).await,
            None => fixture::dump_database(Path::new(&self.file("sumd.db"))).expect("a database"),
        }
    }
}

fn is_of_etcd(name: &str) -> bool {
    name.starts_with("etcd")
}

fn parts(name: &str) -> &'static [Part] {
    if name.ends_with("moved") {
        &["old", "new"]
    } else {
        &["new"]
    }
}

async fn stop(mut process: Process) {
    process.signal("TERM");
    assert!(process.exit().await.success());
}

/// Formats of SQLite.
#[tokio::test]
async fn every_database_is_opened_and_goes_on() {
    for name in FIXTURES.into_iter().filter(|name| !is_of_etcd(name)) {
        goes_on(name).await;
    }
}

/// Formats of etcd.
#[tokio::test]
#[ignore = "make test runs it"]
async fn everything_in_etcd_is_opened_and_goes_on() {
    for name in FIXTURES.into_iter().filter(|name| is_of_etcd(name)) {
        goes_on(name).await;
    }
}

async fn goes_on(name: &str) {
    eprintln!("{name}");
    let place = Location::new(name).await;
    let text = fixture::read(name);
    place.load(&text).await;
    let (store, parts) = (place.store(), parts(name));
    // Files of the first formats can be checked only after they are migrated.
    if is_of_etcd(name) || fixture::format(&text) >= 4 {
        place.run(SUMD, &["check", "--store", &store]).await;
    }
    let (server, mut client) = place.serve(SUMD, &store).await;
    let counters = scenario::list(&mut client).await;
    assert_eq!(counters, scenario::expected(parts, false), "{name}");
    for part in parts {
        scenario::assert_remembered(&mut client, part).await;
        scenario::go_on(&mut client, part).await;
    }
    let expected = scenario::expected(parts, true);
    assert_eq!(scenario::list(&mut client).await, expected, "{name}");
    stop(server).await;

    place.run(SUMD, &["check", "--store", &store]).await;
    let backup = place.file("backup.db");
    place
        .run(SUMD, &["backup", &backup, "--store", &store])
        .await;
    let copy = format!("sqlite:{}", place.file("restored.db"));
    place
        .run(SUMD, &["restore", &backup, "--store", &copy])
        .await;
    for store in [store, copy] {
        let (server, mut client) = place.serve(SUMD, &store).await;
        assert_eq!(scenario::list(&mut client).await, expected, "{name}");
        for part in parts {
            scenario::assert_remembered(&mut client, part).await;
            scenario::assert_session_is_known(&mut client, part).await;
        }
        assert_eq!(scenario::list(&mut client).await, expected, "{name}");
        stop(server).await;
        place.run(SUMD, &["check", "--store", &store]).await;
    }
}

/// The present format of SQLite has a fixture.
#[tokio::test]
async fn the_format_of_new_databases_has_a_fixture() {
    let name = format!("sqlite-{}", format_of_new_data("sqlite").await);
    assert!(
        FIXTURES.contains(&&*name),
        "{name}: see tests/it/formats.rs"
    );
}

/// The present format in etcd has a fixture.
#[tokio::test]
#[ignore = "make test runs it"]
async fn the_format_of_new_data_in_etcd_has_a_fixture() {
    let name = format!("etcd-{}", format_of_new_data("etcd").await);
    assert!(
        FIXTURES.contains(&&*name),
        "{name}: see tests/it/formats.rs"
    );
}

async fn format_of_new_data(store: &str) -> u32 {
    let place = Location::new(store).await;
    let (server, _client) = place.serve(SUMD, &place.store()).await;
    stop(server).await;
    let text = place.dump().await;
    fixture::format(&text)
}

/// Writes a fixture, if one is named.
#[tokio::test]
#[ignore = "writes a fixture"]
async fn write() {
    // Without a name, this is one of the ignored tests that `make test` runs.
    let Ok(name) = env::var("SUMD_FIXTURE") else {
        return;
    };
    let program = env::var("SUMD_FIXTURE_PROGRAM").unwrap_or_else(|_| SUMD.to_owned());
    let place = Location::new(&name).await;
    let parts = parts(&name);
    if let [first, _] = parts {
        let other = Location::new(if is_of_etcd(&name) { "sqlite" } else { "etcd" }).await;
        other.live(&program, first, "TERM").await;
        let (from, to) = (other.store(), place.store());
        place
            .run(&program, &["move", "--from", &from, "--to", &to])
            .await;
    }
    place.live(&program, parts[parts.len() - 1], "KILL").await;
    fixture::write(&name, &place.dump().await);
}
