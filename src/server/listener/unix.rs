//! Unix sockets in the file system.

use std::fs::{self, FileType, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::net::{UnixSocket, UnixStream};
use tracing::{debug, warn};

use super::{BACKLOG, Listener};

/// The identity of a file, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
        }
    }
}

/// The file of a socket. It is removed together with the listener.
pub(in crate::server) struct SocketFile {
    path: PathBuf,
    id: FileId,
}

impl SocketFile {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let path = self.path.display();
        match remove(&self.path, self.id) {
            Ok(true) => {}
            Ok(false) => {
                warn!(%path, "the socket was replaced by another one, which is not removed");
            }
            Err(error) => debug!(%path, %error, "cannot remove the socket"),
        }
    }
}

/// Removes a file, unless another one has taken its name. The file system cannot check and remove at once, so a file
/// that takes the name in between is removed instead.
fn remove(path: &Path, id: FileId) -> io::Result<bool> {
    let is_same = FileId::of(&fs::symlink_metadata(path)?) == id;
    if is_same {
        fs::remove_file(path)?;
    }
    Ok(is_same)
}

/// Listens at a path. No client can connect before the socket has its mode.
pub(super) async fn bind(path: &Path, mode: Option<u32>) -> io::Result<Listener> {
    if let Ok(found) = fs::symlink_metadata(path) {
        make_way(path, &found).await?;
    }
    let socket = UnixSocket::new_stream()?;
    socket.bind(path)?;
    let file = SocketFile {
        path: path.to_owned(),
        id: FileId::of(&fs::symlink_metadata(path)?),
    };
    if let Some(mode) = mode {
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    let listener = socket.listen(BACKLOG)?;
    Ok(Listener::Unix(file, listener))
}

/// Removes the socket that a killed server has left behind: nothing answers at it.
async fn make_way(path: &Path, found: &Metadata) -> io::Result<()> {
    let kind = found.file_type();
    if !kind.is_socket() {
        let problem = format!("the path is {}, not a socket", name_of(kind));
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, problem));
    }
    if let Err(error) = UnixStream::connect(path).await
        && error.kind() == io::ErrorKind::ConnectionRefused
    {
        remove(path, FileId::of(found))?;
    }
    Ok(())
}

fn name_of(kind: FileType) -> &'static str {
    if kind.is_file() {
        "a regular file"
    } else if kind.is_dir() {
        "a folder"
    } else if kind.is_symlink() {
        "a symbolic link"
    } else {
        "a special file"
    }
}
