//! Connects to one endpoint, or to the first of several that is fit.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::Request;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use super::fault::innermost;
use super::token::Token;
use super::{Error, Fault, Host, Options, Outcome, Refusal, Tls};
use crate::proto::etcd::etcdserverpb::StatusRequest;
use crate::proto::etcd::etcdserverpb::maintenance_client::MaintenanceClient;

/// The bytes that may wait unread on one stream, mostly a watch.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// The same for all streams. A connection ends if its unread frames would not fit into half of this, and small ones
/// count as 256 bytes: a watch of small events that nobody reads must not come near.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// HTTP/2 pings while a call waits, so that a dead connection ends. etcd ends connections that ping more often than
/// every 5 s.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// TCP's keepalive. Middleboxes do not forget the connection, and a dead one is detected before it is used.
const TCP_KEEPALIVE: Duration = Duration::from_secs(10);

/// The reason why the files of the TLS options cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// One of them cannot be read.
    #[error("cannot read {path}: {1}", path = .0.display())]
    Read(PathBuf, io::Error),
    /// One of them has no PEM certificate.
    #[error("there is no PEM certificate in {path}", path = .0.display())]
    NoCertificate(PathBuf),
    /// They do not fit together, or are damaged.
    #[error("TLS to etcd: {0}")]
    Content(String),
}

/// The configuration of an endpoint, which is not connected yet.
pub(super) fn endpoint(host: &Host, tls: Option<&Tls>) -> Result<Endpoint, TlsError> {
    let wrong = |error: tonic::transport::Error| TlsError::Content(innermost(&error));
    let scheme = if tls.is_some() { "https" } else { "http" };
    let endpoint = Endpoint::from_shared(format!("{scheme}://{host}"))
        .map_err(wrong)?
        .tcp_keepalive(Some(TCP_KEEPALIVE))
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    let Some(tls) = tls else { return Ok(endpoint) };
    // The files are small, and read once for each connection.
    let read = |path: &Path| fs::read(path).map_err(|error| TlsError::Read(path.to_owned(), error));
    let mut config = ClientTlsConfig::new().domain_name(&host.name);
    config = match &tls.ca {
        Some(ca) => config.ca_certificate(Certificate::from_pem(certificates(ca, read(ca)?)?)),
        None => config.with_native_roots(),
    };
    if let Some(identity) = &tls.identity {
        let cert = certificates(&identity.cert, read(&identity.cert)?)?;
        let key = read(&identity.key)?;
        config = config.identity(tonic::transport::Identity::from_pem(cert, key));
    }
    endpoint.tls_config(config).map_err(wrong)
}

/// Checks that a PEM file has a certificate. Without one nobody would be trusted, and no error would say why.
fn certificates(path: &Path, pem: Vec<u8>) -> Result<Vec<u8>, TlsError> {
    const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
    if pem.windows(BEGIN.len()).any(|window| window == BEGIN) {
        return Ok(pem);
    }
    Err(TlsError::NoCertificate(path.to_owned()))
}

/// Connects to an endpoint, within the timeout for that.
pub(super) async fn connect(host: &Host, options: &Options) -> Result<Channel, Error> {
    let failed = |message: String| unfit(host, message);
    let endpoint = endpoint(host, options.tls.as_ref());
    let endpoint = endpoint.map_err(|error| failed(error.to_string()))?;
    let channel = timeout(options.timeouts.connect, endpoint.connect()).await;
    let channel = channel.map_err(|_| failed("no connection in time".to_owned()))?;
    channel.map_err(|error| failed(innermost(&error)))
}

/// Connects to the first endpoint that is fit, beginning with `first`. A slow one does not delay the others.
pub(super) async fn connect_to_any(
    first: usize,
    options: &Options,
    token: &Token,
) -> Result<(usize, Channel), Error> {
    let mut attempts = JoinSet::new();
    let mut problems = Vec::new();
    let count = options.endpoints.len();
    let mut order = (0..count).map(|offset| (first + offset) % count);
    loop {
        if let Some(index) = order.next() {
            let (options, token) = (options.clone(), token.clone());
            attempts.spawn(async move { (index, fit(index, &options, &token).await) });
        }
        let joined = tokio::select! {
            joined = attempts.join_next() => joined,
            () = sleep(options.timeouts.stagger), if order.len() > 0 => continue,
        };
        match joined {
            Some(Ok((index, Ok(channel)))) => return Ok((index, channel)),
            Some(Ok((_, Err(error)))) => problems.push(error.to_string()),
            Some(Err(error)) => problems.push(error.to_string()),
            None => return Err(Error::not_connected(problems.join("; "))),
        }
    }
}

/// Connects to an endpoint and asks for its status: a stopped process accepts connections, too.
async fn fit(index: usize, options: &Options, token: &Token) -> Result<Channel, Error> {
    let host = &options.endpoints[index];
    let channel = connect(host, options).await?;
    let mut request = Request::new(StatusRequest {});
    token.put(&mut request);
    let mut client = MaintenanceClient::new(channel.clone());
    let status = timeout(options.timeouts.connect, client.status(request)).await;
    let status = match status {
        Ok(Ok(status)) => status.into_inner(),
        Ok(Err(status)) => {
            let error = Fault::new(&status, host).before_sending().error;
            if error.outcome == Outcome::Definite(Refusal::NotLoggedIn) {
                // The member answers, and will report the rest once it knows the user.
                return Ok(channel);
            }
            return Err(error);
        }
        Err(_) => return Err(unfit(host, "no answer in time".to_owned())),
    };
    if status.is_learner {
        return Err(unfit(host, "it is a learner".to_owned()));
    }
    if status.leader == 0 {
        return Err(unfit(host, "it has no leader".to_owned()));
    }
    Ok(channel)
}

fn unfit(host: &Host, problem: String) -> Error {
    Error {
        endpoint: Some(host.clone()),
        ..Error::not_connected(problem)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use tokio::net::TcpSocket;

    use super::*;

    /// A port without a listener, which is bound so that nobody else can have it.
    pub fn closed() -> TcpSocket {
        let socket = TcpSocket::new_v4().expect("a socket");
        let any = "127.0.0.1:0".parse().expect("an address");
        socket.bind(any).expect("a port");
        socket
    }

    #[test]
    fn a_file_without_a_certificate_is_refused() {
        let path = Path::new("etcd-ca.pem");
        let pem = b"text\n-----BEGIN CERTIFICATE-----\nMII\n".to_vec();
        let taken = certificates(path, pem.clone());
        assert!(taken.is_ok_and(|taken| taken == pem));
        for pem in ["", "-----BEGIN PRIVATE KEY-----"] {
            let refused = certificates(path, pem.into()).expect_err("there is none");
            assert!(matches!(refused, TlsError::NoCertificate(_)), "{pem}");
            assert!(refused.to_string().contains("etcd-ca.pem"), "{refused}");
        }
    }

    /// Each endpoint is tried once, whichever comes first, and the error names all of them.
    #[tokio::test]
    async fn all_endpoints_are_tried() {
        let closed = [(); 3].map(|()| closed());
        let [a, b, c] = &closed;
        let host = |socket: &TcpSocket| socket.local_addr().expect("it is bound").to_string();
        let [a, b, c] = [a, b, c].map(host);
        let address = format!("etcd://{a},{b},{c}").parse().expect("an address");
        let mut options = Options::new(&address);
        // One after the other.
        options.timeouts.stagger = Duration::from_hours(1);
        for (first, order) in [(0, [&a, &b, &c]), (1, [&b, &c, &a]), (2, [&c, &a, &b])] {
            let failed = connect_to_any(first, &options, &Token::default()).await;
            let error = failed.expect_err("nobody listens").to_string();
            let at = order.map(|host| error.find(host.as_str()));
            assert!(at.is_sorted() && at[0].is_some(), "{error}");
            assert!(error.contains("refused"), "{error}");
            for host in order {
                assert_eq!(error.matches(host.as_str()).count(), 1, "{error}");
            }
        }
    }
}
