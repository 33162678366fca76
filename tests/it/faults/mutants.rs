//! Injected mistakes that the harness has to find: an etcd that does not do what it is asked to. Nodes reach it through
//! a proxy that understands their transactions and changes them.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use sumd::etcd::{Client, Host, get};
use sumd::model::KeyedHasher;
use sumd::proto::etcd::etcdserverpb::kv_client::KvClient;
use sumd::proto::etcd::etcdserverpb::request_op::Request as Op;
use sumd::proto::etcd::etcdserverpb::response_op::Response as Answer;
use sumd::proto::etcd::etcdserverpb::{
    PutRequest, ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
};
use sumd::proto::sumd::store::v1::{Head, Meta, Pack};
use tokio::net::TcpListener;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Extensions, Status};
use tower::Service as _;

use crate::etcd::in_time;

/// An injected mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// None: transactions are only decoded and encoded again.
    None,
    /// Some batches are written whatever the lane's head is by then. If all were, nodes would find the log
    /// inconsistent, and stop.
    NoGuard,
    /// The ids of requests are not recorded.
    NoIds,
    /// Some batches are reported as committed and are not.
    EarlyAnswer,
    /// Clients take an unknown outcome for NOT_APPLIED.
    Guess,
}

/// One transaction in this many is written without its guard.
const UNGUARDED: u32 = 8;
/// One transaction in this many is not carried out.
const FORGOTTEN: u32 = 64;
const META: &str = "/sumd/meta";

/// A proxy in front of a member of etcd.
pub struct Mutator {
    pub host: Host,
    _task: JoinSet<()>,
}

#[derive(Clone)]
struct Way {
    mutant: Mutant,
    channel: Channel,
    state: Arc<Known>,
}

/// The known state of etcd.
struct Known {
    client: Client,
    hasher: OnceCell<KeyedHasher>,
    revision: AtomicI64,
    seen: AtomicU32,
}

impl Mutator {
    pub async fn start(mutant: Mutant, to: &Host, client: &Client) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let endpoint = Endpoint::from_shared(format!("http://{to}"));
        let way = Way {
            mutant,
            channel: endpoint.expect("a host is a URI").connect_lazy(),
            state: Arc::new(Known {
                client: client.clone(),
                hasher: OnceCell::new(),
                revision: AtomicI64::new(0),
                seen: AtomicU32::new(0),
            }),
        };
        let mut task = JoinSet::new();
        task.spawn(accept(listener, way));
        Self {
            host: address.to_string().parse().expect("a host"),
            _task: task,
        }
    }
}

async fn accept(listener: TcpListener, way: Way) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        let _ = stream.set_nodelay(true);
        let way = way.clone();
        connections.spawn(async move {
            let answer = service_fn(move |request| way.clone().answer(request));
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            // The end of a connection needs no handling.
            let _ = server.serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

impl Way {
    async fn answer(self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let answer = if request.uri().path() == "/etcdserverpb.KV/Txn" {
            self.transaction(request).await
        } else {
            self.pass(request).await
        };
        Ok(answer.unwrap_or_else(Status::into_http))
    }

    async fn pass(mut self, request: Request<Incoming>) -> Result<Response<Body>, Status> {
        let lost = |error: tonic::transport::Error| Status::unavailable(error.to_string());
        std::future::poll_fn(|context| self.channel.poll_ready(context))
            .await
            .map_err(lost)?;
        self.channel
            .call(request.map(Body::new))
            .await
            .map_err(lost)
    }

    async fn transaction(self, request: Request<Incoming>) -> Result<Response<Body>, Status> {
        // etcd knows the caller by the token that it sent here.
        let token = request.headers().get("token").cloned();
        let body = request.into_body().collect().await;
        let body = body.map_err(|error| Status::unavailable(error.to_string()))?;
        // One message, after the five bytes with its length.
        let message = body.to_bytes().split_off(5);
        let mut transaction = TxnRequest::decode(message).expect("a transaction");
        if lanes(&mut transaction).next().is_none() {
            return self.forward(transaction, token).await;
        }
        let seen = self.state.seen.fetch_add(1, Ordering::Relaxed) + 1;
        match self.mutant {
            Mutant::NoGuard if seen.is_multiple_of(UNGUARDED) => {
                lanes(&mut transaction).for_each(|lane| lane.compare.clear());
            }
            Mutant::NoIds => {
                let hasher = self.hasher().await;
                for op in lanes(&mut transaction).flat_map(|lane| &mut lane.success) {
                    if let Some(Op::RequestPut(put)) = &mut op.request {
                        forget_ids(hasher, put);
                    }
                }
            }
            Mutant::EarlyAnswer if seen.is_multiple_of(FORGOTTEN) => {
                return Ok(message_of(&self.promise(&transaction)));
            }
            Mutant::None | Mutant::NoGuard | Mutant::EarlyAnswer | Mutant::Guess => {}
        }
        self.forward(transaction, token).await
    }

    async fn forward(
        self,
        transaction: TxnRequest,
        token: Option<HeaderValue>,
    ) -> Result<Response<Body>, Status> {
        let mut client = KvClient::new(self.channel);
        let headers = token.map(|token| (HeaderName::from_static("token"), token));
        let metadata = MetadataMap::from_headers(headers.into_iter().collect());
        let request = tonic::Request::from_parts(metadata, Extensions::default(), transaction);
        let response = client.txn(request).await?.into_inner();
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        self.state.revision.fetch_max(revision, Ordering::Relaxed);
        Ok(message_of(&response))
    }

    /// The answer that etcd would give, as far as it can be known without asking.
    fn promise(&self, transaction: &TxnRequest) -> TxnResponse {
        let done = |_| ResponseOp {
            response: Some(Answer::ResponseTxn(TxnResponse {
                succeeded: true,
                ..TxnResponse::default()
            })),
        };
        TxnResponse {
            header: Some(ResponseHeader {
                revision: self.state.revision.load(Ordering::Relaxed) + 1,
                ..ResponseHeader::default()
            }),
            succeeded: true,
            responses: transaction.success.iter().map(done).collect(),
        }
    }

    /// The hasher for the check sums of rows.
    async fn hasher(&self) -> KeyedHasher {
        let read = async {
            let found = self.state.client.range(get(META), in_time()).await;
            let row = found.expect("etcd is well").kvs.remove(0);
            let meta = Meta::decode(&row.value[4..]).expect("a row");
            KeyedHasher::new((*meta.key).try_into().expect("a key"))
        };
        *self.state.hasher.get_or_init(|| read).await
    }
}

/// The nested transactions, one for each lane.
fn lanes(transaction: &mut TxnRequest) -> impl Iterator<Item = &mut TxnRequest> {
    let operations = transaction.success.iter_mut();
    operations.filter_map(|op| match &mut op.request {
        Some(Op::RequestTxn(lane)) => Some(lane),
        _ => None,
    })
}

fn forget_ids(hasher: KeyedHasher, put: &mut PutRequest) {
    let message = put.value.slice(4..);
    if put.key.starts_with(b"/sumd/log/head/") {
        let mut head = Head::decode(message).expect("a head");
        head.batches.iter_mut().for_each(|batch| batch.ids.clear());
        put.value = seal(hasher, &put.key, &head);
    } else if put.key.starts_with(b"/sumd/log/pack/") {
        let mut pack = Pack::decode(message).expect("a pack");
        pack.batches.iter_mut().for_each(|batch| batch.ids.clear());
        put.value = seal(hasher, &put.key, &pack);
    }
}

/// Seals a row as nodes do.
fn seal(hasher: KeyedHasher, key: &[u8], row: &impl Message) -> Bytes {
    let row = row.encode_to_vec();
    let mut value = BytesMut::new();
    value.put_u32_le(hasher.check(&[key, &row]));
    value.put_slice(&row);
    value.freeze()
}

fn message_of(message: &impl Message) -> Response<Body> {
    let message = message.encode_to_vec();
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).expect("a small message"));
    framed.put_slice(&message);
    let mut well = http::HeaderMap::new();
    well.insert("grpc-status", (Code::Ok as i32).into());
    let body = http_body_util::Full::new(framed.freeze());
    let body = body.with_trailers(std::future::ready(Some(Ok(well))));
    let mut response = Response::new(Body::new(body));
    let kind = http::HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", kind);
    response
}
