//! The memory of sumd for a long stream and for idle connections.

use anyhow::{Result, ensure};
use bytes::Bytes;
use fastrand::Rng;
use h2::Ping;
use prost::encoding::{decode_key, decode_varint};
use tokio::task::JoinSet;

use crate::{
    grpc::{Client, handshake},
    server::Running,
    works::query,
};

const STREAM_BYTES: usize = 1_000_000_000;
/// Number of values of up to 31 bits that fill 4 MiB.
const MESSAGE_VALUES: usize = 845_000;
const MESSAGE_VALUE_BITS: u32 = 31;

const IDLE_CONNECTIONS: usize = 1_000;

/// The growth of the server's memory over idle, in MiB, while it sums a stream of a gigabyte.
pub async fn stream(server: &Running) -> Result<f64> {
    let query = query(
        &mut Rng::with_seed(1),
        1,
        MESSAGE_VALUES,
        MESSAGE_VALUE_BITS,
    );
    let messages = STREAM_BYTES.div_ceil(query.frames.len());
    let idle = server.processes.rss_mib()?;
    server.processes.reset_peak()?;

    let mut client = Client::connect(server.address, "sum.v1.SumService/AddAll").await?;
    let (mut requests, mut answers) = client.open().await?;
    for _ in 0..messages {
        // All messages share one buffer; h2 sends as the server's windows allow.
        requests.send_data(query.frames.clone(), false)?;
    }
    requests.send_data(Bytes::new(), true)?;

    let sum = u64::try_from(query.sums[0])? * messages as u64;
    let count = (MESSAGE_VALUES * messages) as u64;
    let answered = answers.message(sum_and_count).await?;
    ensure!(
        answered == (sum, count),
        "wrong answer: got {answered:?}, want {:?}",
        (sum, count)
    );
    answers.end().await?;
    Ok(server.processes.peak_rss_mib()? - idle)
}

/// The two fields of an `AddAllResponse`, in the order in which every implementation writes them.
fn sum_and_count(mut message: &[u8]) -> Result<(u64, u64)> {
    let mut field = |tag: u32| {
        let (found, _) = decode_key(&mut message)?;
        ensure!(found == tag, "field {found} in place of {tag}");
        Ok(decode_varint(&mut message)?)
    };
    Ok((field(1)?, field(2)?))
}

/// The memory of the server, in MiB, with many connections that have only exchanged settings.
pub async fn connections(server: &Running) -> Result<f64> {
    let mut connected = JoinSet::new();
    let mut senders = Vec::new();
    for _ in 0..IDLE_CONNECTIONS {
        let (sender, mut connection) = handshake(server.address).await?;
        let ping = connection.ping_pong();
        connected.spawn(connection);
        // A ping is answered after the settings were exchanged.
        if let Some(mut ping) = ping {
            ping.ping(Ping::opaque()).await?;
        }
        senders.push(sender);
    }
    server.processes.rss_mib()
}
