//! A way to a server that can be cut.

use std::sync::Arc;

use sumd::store::etcd::client::Host;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Passes connections on, until it is told not to, or dropped.
pub struct Proxy {
    pub host: Host,
    way: Arc<watch::Sender<Way>>,
    _task: JoinSet<()>,
}

/// What becomes of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    Open,
    /// What is asked comes through, and what is answered does not.
    Mute,
    /// Nothing comes through, and nobody is told. What was sent meanwhile arrives when it is opened again.
    Silent,
    /// Those that are there are closed, and so are new ones.
    Closed,
}

impl Proxy {
    pub async fn start(to: Host) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let way = Arc::new(watch::Sender::new(Way::Open));
        let mut task = JoinSet::new();
        task.spawn(accept(listener, to, way.clone()));
        Self {
            host: address.to_string().parse().expect("a host"),
            way,
            _task: task,
        }
    }

    pub fn set(&self, way: Way) {
        self.way.send_replace(way);
    }
}

async fn accept(listener: TcpListener, to: Host, way: Arc<watch::Sender<Way>>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        while connections.try_join_next().is_some() {}
        connections.spawn(pass(stream, to.clone(), way.subscribe()));
    }
}

async fn pass(mut near: TcpStream, to: Host, mut way: watch::Receiver<Way>) {
    let mut closed = way.clone();
    let both = async {
        let opened = way.wait_for(|way| *way <= Way::Mute).await.is_ok();
        let far = TcpStream::connect((to.name.as_str(), to.port)).await;
        if let (true, Ok(mut far)) = (opened, far) {
            let (near_in, near_out) = near.split();
            let (far_in, far_out) = far.split();
            tokio::select! {
                () = copy(near_in, far_out, way.clone(), |way| way <= Way::Mute) => {}
                () = copy(far_in, near_out, way, |way| way == Way::Open) => {}
            }
        }
    };
    tokio::select! {
        () = both => {}
        _ = closed.wait_for(|way| *way == Way::Closed) => {}
    }
}

async fn copy(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut way: watch::Receiver<Way>,
    lets_through: impl Fn(Way) -> bool,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let opened = way.wait_for(|way| lets_through(*way)).await.is_ok();
        if !opened || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
