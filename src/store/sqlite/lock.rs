//! The lock of a database. One process at a time holds it, whatever path it uses, and notices if the files are deleted
//! or replaced.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::database;
use super::open_error::OpenError;
use super::paths::{beside, log};

/// The name of the database in a data folder, which has only one.
pub const DATABASE: &str = "sumd.db";

/// Only the account that sumd runs as may read counters.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Bytes of the WAL that are read and rewritten at once.
const CHUNK: usize = 1 << 20;

/// A file's device and inode, whatever its name.
type Identity = (u64, u64);

/// The exclusive lock of a database, or of the location for one.
///
/// Three things are locked, because each alone can be circumvented: a lock file beside the database, which exists
/// before the database does; the data folder, which survives `rm -rf folder/*`; and the database itself, which may have
/// a second name. The locks are `flock`s, which are independent of SQLite's byte-range locks.
pub(crate) struct Lock {
    path: PathBuf,
    _folder: Option<File>,
    /// The path of the lock file.
    name: PathBuf,
    /// Whether this process made the lock file.
    is_new: bool,
    _file: File,
    database: Option<File>,
    /// The files as they were found, to notice their replacement.
    watched: Vec<(PathBuf, Identity)>,
}

impl Lock {
    /// Locks the location of a database.
    ///
    /// # Errors
    /// Returns [`OpenError::InUse`] if another process has a database there, or had one that was deleted since.
    pub(crate) fn reserve(path: &Path) -> Result<Self, OpenError> {
        let folder = folder(path);
        let mut locked = None;
        if path.file_name().is_some_and(|name| name == DATABASE) {
            let opened = File::open(folder);
            let opened = opened.map_err(|error| OpenError::Lock(folder.to_owned(), error))?;
            match opened.try_lock() {
                Ok(()) => locked = Some(opened),
                Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(path.to_owned())),
                // Some file systems cannot lock a folder. The files are locked as well.
                Err(TryLockError::Error(_)) => {}
            }
        }
        // The lock file is the same for every link to the database.
        let real = path.canonicalize();
        let name = beside(real.as_deref().unwrap_or(path), "-lock");
        let failed = |error| OpenError::Lock(name.clone(), error);
        loop {
            let is_new = !name.exists();
            let file = create(&name).map_err(failed)?;
            lock(&file, path, &name)?;
            let held = file.metadata().map(|found| identity(&found));
            // A refused restore removes the lock file that it made. Then the file locked here is not the one at the
            // path.
            let found = fs::metadata(&name).map(|found| identity(&found));
            let held = held.map_err(failed)?;
            if found.is_ok_and(|found| found == held) {
                return Ok(Self {
                    path: path.to_owned(),
                    _folder: locked,
                    watched: vec![(name.clone(), held)],
                    name,
                    is_new,
                    _file: file,
                    database: None,
                });
            }
        }
    }

    /// Locks a database, which is created empty if there is none, and makes durable what an earlier process left.
    ///
    /// # Errors
    /// Returns an error if another process has the database, if its files cannot be read or written, if there is a WAL
    /// without a database, or if a move has made the database but not given it its name.
    pub(crate) fn take(path: &Path) -> Result<Self, OpenError> {
        let mut taken = Self::reserve(path)?;
        if is_bereft(path) {
            taken.give_up();
            return Err(OpenError::Bereft(path.to_owned()));
        }
        if is_empty(path) && database::nameless(path).is_some() {
            taken.give_up();
            return Err(OpenError::Nameless(path.to_owned()));
        }
        let file = create(path).map_err(|error| OpenError::Lock(path.to_owned(), error))?;
        lock(&file, path, path)?;
        taken
            .settle(&file)
            .map_err(|error| OpenError::Settle(path.to_owned(), error))?;
        taken.database = Some(file);
        taken.watch("");
        Ok(taken)
    }

    /// Makes durable everything that an earlier process left. Data that it wrote but did not sync are in the page
    /// cache. They would be read and acknowledged from there, although a power loss takes them away.
    ///
    /// Syncing the WAL is not enough: after a failed sync the kernel counts the pages as clean, and a later sync
    /// succeeds without them. So the WAL is rewritten with the bytes that are read. A checkpoint by SQLite is not
    /// enough either: after a power loss in between, the beginning of the WAL, which is on disk, would hide newer data
    /// in the database. The database needs no such care. SQLite begins a WAL anew only after a successful sync of the
    /// database ([`super::writer`] ensures that), and until then the WAL has everything that was written to it.
    fn settle(&self, database: &File) -> io::Result<()> {
        let real = self.path.canonicalize()?;
        match File::options()
            .read(true)
            .write(true)
            .open(beside(&real, "-wal"))
        {
            Ok(log) => rewrite(&log)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        database.sync_all()?;
        // New names become durable here, and so do removals, such as that of a rollback journal.
        sync_folder(folder(&real))
    }

    /// Watches a file from now on. `suffix` names it.
    pub(crate) fn watch(&mut self, suffix: &str) {
        // SQLite resolves the path in the same way.
        let real = self.path.canonicalize();
        let file = beside(real.as_deref().unwrap_or(&self.path), suffix);
        let file = if suffix.is_empty() {
            self.path.clone()
        } else {
            file
        };
        if let Ok(found) = fs::metadata(&file) {
            self.watched.push((file, identity(&found)));
        }
    }

    /// A file that is no longer the one at its path: writes to it are lost.
    pub(crate) fn replaced(&self) -> Option<&Path> {
        let is_other = |(path, held): &&(PathBuf, Identity)| match fs::metadata(path) {
            Ok(found) => identity(&found) != *held,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        self.watched.iter().find(is_other).map(|(path, _)| &**path)
    }

    /// Gives up, and removes the lock file if this process made it.
    pub(crate) fn give_up(self) {
        if self.is_new {
            // A lock file that stays does no harm.
            let _ = fs::remove_file(&self.name);
        }
    }
}

fn lock(file: &File, path: &Path, name: &Path) -> Result<(), OpenError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(path.to_owned())),
        Err(TryLockError::Error(error)) => Err(OpenError::Lock(name.to_owned(), error)),
    }
}

fn identity(file: &fs::Metadata) -> Identity {
    (file.dev(), file.ino())
}

/// Opens a file, which is created if there is none.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .open(path)
}

/// Whether a WAL has data of a database that is missing or empty. SQLite would begin a new database and empty the WAL.
/// SQLite never leaves the two like that: a new database has its first page on disk before it has a WAL.
fn is_bereft(path: &Path) -> bool {
    is_empty(path) && !is_empty(&log(path))
}

/// Whether a file is missing or empty.
fn is_empty(path: &Path) -> bool {
    fs::metadata(path).map_or(0, |file| file.len()) == 0
}

/// Rewrites a file with the bytes that are read from it, and syncs it.
fn rewrite(file: &File) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    let mut at = 0;
    loop {
        match file.read_at(&mut chunk, at)? {
            0 => return file.sync_all(),
            read => {
                file.write_all_at(&chunk[..read], at)?;
                at += read as u64;
            }
        }
    }
}

/// Creates a folder and its missing parents so that they survive a power loss. Returns those that it created, outermost
/// first.
pub(crate) fn make_folder(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let parent = match folder.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Ok(Vec::new()),
    };
    let mut made = Vec::new();
    if !folder.is_dir() {
        made = make_folder(parent)?;
        match DirBuilder::new().mode(FOLDER_MODE).create(folder) {
            Ok(()) => made.push(folder.to_owned()),
            Err(_) if folder.is_dir() => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let problem = "a file of that name exists, which is not a folder";
                return Err(io::Error::new(error.kind(), problem));
            }
            Err(error) => return Err(error),
        }
    }
    // This is also for a folder that exists: the process that made it may have died before its sync.
    sync_folder(parent)?;
    Ok(made)
}

/// Makes the names in a folder durable. A folder that this account may not read was not changed by it.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    unless_denied(File::open(folder).and_then(|folder| folder.sync_all()))
}

fn unless_denied(synced: io::Result<()>) -> io::Result<()> {
    match synced {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        synced => synced,
    }
}

/// The folder of a file.
pub(crate) fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::super::meta::Meta;
    use super::*;

    /// The WAL that an earlier process left is rewritten: the kernel may count pages as clean that are not on disk.
    #[test]
    fn a_log_that_is_left_is_written_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(DATABASE);
        let log = beside(&path, "-wal");
        let left: Vec<u8> = (0..=u8::MAX).cycle().take(2 * CHUNK + 1).collect();
        fs::write(&path, "a database").expect("a file");
        fs::write(&log, &left).expect("a file");
        let file = File::options().write(true).open(&log).expect("a file");
        let before = SystemTime::UNIX_EPOCH;
        file.set_modified(before).expect("a time");

        Lock::take(&path).expect("nobody has it");
        let metadata = file.metadata().expect("what it is");
        assert!(metadata.modified().expect("a time") > before);
        assert_eq!(fs::read(&log).expect("a file"), left);
    }

    /// The lock names a file that was replaced, since writes to it are lost.
    #[test]
    fn a_file_that_was_replaced_is_told_of() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(DATABASE);
        let lock = Lock::take(&path).expect("nobody has it");
        assert_eq!(lock.replaced(), None);
        let other = folder.path().join("other");
        fs::write(&other, "a database").expect("a file");
        fs::rename(&other, &path).expect("it has its place");
        assert_eq!(lock.replaced(), Some(&*path));
        fs::remove_file(&path).expect("it is there");
        assert_eq!(lock.replaced(), Some(&*path));
    }

    /// A folder that this account may not read or change needs no sync. Any other error of a sync is returned.
    #[test]
    fn a_folder_that_may_not_be_read_is_not_synced() {
        let failed = |kind| unless_denied(Err(io::Error::from(kind)));
        failed(io::ErrorKind::PermissionDenied).expect("no matter");
        failed(io::ErrorKind::StorageFull).expect_err("it is told");
        unless_denied(Ok(())).expect("synced");
        sync_folder(Path::new("/no/such/folder")).expect_err("it is told");
    }

    /// Nothing is begun beside a log, or beside the file of a move, whose database is missing or empty.
    #[test]
    fn a_place_that_lacks_its_database_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(DATABASE);
        let log = beside(&path, "-wal");
        let refused = || Lock::take(&path).map(drop).expect_err("it is refused");
        let both = |is_expected: fn(&OpenError) -> bool| {
            assert!(is_expected(&refused()), "missing");
            fs::write(&path, "").expect("a file");
            assert!(is_expected(&refused()), "empty");
            fs::remove_file(&path).expect("it is there");
        };
        fs::write(&log, "pages").expect("a file");
        both(|refused| matches!(refused, OpenError::Bereft(_)));
        fs::write(&log, "").expect("a file");
        let (connection, _) = database::open(&database::partial(&path)).expect("a new database");
        Meta::update(&connection, |meta| meta.made_by_move = vec![7; 16]).expect("SQL");
        database::close(connection).expect("it is whole");
        both(|refused| matches!(refused, OpenError::Nameless(_)));
        fs::write(&path, "a database").expect("a file");
        Lock::take(&path).expect("it is not empty");
    }

    /// A data folder has one database, also if the files of a locked one were deleted. Files of other names share a folder.
    #[test]
    fn a_data_folder_is_locked_with_its_database() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(DATABASE);
        let first = Lock::take(&path).expect("nobody has it");
        for file in [path.clone(), beside(&path, "-lock")] {
            fs::remove_file(file).expect("it is there");
        }
        let second = Lock::take(&path).map(drop);
        assert!(matches!(second, Err(OpenError::InUse(_))), "{second:?}");
        drop(first);
        let names = ["a.db", "b.db"].map(|name| folder.path().join(name));
        let _both = names.map(|name| Lock::take(&name).expect("nobody has it"));
    }

    /// A log that cannot be made durable is no start: what is in it might be lost after it was acknowledged.
    #[test]
    fn a_log_that_cannot_be_settled_is_no_start() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(DATABASE);
        fs::write(&path, "a database").expect("a file");
        fs::create_dir(beside(&path, "-wal")).expect("a folder");
        let told = Lock::take(&path).map(drop);
        assert!(matches!(told, Err(OpenError::Settle(..))), "{told:?}");
    }

    /// A folder is made with those that it is in, by any of its names; a file in its place is told from other errors.
    #[test]
    fn folders_are_made_by_any_of_their_names() {
        let temporary = tempfile::tempdir().expect("a folder");
        let new = temporary.path().join("new");
        assert_eq!(make_folder(&new.join("..")).expect("made"), [&*new]);
        assert!(
            make_folder(Path::new("src"))
                .expect("it is there")
                .is_empty()
        );
        assert_eq!(folder(Path::new(DATABASE)), Path::new("."));
        assert_eq!(folder(Path::new("/data/sumd.db")), Path::new("/data"));
        let file = temporary.path().join("file");
        fs::write(&file, "").expect("a file");
        let told = |name: &Path| make_folder(name).expect_err("no folder").to_string();
        assert!(told(&file).contains("a file of that name exists"));
        assert!(!told(&new.join("n".repeat(300))).contains("a file of that name exists"));
    }
}
