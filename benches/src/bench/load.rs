//! The load: keeps a fixed number of requests in flight and checks every answer.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use anyhow::Result;
use bytes::Bytes;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    grpc::Client,
    measure::{Edge, Latencies, Measurement, WARM_UP},
    server::Running,
    works::{BATCH_MESSAGES, CONNECTIONS, Method, Query, WINDOW_MESSAGES, Work},
};

/// Puts `work` with these `queries` on `server`, and measures `window` after the warm-up.
pub async fn drive(
    server: &Running,
    work: &Work,
    queries: Arc<[Query]>,
    window: Duration,
) -> Result<Measurement> {
    let idle_mib = server.processes.rss_mib()?;
    server.processes.reset_peak()?;
    let latencies = Latencies::default();
    let opening = Instant::now() + WARM_UP;
    let end = opening + window;

    let mut tasks = JoinSet::new();
    for connection in 0..CONNECTIONS {
        let client = Client::connect(server.address, work.method.path()).await?;
        for call in 0..work.in_flight {
            let first = connection * work.in_flight + call;
            let (client, queries, latencies) = (client.clone(), queries.clone(), latencies.clone());
            match work.method {
                Method::Add => tasks.spawn(add(client, queries, first, end, latencies)),
                Method::AddEach => tasks.spawn(add_each(client, queries, first, end, latencies)),
            };
        }
    }

    sleep_until(opening).await;
    let opened = (
        Edge::now(server.processes)?,
        latencies.with(|all| all.len()),
    );
    sleep_until(end).await;
    let closed = (
        Edge::now(server.processes)?,
        latencies.with(|all| all.len()),
    );
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }

    let sums_a_latency = queries[0].sums.len();
    let in_window = latencies.with(|all| all[opened.1..closed.1].to_vec());
    let memory = (idle_mib, server.processes.peak_rss_mib()?);
    Measurement::new(&opened.0, &closed.0, in_window, sums_a_latency, memory)
}

/// Makes one unary call after the other.
async fn add(
    mut client: Client,
    queries: Arc<[Query]>,
    first: usize,
    end: Instant,
    latencies: Latencies,
) -> Result<()> {
    for query in queries.iter().cycle().skip(first % queries.len()) {
        let sent = Instant::now();
        if sent >= end {
            break;
        }
        client.add(query).await?;
        latencies.with(|all| all.push(sent.elapsed()));
    }
    Ok(())
}

/// Keeps a window of messages in flight on one stream, sent in batches.
async fn add_each(
    mut client: Client,
    queries: Arc<[Query]>,
    first: usize,
    end: Instant,
    latencies: Latencies,
) -> Result<()> {
    let mut batches = queries.iter().cycle().skip(first % queries.len());
    let (mut requests, mut answers) = client.open().await?;
    let mut unanswered = VecDeque::new();
    loop {
        while unanswered.len() < WINDOW_MESSAGES / BATCH_MESSAGES && Instant::now() < end {
            let batch = batches.next().expect("an endless cycle");
            requests.send_data(batch.frames.clone(), false)?;
            unanswered.push_back((Instant::now(), batch));
        }
        let Some((sent, batch)) = unanswered.pop_front() else {
            break;
        };
        for sum in &batch.sums {
            answers.expect(*sum).await?;
        }
        latencies.with(|all| all.push(sent.elapsed()));
    }
    requests.send_data(Bytes::new(), true)?;
    answers.end().await
}
