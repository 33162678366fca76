//! Failing disks, simulated by the shim in `tests/disk`: nothing is acknowledged that is not on disk, and no
//! acknowledged change is lost.

use std::fs;
use std::path::PathBuf;

use sumd::proto::sum::v1::counter_service_client::CounterServiceClient;
use sumd::proto::sum::v1::{GetCounterRequest, IncrementCounterRequest, IncrementCounterResponse};
use tempfile::TempDir;
use tokio::process::Command;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::client;
use crate::support::process::{Process, SUMD, command};
use crate::support::{reason, shim, soon};

/// A disk whose faults are switched on and off.
pub struct Disk(TempDir);

impl Disk {
    pub async fn new() -> Self {
        let disk = Self(tempfile::tempdir().expect("a folder"));
        fs::create_dir(disk.path("faults")).expect("it is new");
        shim::compile("disk", disk.0.path()).await;
        disk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn data(&self) -> String {
        self.path("data").to_str().expect("a path").to_owned()
    }

    pub fn set(&self, fault: &str, on: bool) {
        let path = self.path("faults").join(fault);
        if on {
            fs::write(path, "").expect("a file");
        } else {
            fs::remove_file(path).expect("it was set");
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = command(SUMD);
        command
            .args(args)
            .env("LD_PRELOAD", self.path("disk.so"))
            .env("DISK_ROOT", self.path("data"))
            .env("DISK_FAULTS", self.path("faults"))
            .env("DISK_LOG", self.path("log"));
        command
    }

    pub async fn serve(&self) -> Process {
        // The log has only the writes and syncs of this process.
        let _ = fs::remove_file(self.path("log"));
        let flags = ["--data-dir", &self.data(), "--drain-delay", "0s"];
        Process::start(&mut self.command(&["serve"]), &flags).await
    }

    /// The calls on the write-ahead log so far, without consecutive repetitions.
    pub fn done_to_the_log(&self) -> Vec<String> {
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        let lines = log.lines().filter(|line| line.ends_with("sumd.db-wal"));
        let words = lines.filter_map(|line| line.split(' ').next());
        let mut done: Vec<_> = words.map(str::to_owned).collect();
        done.dedup();
        done
    }

    async fn run(&self, args: &[&str]) -> (Option<i32>, String) {
        let output = soon(self.command(args).output())
            .await
            .expect("it is built");
        let told = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(told).expect("text"))
    }
}

async fn increment(
    client: &mut CounterServiceClient<Channel>,
    id: &str,
) -> Result<IncrementCounterResponse, Status> {
    let request = IncrementCounterRequest {
        counter: "acme/a".into(),
        delta: 1,
        request_id: id.into(),
        ..IncrementCounterRequest::default()
    };
    let answer = soon(client.increment_counter(request)).await;
    answer.map(tonic::Response::into_inner)
}

/// A server that was killed between the write and the sync of a commit has left it in the page cache, and the next
/// server reads it from there. That server writes and syncs it again before it answers.
#[tokio::test]
async fn what_was_not_synced_is_synced_before_it_is_answered() {
    let disk = Disk::new().await;
    let mut server = disk.serve().await;
    let mut first = client(&server).await;
    increment(&mut first, "one").await.expect("a value");
    disk.set("kill", true);
    increment(&mut first, "two")
        .await
        .expect_err("it is killed");
    assert_eq!(server.exit().await.code(), Some(137));
    disk.set("kill", false);

    let server = disk.serve().await;
    // A page whose sync had failed would not be written by a sync alone, so all of it is written first.
    assert_eq!(disk.done_to_the_log()[..2], ["write", "sync"]);
    let again = increment(&mut client(&server).await, "two").await;
    let again = again.expect("a value");
    assert_eq!((again.value, again.replayed), (2, true));
}

/// After a failed sync, the contents of the disk are unknown: the call gets UNKNOWN, and the server ends without
/// another write. The next server writes all of it again.
#[tokio::test]
async fn a_sync_that_fails_ends_the_server() {
    let disk = Disk::new().await;
    let mut server = disk.serve().await;
    let mut first = client(&server).await;
    increment(&mut first, "one").await.expect("a value");
    disk.set("bad", true);
    let status = increment(&mut first, "two").await.expect_err("no sync");
    let (why, metadata) = reason(&status);
    assert_eq!((&*why, &*metadata["outcome"]), ("STORE_FAILED", "UNKNOWN"));
    disk.set("bad", false);
    let so_far = fs::read_to_string(disk.path("log")).expect("a log");
    assert_eq!(server.exit().await.code(), Some(1));
    let log = fs::read_to_string(disk.path("log")).expect("a log");
    assert_eq!(log, so_far, "it goes on writing");

    let server = disk.serve().await;
    assert_eq!(disk.done_to_the_log()[..2], ["write", "sync"]);
    let again = increment(&mut client(&server).await, "two").await;
    assert_eq!(again.expect("a value").value, 2);
}

/// A stop signal does not hide a failure: a store that fails during the drain makes the exit code 1.
#[tokio::test]
async fn a_store_that_fails_during_the_drain_is_a_failure() {
    let disk = Disk::new().await;
    // Far longer than a call takes.
    let flags = ["--data-dir", &disk.data(), "--drain-delay", "3s"];
    let mut server = Process::start(&mut disk.command(&["serve"]), &flags).await;
    let mut client = client(&server).await;
    server.signal("TERM");
    server.logged("draining").await;
    disk.set("bad", true);
    let status = increment(&mut client, "").await.expect_err("no sync");
    assert_eq!(reason(&status).0, "STORE_FAILED");
    server.logged("the store has failed").await;
    assert_eq!(server.exit().await.code(), Some(1));
}

/// On a full disk, increments are refused as not applied, reads are answered, and health reports it. Once there is
/// space, increments are accepted again, and each has counted once.
#[tokio::test]
async fn a_full_disk_refuses_increments_until_there_is_room() {
    let disk = Disk::new().await;
    let mut server = disk.serve().await;
    let mut counters = client(&server).await;
    increment(&mut counters, "one").await.expect("a value");
    let address = format!("http://{}", server.address);
    let channel = Channel::from_shared(address)
        .expect("a URI")
        .connect()
        .await;
    let mut health = HealthClient::new(channel.expect("it listens"));
    let service = HealthCheckRequest {
        service: "sum.v1.CounterService".into(),
    };
    let watched = soon(health.watch(service)).await;
    let mut health = watched.expect("a stream").into_inner();
    let mut next_is = async |expected: ServingStatus| {
        let told = soon(health.message()).await.expect("it goes on");
        assert_eq!(told.expect("it goes on").status(), expected);
    };
    next_is(ServingStatus::Serving).await;

    disk.set("full", true);
    for _ in 0..3 {
        let status = increment(&mut counters, "two").await.expect_err("no room");
        let (why, metadata) = reason(&status);
        assert_eq!(
            (status.code(), &*why, &*metadata["outcome"]),
            (Code::ResourceExhausted, "STORE_FULL", "NOT_APPLIED")
        );
    }
    next_is(ServingStatus::NotServing).await;
    let get = GetCounterRequest {
        counter: "acme/a".into(),
        ..GetCounterRequest::default()
    };
    let found = soon(counters.get_counter(get)).await.expect("it is read");
    assert_eq!(found.into_inner().counter.expect("it is there").value, 1);

    // The server finds out without any request.
    disk.set("full", false);
    next_is(ServingStatus::Serving).await;
    let two = increment(&mut counters, "two").await.expect("a value");
    assert_eq!((two.value, two.replayed), (2, false));
    server.signal("KILL");
    server.exit().await;

    let server = disk.serve().await;
    let two = increment(&mut client(&server).await, "two").await;
    let two = two.expect("a value");
    assert_eq!((two.value, two.replayed), (2, true));
    drop(server);
    let (code, told) = disk.run(&["check", "--data-dir", &disk.data()]).await;
    assert_eq!(code, Some(0), "{told}");
}

/// A backup that finds no space, or whose name cannot be made durable, names the file in its error and leaves no file.
#[tokio::test]
async fn a_backup_that_cannot_be_written_leaves_nothing() {
    let disk = Disk::new().await;
    let server = disk.serve().await;
    increment(&mut client(&server).await, "")
        .await
        .expect("a value");
    let backup = disk.path("backup.db");
    let to = backup.to_str().expect("a path");
    let args = ["backup", to, "--data-dir", &disk.data()];
    for fault in ["full", "folder"] {
        disk.set(fault, true);
        let (code, told) = disk.run(&args).await;
        assert_eq!(code, Some(1), "{told}");
        assert!(told.contains("cannot write") && told.contains(to), "{told}");
        let left = fs::read_dir(disk.0.path()).expect("a folder");
        let left = left.flatten().map(|file| file.file_name());
        let left: Vec<_> = left
            .filter(|name| name.to_string_lossy().starts_with("backup"))
            .collect();
        assert!(left.is_empty(), "{fault}: {left:?}");
        disk.set(fault, false);
    }
    let (code, told) = disk.run(&args).await;
    assert_eq!(code, Some(0), "{told}");
}

/// A read-only folder can be checked and copied, unless a server writes to it through another mount.
#[tokio::test]
async fn a_read_only_folder_can_be_checked_and_copied() {
    let disk = Disk::new().await;
    let data = disk.data();
    let mut server = disk.serve().await;
    increment(&mut client(&server).await, "")
        .await
        .expect("a value");
    let check = ["check", "--data-dir", &data];

    disk.set("read-only", true);
    // As seen through another mount, beside its server.
    let (code, told) = disk.run(&check).await;
    assert_eq!(code, Some(0), "{told}");
    assert!(told.starts_with("counters=1 "), "{told}");
    // The file through which readers and the server coordinate is missing. The server is stopped, so that it does not
    // notice.
    server.signal("STOP");
    let shared = disk.path("data/sumd.db-shm");
    fs::rename(&shared, disk.path("shm")).expect("it is there");
    let (code, told) = disk.run(&check).await;
    assert_eq!(code, Some(1), "{told}");
    assert!(
        told.contains("a server uses it through another path or mount"),
        "{told}"
    );
    fs::rename(disk.path("shm"), &shared).expect("it is there");
    disk.set("read-only", false);
    server.signal("KILL");
    server.exit().await;
    fs::remove_file(&shared).expect("it is there");
    disk.set("read-only", true);
    let (code, told) = disk.run(&check).await;
    assert_eq!(code, Some(1), "{told}");
    assert!(
        told.contains("its log (-wal) is not merged into it"),
        "{told}"
    );

    disk.set("read-only", false);
    let mut server = disk.serve().await;
    server.signal("TERM");
    assert!(server.exit().await.success());
    disk.set("read-only", true);
    let (code, told) = disk.run(&check).await;
    assert_eq!(code, Some(0), "{told}");
    assert!(told.starts_with("counters=1 "), "{told}");
    let backup = disk.path("backup.db");
    let to = backup.to_str().expect("a path");
    let (code, told) = disk.run(&["backup", to, "--data-dir", &data]).await;
    assert_eq!(code, Some(0), "{told}");
    let (code, told) = disk
        .run(&["check", "--store", &format!("sqlite:{to}")])
        .await;
    assert!(code == Some(0) && told.starts_with("counters=1 "), "{told}");
}
