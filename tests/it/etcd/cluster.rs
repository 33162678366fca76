//! Clusters of etcd with one member or three.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use futures_util::future::join_all;
use serde_json::{Value, json};
use sumd::etcd::{Address, Client, Login, Options};
use sumd::lane::LaneRuntime;
use sumd::model::Bounds;
use sumd::store::Store;
use sumd::store::etcd::{DEFAULT_LANES, EtcdStore, Location};
use tokio::time::{Instant, sleep};

use super::member::{Member, Ports};
use super::proxy::Proxy;
use crate::support::soon;

/// Members on free ports, which are killed when the test ends.
pub struct Cluster {
    pub members: Vec<Member>,
    /// The proxies from the other members to each member, if there are any.
    pub peers: Vec<Proxy>,
    tls: bool,
    /// The user of clients, if there are users.
    login: Option<Login>,
}

/// The user of nodes, and its password. It has the role that `deploy/README.md` gives it, and no other.
pub const USER: &str = "sumd";
pub const PASSWORD: &str = "pass";

/// A cheap password hash. With the default cost, nodes that start together on a busy machine would spend all their time
/// waiting for logins.
pub const QUICK_LOGIN: [&str; 2] = ["--bcrypt-cost", "4"];

/// Maximum time for a member to say whether it leads.
const LEADER: Duration = Duration::from_secs(5);

impl Cluster {
    /// Starts a cluster that has users, as a deployed one should. Clients and nodes have the role that they need, which
    /// allows no keys outside of their prefix.
    pub async fn guarded(size: usize) -> Self {
        Self::start(size, &QUICK_LOGIN).await.with_users().await
    }

    /// Creates the users.
    pub async fn with_users(mut self) -> Self {
        let range = |key: &str| base64::engine::general_purpose::STANDARD.encode(key);
        let sumd = json!({
            "name": USER,
            "perm": { "permType": "READWRITE", "key": range("/sumd/"), "range_end": range("/sumd0") },
        });
        for (path, request) in [
            ("user/add", json!({ "name": "root", "password": "secret" })),
            ("user/grant", json!({ "user": "root", "role": "root" })),
            ("role/add", json!({ "name": USER })),
            ("role/grant", sumd),
            ("user/add", json!({ "name": USER, "password": PASSWORD })),
            ("user/grant", json!({ "user": USER, "role": USER })),
            ("enable", json!({})),
        ] {
            let path = format!("/v3/auth/{path}");
            self.members[0].ask(&path, request, None).await;
        }
        self.login = Some(login(USER, PASSWORD));
        self
    }

    /// Starts a cluster, and waits until it is healthy.
    pub async fn start(size: usize, flags: &[&str]) -> Self {
        Self::start_with(size, flags, false).await
    }

    /// Starts a cluster whose members reach each other through proxies that can be cut.
    pub async fn start_apart(size: usize, flags: &[&str]) -> Self {
        let ports: Vec<_> = (0..size).map(|_| Ports::free()).collect();
        let peers = ports.iter().map(|ports| {
            let host = format!("127.0.0.1:{}", ports.peer);
            Proxy::of_peers(host.parse().expect("a host"))
        });
        let peers = join_all(peers).await;
        Self::begin(&ports, peers, flags, false).await
    }

    /// Starts a cluster, whose clients use TLS if `tls` is set; the flags have to configure it.
    pub async fn start_with(size: usize, flags: &[&str], tls: bool) -> Self {
        let ports: Vec<_> = (0..size).map(|_| Ports::free()).collect();
        Self::begin(&ports, Vec::new(), flags, tls).await
    }

    async fn begin(ports: &[Ports], peers: Vec<Proxy>, flags: &[&str], tls: bool) -> Self {
        let size = ports.len();
        let name = |i: usize| format!("m{i}");
        let peer = |i: usize| format!("http://127.0.0.1:{}", ports[i].peer);
        let found_at = |i: usize| match peers.get(i) {
            Some(proxy) => format!("http://{}", proxy.host),
            None => peer(i),
        };
        let all: Vec<_> = (0..size)
            .map(|i| format!("{}={}", name(i), found_at(i)))
            .collect();
        let token = format!("sumd-{:016x}", fastrand::u64(..));
        let scheme = if tls { "https" } else { "http" };
        let members = ports.iter().enumerate().map(|(i, ports)| {
            let client = format!("{scheme}://127.0.0.1:{}", ports.client);
            let pairs = [
                ("--listen-client-urls", client.clone()),
                ("--advertise-client-urls", client),
                ("--listen-peer-urls", peer(i)),
                ("--initial-advertise-peer-urls", found_at(i)),
                (
                    "--listen-metrics-urls",
                    format!("http://127.0.0.1:{}", ports.health),
                ),
                ("--initial-cluster", all.join(",")),
                ("--initial-cluster-token", token.clone()),
            ];
            let mut flags_of_it: Vec<String> = Vec::new();
            for (flag, value) in pairs {
                flags_of_it.extend([flag.to_owned(), value]);
            }
            if size > 1 {
                // Members that share a few processors are late now and then, which should cause no election.
                let slow = ["--heartbeat-interval", "200", "--election-timeout", "2000"];
                flags_of_it.extend(slow.map(str::to_owned));
            }
            flags_of_it.extend(flags.iter().map(|flag| (*flag).to_owned()));
            Member::new(name(i), *ports, flags_of_it)
        });
        let mut cluster = Self {
            members: members.collect(),
            peers,
            tls,
            login: None,
        };
        for member in &mut cluster.members {
            member.start();
        }
        cluster.healthy().await;
        cluster
    }

    /// Waits until all members are healthy.
    pub async fn healthy(&self) {
        join_all(self.members.iter().map(Member::healthy)).await;
    }

    pub fn address(&self) -> Address {
        Address {
            tls: self.tls,
            hosts: self.members.iter().map(Member::host).collect(),
        }
    }

    pub fn options(&self) -> Options {
        let mut options = Options::new(&self.address());
        options.login.clone_from(&self.login);
        options
    }

    /// A client that may do everything.
    pub fn root(&self) -> Client {
        let mut options = self.options();
        options.login = self.login.as_ref().map(|_| login("root", "secret"));
        Client::new(options).expect("no TLS")
    }

    /// A client of all members.
    pub fn client(&self) -> Client {
        Client::new(self.options()).expect("no TLS")
    }

    /// The default location of `sumd serve`'s data.
    pub fn place(&self) -> Location {
        Location {
            client: self.client(),
            prefix: "/sumd".to_owned(),
            max_operations: 128,
            lanes: DEFAULT_LANES,
        }
    }

    /// The same data, and a node's lanes on them.
    pub async fn lanes(&self) -> (Arc<dyn Store>, LaneRuntime) {
        let store = EtcdStore::open(self.place()).await;
        let store: Arc<dyn Store> = Arc::new(store.expect("it is well"));
        let bounds = Bounds {
            id_bytes: 1 << 20,
            counter_bytes: 1 << 20,
            id_horizon: 600_000,
            session_horizon: 86_400_000,
        };
        let running = LaneRuntime::start(store.clone(), bounds).await;
        (store, running.expect("it begins"))
    }

    /// Calls a method that only root may call, through etcd's JSON gateway.
    pub async fn ask_as_root(&self, path: &str, request: Value) -> Value {
        let member = &self.members[0];
        let root = json!({ "name": "root", "password": "secret" });
        let answer = member.ask("/v3/auth/authenticate", root, None).await;
        member.ask(path, request, answer["token"].as_str()).await
    }

    /// The leader, among the running members.
    pub async fn leader(&mut self) -> &mut Member {
        let client = self.root();
        let found = async {
            loop {
                // Each member reports for itself.
                let told = client.members(Instant::now() + LEADER).await;
                for (i, (_, member)) in told.into_iter().enumerate() {
                    if member.is_ok_and(|member| member.leader == Some(member.id)) {
                        return i;
                    }
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        let leader = soon(found).await;
        &mut self.members[leader]
    }

    /// The member that a client is connected to.
    pub fn used_by(&mut self, client: &Client) -> &mut Member {
        let endpoint = client.endpoint().expect("it is connected");
        let mut members = self.members.iter_mut();
        let used = members.find(|member| member.host() == endpoint);
        used.expect("it is one of these")
    }
}

fn login(user: &str, password: &str) -> Login {
    Login {
        user: user.to_owned(),
        password: password.to_owned(),
    }
}
