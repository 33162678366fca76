//! Data folders: who holds one, who may read it, and what is left in it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::{Data, client, does_not_serve, fails, increment, sumd};

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).expect("a folder").flatten();
    let names = names.map(|file| file.file_name().to_string_lossy().into_owned());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path)
        .expect("it is there")
        .permissions()
        .mode()
        & 0o777
}

/// A backup of a server with one counter, and its path as text.
async fn backup(data: &Data) -> String {
    data.fill().await;
    let backup = data.0.path().join("backup.db");
    let backup = backup.to_str().expect("a path").to_owned();
    let made = sumd(&["backup", &backup, "--data-dir", data.folder()]).await;
    assert!(made.status.success(), "{made:?}");
    backup
}

/// A write-ahead log whose database is missing or empty must not be emptied: no new database begins beside it.
#[tokio::test]
async fn a_log_without_its_database_is_no_beginning() {
    let data = Data::new();
    let mut server = data.serve().await;
    increment(&mut client(&server).await, "acme/a")
        .await
        .expect("a value");
    server.signal("KILL");
    server.exit().await;
    let database = data.0.path().join("sumd.db");
    let log = data.0.path().join("sumd.db-wal");
    let (whole, bytes) = (fs::read(&database), fs::read(&log));
    let (whole, bytes) = (whole.expect("a database"), bytes.expect("a log"));
    let before = names(data.0.path());
    for is_empty in [true, false] {
        if is_empty {
            fs::write(&database, "").expect("written");
        } else {
            fs::remove_file(&database).expect("it is there");
        }
        let problem = does_not_serve(&data).await;
        assert!(problem.contains("is missing or empty"), "{problem}");
        assert_eq!(fs::read(&log).expect("a log"), bytes);
        assert_eq!(
            names(data.0.path()).contains(&"sumd.db".to_owned()),
            is_empty
        );
    }
    fs::write(&database, whole).expect("written");
    assert_eq!(names(data.0.path()), before);
    let server = data.serve().await;
    let value = increment(&mut client(&server).await, "acme/a").await;
    assert_eq!(value.expect("a value"), 2);
}

/// Emptying a folder does not free it: while its server runs, nothing is restored there, and no other server starts.
/// The server ends, because its acknowledgements would be lost.
#[tokio::test]
async fn a_folder_is_not_free_because_it_is_empty() {
    let source = Data::new();
    let backup = backup(&source).await;
    let data = Data::new();
    let mut server = data.serve().await;
    increment(&mut client(&server).await, "acme/a")
        .await
        .expect("a value");
    // The server is stopped, so that its check of the files does not come too early.
    server.signal("STOP");
    for name in names(data.0.path()) {
        fs::remove_file(data.0.path().join(name)).expect("it is there");
    }
    let problem = fails(&["restore", &backup, "--data-dir", data.folder()]).await;
    assert!(problem.contains("in use by another process"), "{problem}");
    let problem = does_not_serve(&data).await;
    assert!(problem.contains("in use by another process"), "{problem}");
    assert!(names(data.0.path()).is_empty());
    server.signal("CONT");
    assert_eq!(server.exit().await.code(), Some(1));
    let restored = sumd(&["restore", &backup, "--data-dir", data.folder()]).await;
    assert!(restored.status.success(), "{restored:?}");
}

/// A server ends if any of its files is deleted or replaced, because its acknowledgements would be lost.
#[tokio::test]
async fn a_server_whose_files_are_taken_away_ends() {
    for name in ["sumd.db", "sumd.db-wal", "sumd.db-shm", "sumd.db-lock"] {
        let data = Data::new();
        let mut server = data.serve().await;
        increment(&mut client(&server).await, "acme/a")
            .await
            .expect("a value");
        let file = data.0.path().join(name);
        let copy = data.0.path().join("copy");
        fs::copy(&file, &copy).expect("it is there");
        fs::rename(&copy, &file).expect("it is replaced");
        assert_eq!(server.exit().await.code(), Some(1), "{name}");
    }
}

/// A database is locked under each of its names.
#[tokio::test]
async fn a_second_name_is_no_second_database() {
    let data = Data::new();
    let _server = data.serve().await;
    let other = Data::new();
    fs::hard_link(data.database(), other.database()).expect("a link");
    let problem = does_not_serve(&other).await;
    assert!(problem.contains("in use by another process"), "{problem}");
}

/// Only the account that sumd runs as can read the data.
#[tokio::test]
async fn nobody_else_can_read_the_data() {
    let data = Data::new();
    let home = data.0.path().join("new/data");
    let path = home.to_str().expect("a path").to_owned();
    let server = crate::support::process::Process::serve(&["--data-dir", &path]).await;
    increment(&mut client(&server).await, "acme/a")
        .await
        .expect("a value");
    for folder in [&home, &data.0.path().join("new")] {
        assert_eq!(mode(folder), 0o700, "{folder:?}");
    }
    let files = names(&home);
    assert_eq!(
        files,
        ["sumd.db", "sumd.db-lock", "sumd.db-shm", "sumd.db-wal"]
    );
    let backup = home.join("backup");
    let made = sumd(&[
        "backup",
        backup.to_str().expect("a path"),
        "--data-dir",
        &path,
    ])
    .await;
    assert!(made.status.success(), "{made:?}");
    let restored = data.0.path().join("restored");
    let to = restored.to_str().expect("a path");
    let made = sumd(&[
        "restore",
        backup.to_str().expect("a path"),
        "--data-dir",
        to,
    ])
    .await;
    assert!(made.status.success(), "{made:?}");
    for folder in [home, restored] {
        for name in names(&folder) {
            assert_eq!(mode(&folder.join(&name)), 0o600, "{name}");
        }
    }
}

/// A refused restore leaves no files behind, and says why.
#[tokio::test]
async fn a_restore_that_is_refused_leaves_nothing() {
    let data = Data::new();
    let backup = backup(&data).await;
    let at = |name: &str| {
        data.0
            .path()
            .join(name)
            .to_str()
            .expect("a path")
            .to_owned()
    };
    let foreign = at("foreign");
    fs::write(&foreign, "my notes").expect("a file");
    let damaged = at("damaged");
    fs::copy(&backup, &damaged).expect("a copy");
    let connection = rusqlite::Connection::open(&damaged).expect("a database");
    connection
        .execute_batch("UPDATE counter SET value = 7")
        .expect("it is changed");
    drop(connection);
    let before = names(data.0.path());
    for from in [&at("missing"), &foreign, &damaged] {
        let problem = fails(&["restore", from, "--data-dir", &at("new/data")]).await;
        assert!(problem.contains(&**from), "{problem}");
        assert_eq!(names(data.0.path()), before);
    }
    // A file is where the folder should be.
    let problem = fails(&["restore", &backup, "--data-dir", &foreign]).await;
    assert!(problem.contains("is not a folder"), "{problem}");
    assert_eq!(names(data.0.path()), before);
}

/// A start logs the path of the data, whether they are new, and the number of counters.
#[tokio::test]
async fn a_start_tells_which_data_it_has() {
    let data = Data::new();
    let path = data.database().display().to_string();
    let mut server = data.serve().await;
    // After the line that says what is being started.
    let told = &server.beginning[1];
    assert_eq!(told["message"], format!("created new counters at {path}"));
    for name in ["acme/a", "acme/b"] {
        increment(&mut client(&server).await, name)
            .await
            .expect("a value");
    }
    // Also if the changes are in the log alone.
    server.signal("KILL");
    server.exit().await;
    let server = data.serve().await;
    let told = &server.beginning[1];
    assert_eq!(told["message"], format!("opened the counters at {path}"));
    assert_eq!(told["counters"], 2);
}
