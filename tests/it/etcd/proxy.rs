//! A proxy to a server that can be cut in one direction or both, or slowed down.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sumd::etcd::Host;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Forwards connections until it is set otherwise, or dropped.
pub struct Proxy {
    pub host: Host,
    to: Arc<Mutex<Host>>,
    ways: Arc<watch::Sender<Ways>>,
    _task: JoinSet<()>,
}

/// How connections are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Open,
    /// Bytes in either direction arrive this much later.
    Slow(Duration),
    /// Requests come through, and answers do not.
    Mute,
    /// Answers come through, and requests do not.
    Deaf,
    /// Nothing comes through, and no connection is closed. Bytes that were sent meanwhile arrive when it is opened
    /// again.
    Silent,
    /// Present connections are closed, and so are new ones.
    Closed,
}

impl Way {
    fn takes_questions(self) -> bool {
        matches!(self, Self::Open | Self::Slow(_) | Self::Mute)
    }

    fn takes_answers(self) -> bool {
        matches!(self, Self::Open | Self::Slow(_) | Self::Deaf)
    }
}

/// How connections are treated, with exceptions by the peer that they come from.
struct Ways {
    others: Way,
    from: BTreeMap<String, Way>,
}

impl Ways {
    fn of(&self, source: &str) -> Way {
        self.from.get(source).copied().unwrap_or(self.others)
    }
}

impl Proxy {
    pub async fn start(to: Host) -> Self {
        Self::begin(to, false).await
    }

    /// A proxy between members of etcd, which tells them apart by the id that they send.
    pub async fn of_peers(to: Host) -> Self {
        Self::begin(to, true).await
    }

    async fn begin(to: Host, peers: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let ways = Arc::new(watch::Sender::new(Ways {
            others: Way::Open,
            from: BTreeMap::new(),
        }));
        let to = Arc::new(Mutex::new(to));
        let mut task = JoinSet::new();
        task.spawn(accept(listener, to.clone(), ways.clone(), peers));
        Self {
            host: address.to_string().parse().expect("a host"),
            to,
            ways,
            _task: task,
        }
    }

    /// Forwards new connections to another host.
    pub fn lead_to(&self, to: Host) {
        *self.to.lock().expect("no panic") = to;
    }

    /// Sets the treatment of all connections.
    pub fn set(&self, way: Way) {
        self.ways.send_modify(|ways| {
            ways.others = way;
            ways.from.clear();
        });
    }

    /// Sets the treatment of one peer's connections, by its id.
    pub fn set_for(&self, peer: u64, way: Way) {
        self.ways
            .send_modify(|ways| _ = ways.from.insert(format!("{peer:x}"), way));
    }
}

async fn accept(
    listener: TcpListener,
    to: Arc<Mutex<Host>>,
    ways: Arc<watch::Sender<Ways>>,
    peers: bool,
) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        // Small packets are not delayed to be merged.
        let _ = stream.set_nodelay(true);
        while connections.try_join_next().is_some() {}
        connections.spawn(pass(stream, to.clone(), ways.subscribe(), peers));
    }
}

async fn pass(
    mut near: TcpStream,
    to: Arc<Mutex<Host>>,
    mut ways: watch::Receiver<Ways>,
    peers: bool,
) {
    let source = if peers {
        peer(&near).await
    } else {
        String::new()
    };
    let source = source.as_str();
    let mut closed = ways.clone();
    let both = async {
        let opened = ways.wait_for(|ways| ways.of(source).takes_questions());
        let opened = opened.await.is_ok();
        let to = to.lock().expect("no panic").clone();
        let far = TcpStream::connect((to.name.as_str(), to.port)).await;
        if let (true, Ok(mut far)) = (opened, far) {
            let _ = far.set_nodelay(true);
            let (near_in, near_out) = near.split();
            let (far_in, far_out) = far.split();
            let questions = copy(near_in, far_out, ways.clone(), source, Way::takes_questions);
            let answers = copy(far_in, near_out, ways, source, Way::takes_answers);
            tokio::select! {
                () = questions => {}
                () = answers => {}
            }
        }
    };
    tokio::select! {
        () = both => {}
        _ = closed.wait_for(|ways| ways.of(source) == Way::Closed) => {}
    }
}

async fn copy(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut ways: watch::Receiver<Ways>,
    source: &str,
    lets_through: impl Fn(Way) -> bool,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let way = match ways.wait_for(|ways| lets_through(ways.of(source))).await {
            Ok(ways) => ways.of(source),
            Err(_) => return,
        };
        if let Way::Slow(delay) = way {
            sleep(delay).await;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

/// The id that a member of etcd gives in the first request of a connection, or empty if it gives none.
async fn peer(stream: &TcpStream) -> String {
    const FIELD: &str = "X-Server-From: ";
    let mut buffer = vec![0; 4096];
    loop {
        let Ok(read @ 1..) = stream.peek(&mut buffer).await else {
            return String::new();
        };
        let text = String::from_utf8_lossy(&buffer[..read]);
        if let Some((head, _)) = text.split_once("\r\n\r\n") {
            let from = head.lines().find_map(|line| line.strip_prefix(FIELD));
            return from.unwrap_or_default().to_owned();
        }
        if read == buffer.len() {
            return String::new();
        }
        // The rest is on its way. Only peeking again shows whether it has arrived.
        sleep(Duration::from_millis(1)).await;
    }
}
