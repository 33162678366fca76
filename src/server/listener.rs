//! Listening sockets, and the loop that accepts from them.

mod unix;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::Args;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream, lookup_host};
use tracing::warn;

use super::Address;
use crate::ranged;
use unix::SocketFile;

/// Pause after a failed accept: while file descriptors are short, each one fails.
const ACCEPT_ERROR_PAUSE: Duration = Duration::from_millis(100);

/// Connections that wait to be accepted, such as those of all clients that reconnect at once.
const BACKLOG: u32 = 1024;

/// The addresses to listen on, and the mode of sockets.
#[derive(Args, Clone, Debug)]
pub struct ListenOptions {
    /// Address to listen on: host:port or unix:/path
    ///
    /// Give it again for more addresses. 0.0.0.0:8080 or [::]:8080 serve other machines too.
    #[arg(
        long = "listen",
        env = "SUMD_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8080",
        value_delimiter = ','
    )]
    pub addresses: Vec<Address>,

    /// Mode of a unix socket, as in chmod [default: by the umask]
    ///
    /// 660 lets its owner and group connect.
    #[arg(long, env = "SUMD_SOCKET_MODE", value_name = "MODE", value_parser = ranged::octal(0..=0o777))]
    pub socket_mode: Option<u32>,
}

/// An address that cannot be listened on.
#[derive(Debug)]
pub struct BindError {
    address: Address,
    /// An address of this server that covers it.
    own: Option<Address>,
    source: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            address,
            own,
            source,
        } = self;
        write!(f, "cannot listen on {address}: ")?;
        match (source.kind(), own) {
            (io::ErrorKind::AddrInUse, Some(own)) => {
                write!(f, "this server already listens on {own}, which covers it")
            }
            (io::ErrorKind::AddrInUse, None) => write!(f, "it is in use by another process"),
            _ => write!(f, "{source}"),
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
    /// Registers the connection with this thread's runtime.
    pub(super) fn into_stream(self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(socket) => Stream::Tcp(TcpStream::from_std(socket)?),
            Self::Unix(socket) => Stream::Unix(UnixStream::from_std(socket)?),
        })
    }
}

pub(super) enum Listener {
    Tcp(TcpListener, SocketAddr),
    // In this order, so that the file is removed first: a new server must not find it and get no answer.
    Unix(SocketFile, UnixListener),
}

impl Listener {
    /// Binds all addresses, or none.
    pub(super) async fn bind_all(options: &ListenOptions) -> Result<Vec<Self>, BindError> {
        let mut resolved = Vec::new();
        for address in &options.addresses {
            let addresses = match address {
                Address::Tcp(name) => resolve(name).await,
                Address::Unix(_) => Ok(Vec::new()),
            };
            let failed = |source| BindError {
                address: address.clone(),
                own: None,
                source,
            };
            resolved.push((address, addresses.map_err(failed)?));
        }
        let all: Vec<_> = resolved.iter().flat_map(|(_, all)| all).copied().collect();
        let mut bound: Vec<Self> = Vec::new();
        for (address, addresses) in resolved {
            let listener = match address {
                Address::Tcp(_) => bind_tcp(&addresses, &all),
                Address::Unix(path) => unix::bind(path, options.socket_mode).await,
            };
            let failed = |source| BindError {
                address: address.clone(),
                own: bound
                    .iter()
                    .find(|own| own.covers(address, &addresses))
                    .map(Self::address),
                source,
            };
            let listener = listener.map_err(failed)?;
            bound.push(listener);
        }
        Ok(bound)
    }

    pub(super) fn address(&self) -> Address {
        match self {
            Self::Tcp(_, address) => Address::Tcp(address.to_string()),
            Self::Unix(file, _) => Address::Unix(file.path().to_owned()),
        }
    }

    /// Whether an address cannot be bound beside this one.
    fn covers(&self, address: &Address, addresses: &[SocketAddr]) -> bool {
        match self {
            Self::Tcp(_, own) => {
                // If IPv4 has the same port, a socket of IPv6 serves IPv6 only.
                let covers = |ip: IpAddr| {
                    ip.is_ipv4() == own.is_ipv4()
                        && (ip == own.ip() || ip.is_unspecified() || own.ip().is_unspecified())
                };
                addresses
                    .iter()
                    .any(|other| other.port() == own.port() && covers(other.ip()))
            }
            Self::Unix(file, _) => matches!(address, Address::Unix(path) if path == file.path()),
        }
    }

    /// Accepts the next connection. Errors are logged, and retried after a pause.
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
                // It fails if the peer is gone again, which shows soon enough.
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

/// The addresses of a name.
async fn resolve(name: &str) -> io::Result<Vec<SocketAddr>> {
    let addresses: Vec<_> = lookup_host(name).await?.collect();
    if addresses.is_empty() {
        return Err(io::Error::other("the name has no address"));
    }
    Ok(addresses)
}

/// Listens on the first address of a name that can be bound. `all` are the addresses of the whole server.
fn bind_tcp(addresses: &[SocketAddr], all: &[SocketAddr]) -> io::Result<Listener> {
    let mut failure = None;
    for &address in addresses {
        // `[::]` alone serves both versions of IP. If the server has the port for IPv4 as well, each has its own
        // socket.
        let is_shared = |other: &SocketAddr| other.is_ipv4() && other.port() == address.port();
        let only_v6 = address.is_ipv6() && address.port() != 0 && all.iter().any(is_shared);
        match listen(address, only_v6) {
            Ok(listener) => {
                let address = listener.local_addr()?;
                return Ok(Listener::Tcp(listener, address));
            }
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()))
}

fn listen(address: SocketAddr, only_v6: bool) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if only_v6 {
        SockRef::from(&socket).set_only_v6(true)?;
    }
    // A restarted server can bind the port while connections of its predecessor linger.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
