//! Listening sockets, and the loop that accepts from them.

use std::fmt;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tracing::{debug, warn};

use super::Address;

/// A pause where accepting fails, as it does without end while file descriptors are short.
const ACCEPT_ERROR_PAUSE: Duration = Duration::from_millis(100);

/// An address that cannot be listened on.
#[derive(Debug)]
pub struct BindError {
    address: Address,
    source: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, source } = self;
        match source.kind() {
            io::ErrorKind::AddrInUse => {
                write!(
                    f,
                    "cannot listen on {address}: it is in use by another process"
                )
            }
            _ => write!(f, "cannot listen on {address}: {source}"),
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// An accepted connection, on its way to the thread that will serve it.
pub(super) enum Socket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// A connection on the thread that serves it.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Makes this thread's runtime the one that is told of the connection's events.
    pub(super) fn into_stream(self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(socket) => Stream::Tcp(TcpStream::from_std(socket)?),
            Self::Unix(socket) => Stream::Unix(UnixStream::from_std(socket)?),
        })
    }
}

pub(super) enum Listener {
    Tcp(TcpListener, Address),
    // In this order, so that the name is gone before a new server can find that nobody answers at it.
    Unix(SocketFile, UnixListener),
}

/// A socket's name in the file system, which goes when the listener does.
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            debug!(path = %self.0.display(), %error, "cannot remove the socket");
        }
    }
}

impl Listener {
    pub(super) async fn bind(address: &Address) -> Result<Self, BindError> {
        let bound = match address {
            Address::Tcp(name) => bind_tcp(name).await,
            Address::Unix(path) => bind_unix(path).await,
        };
        bound.map_err(|source| BindError {
            address: address.clone(),
            source,
        })
    }

    pub(super) fn address(&self) -> Address {
        match self {
            Self::Tcp(_, address) => address.clone(),
            Self::Unix(SocketFile(path), _) => Address::Unix(path.clone()),
        }
    }

    /// The next connection, however long it takes.
    pub(super) async fn next(&self) -> Socket {
        loop {
            match self.accept().await {
                Ok(socket) => return socket,
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_ERROR_PAUSE).await;
                }
            }
        }
    }

    async fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(listener, _) => {
                let (stream, _) = listener.accept().await?;
                // It fails where the peer has gone again, which shows soon enough.
                let _ = stream.set_nodelay(true);
                Ok(Socket::Tcp(stream.into_std()?))
            }
            Self::Unix(_, listener) => {
                let (stream, _) = listener.accept().await?;
                Ok(Socket::Unix(stream.into_std()?))
            }
        }
    }
}

async fn bind_tcp(name: &str) -> io::Result<Listener> {
    let listener = TcpListener::bind(name).await?;
    let address = Address::Tcp(listener.local_addr()?.to_string());
    Ok(Listener::Tcp(listener, address))
}

async fn bind_unix(path: &Path) -> io::Result<Listener> {
    // A server that was killed leaves its socket's file behind: nobody answers at it.
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if is_socket
        && let Err(error) = UnixStream::connect(path).await
        && error.kind() == io::ErrorKind::ConnectionRefused
    {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    Ok(Listener::Unix(SocketFile(path.to_owned()), listener))
}
