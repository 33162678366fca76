//! Records what a server does to its files, by the shim in `tests/power`.

use std::collections::HashMap;
use std::env;
use std::fmt;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

use super::disk::Disk;
use crate::support::ports::free_port;
use crate::support::process::{SUMD, command, signal};
use crate::support::soon;

/// A fault of one process, at a flush of files whose names have this ending, or at a change. Both are counted from 1.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// The process dies after this change.
    DieWriting(u32),
    /// The process dies instead of this flush.
    DieSyncing(u32, &'static str),
    /// This flush fails.
    Fail(u32, &'static str),
    /// This flush fails, and reports success.
    Lie(u32, &'static str),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DieWriting(at) => write!(f, "die-writing {at}"),
            Self::DieSyncing(at, files) => write!(f, "die-syncing {at} {files}"),
            Self::Fail(at, files) => write!(f, "fail {at} {files}"),
            Self::Lie(at, files) => write!(f, "lie {at} {files}"),
        }
    }
}

/// A recorded server, which may end at any time, even before it listens.
pub struct Server {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
    /// The address at which it listens, or `None` if it ended before.
    pub address: Option<String>,
}

impl Server {
    async fn start(command: &mut Command) -> Self {
        let child = command.stderr(Stdio::piped()).kill_on_drop(true).spawn();
        let mut child = child.expect("the program is built");
        let stderr = child.stderr.take().expect("it is piped");
        let mut server = Self {
            child,
            log: BufReader::new(stderr).lines(),
            address: None,
        };
        while let Some(line) = soon(server.log.next_line()).await.expect("a log") {
            if let Some((_, rest)) = line.split_once("listening on ") {
                let address = rest.split('"').next().expect("the end of the message");
                server.address = Some(address.to_owned());
                break;
            }
        }
        server
    }

    pub fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    /// Waits for its end, reading its log meanwhile so that it is not blocked.
    pub async fn exit(&mut self) -> ExitStatus {
        while let Some(line) = soon(self.log.next_line()).await.expect("a log") {
            drop(line);
        }
        soon(self.child.wait()).await.expect("a child")
    }
}

/// A folder with everything for a recording: the shim, the log, and the root of a disk.
pub struct Studio(PathBuf);

impl Studio {
    pub async fn new(folder: &Path) -> Self {
        // The shim compares paths.
        let studio = Self(folder.canonicalize().expect("a folder"));
        fs::create_dir(studio.root()).expect("it is new");
        // A C compiler exists, because SQLite was compiled.
        let compiler = env::var_os("CC").unwrap_or_else(|| "cc".into());
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/power/shim.c");
        let done = Command::new(compiler)
            .args(["-shared", "-fPIC", "-pthread", "-Wall", "-Wextra", "-o"])
            .arg(studio.shim())
            .arg(source)
            .status();
        assert!(done.await.expect("a C compiler").success());
        studio
    }

    /// The folder that survives a loss of power.
    pub fn root(&self) -> PathBuf {
        self.0.join("root")
    }

    fn shim(&self) -> PathBuf {
        self.0.join("shim.so")
    }

    pub fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    /// The program, appending to the recording.
    pub fn command(&self, name: &str) -> Command {
        let mut command = command(SUMD);
        command
            .arg(name)
            .env("LD_PRELOAD", self.shim())
            .env("POWER_ROOT", self.root())
            .env("POWER_LOG", self.log());
        command
    }

    /// Starts a server at a port that no other test uses, because clients may connect to it after its end.
    pub async fn serve(&self, flags: &[&str], fault: Option<Fault>) -> Server {
        let mut command = self.command("serve");
        let listen = format!("127.0.0.1:{}", free_port());
        command.args(["--listen", &listen]).args(flags);
        command.arg("--data-dir").arg(data(&self.root()));
        if let Some(fault) = fault {
            command.env("POWER_FAULT", fault.to_string());
        }
        Server::start(&mut command).await
    }

    /// The recording so far, while nothing is running. Checks that no change was missed: the records lead to the
    /// present files.
    pub fn recording(&self) -> Recording {
        let log = fs::read(self.log()).expect("a log");
        let root = fs::metadata(self.root()).expect("a folder").ino();
        let recording = Recording::read(log, root);
        let mut disk = Disk::new(&recording);
        disk.forward(recording.records.len());
        disk.assert_is(&self.root());
        recording
    }
}

/// The data folder on a disk. The server has to create it and its parent, and to make both durable.
pub fn data(root: &Path) -> PathBuf {
    root.join("var/data")
}

/// A position of the log, in bytes.
pub type Position = u64;

/// The present position.
pub fn position(log: &Path) -> Position {
    fs::metadata(log).expect("a log").len()
}

/// Changes to the files of a disk, in order.
pub struct Recording {
    log: Arc<Vec<u8>>,
    pub root: u64,
    pub records: Vec<Record>,
}

#[derive(Clone)]
pub struct Record {
    pub change: Change,
    /// The inode of the file; earlier files may have had the same.
    pub inode: u64,
    /// The path at which the file was created.
    pub path: Arc<str>,
    /// The position in the log where the record ends.
    end: Position,
}

impl Record {
    /// Whether it was recorded between two positions of the log.
    pub fn is_between(&self, from: Position, to: Position) -> bool {
        from < self.end && self.end <= to
    }
}

#[derive(Clone)]
pub enum Change {
    Create,
    Folder,
    Write {
        at: usize,
        data: Range<usize>,
    },
    Size(usize),
    Sync,
    /// A flush that has failed.
    Fail,
    Unlink,
    Rename {
        to: Arc<str>,
    },
}

impl Recording {
    fn read(log: Vec<u8>, root: u64) -> Self {
        let mut records = Vec::new();
        let mut paths = HashMap::from([(root, Arc::<str>::from(""))]);
        let mut at = 0;
        while at < log.len() {
            let line = log[at..].iter().position(|byte| *byte == b'\n');
            let line = at..at + line.expect("a line");
            let data = line.end + 1;
            let head = String::from_utf8_lossy(&log[line]).into_owned();
            let [what, inode, offset, length] = head.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{head:?} is no record");
            };
            let number = |word: &str| word.parse::<usize>().expect("a number");
            let (inode, offset) = (number(inode) as u64, number(offset));
            let data = data..data + number(length);
            let text = || std::str::from_utf8(&log[data.clone()]).expect("a path");
            let mut path = None;
            let change = match what {
                "create" | "folder" => {
                    paths.insert(inode, text().into());
                    match what {
                        "create" => Change::Create,
                        _ => Change::Folder,
                    }
                }
                "write" => Change::Write {
                    at: offset,
                    data: data.clone(),
                },
                "size" => Change::Size(offset),
                "sync" => Change::Sync,
                "fail" => Change::Fail,
                "unlink" => {
                    path = Some(text().into());
                    Change::Unlink
                }
                "rename" => {
                    let (from, to) = text().split_once('\0').expect("two paths");
                    path = Some(from.into());
                    Change::Rename { to: to.into() }
                }
                _ => panic!("{head:?} is no record"),
            };
            at = data.end;
            records.push(Record {
                change,
                inode,
                path: path.unwrap_or_else(|| paths[&inode].clone()),
                end: at as Position,
            });
        }
        let log = Arc::new(log);
        Self { log, root, records }
    }

    /// The recording without some of its records.
    pub fn without(&self, forgotten: impl Fn(&Record) -> bool) -> Self {
        let records = self.records.iter().filter(|record| !forgotten(record));
        Self {
            log: self.log.clone(),
            root: self.root,
            records: records.cloned().collect(),
        }
    }

    pub fn bytes(&self, data: &Range<usize>) -> &[u8] {
        &self.log[data.clone()]
    }

    /// The number of records up to a position of the log.
    pub fn cut(&self, position: Position) -> usize {
        self.records
            .partition_point(|record| record.end <= position)
    }

    /// Whether a flush has failed before. Then the data of that flush may be on disk or not, and later changes may have
    /// other results on a disk without them.
    pub fn has_failed(&self, cut: usize) -> bool {
        let mut before = self.records[..cut].iter();
        before.any(|record| matches!(record.change, Change::Fail))
    }

    /// The position of the log after its first `cut` records.
    pub fn position(&self, cut: usize) -> Position {
        let last = cut.checked_sub(1).map(|last| &self.records[last]);
        last.map_or(0, |last| last.end)
    }
}
