//! The load on sumd's nodes, spread over them.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use tokio::{task::JoinSet, time::Instant};

use super::{
    system::{Figures, System, Window},
    works::{CLIENTS, Load},
};
use crate::{
    counters::{
        encode::{Layout, Names},
        sumd::{self, CREATORS, Incrementer},
    },
    grpc::Client,
    measure::Latencies,
    works::{Method, Query, WORKS},
};

/// Puts the load on the nodes, and measures a window of this length after the warm-up.
pub async fn closed(system: &mut System, load: Load, length: Duration) -> Result<Figures> {
    let latencies = Latencies::default();
    let mut tasks = JoinSet::new();
    let window;
    if load.batch == 1 {
        let incrementers = system
            .nodes
            .incrementers(load.layout, load.counters, load.clients)
            .await?;
        window = Window::of(length);
        for incrementer in incrementers {
            tasks.spawn(increment(incrementer, window.end, latencies.clone()));
        }
    } else {
        let clients = system.nodes.clients("RecordIncrements", load.clients);
        let clients = clients.await?;
        window = Window::of(length);
        for (number, client) in clients.into_iter().enumerate() {
            let names = Names::random(load.counters, number);
            let latencies = latencies.clone();
            tasks.spawn(sumd::record(
                client,
                names,
                load.layout,
                window.end,
                latencies,
            ));
        }
    }
    let figures = system
        .measure(tasks, window, &latencies, load.batch)
        .await?;
    system.nodes.acknowledged += figures.answered;
    Ok(figures)
}

/// Makes one increment after the other.
async fn increment(mut incrementer: Incrementer, end: Instant, latencies: Latencies) -> Result<()> {
    loop {
        let sent = Instant::now();
        if sent >= end {
            return Ok(());
        }
        incrementer.call().await?;
        latencies.with(|all| all.push(sent.elapsed()));
    }
}

/// Increments the counters numbered from `first` to below `end` once each, in bulk.
pub async fn create(system: &mut System, layout: Layout, first: u32, end: u32) -> Result<()> {
    let clients = system.nodes.clients("RecordIncrements", CREATORS).await?;
    let created = sumd::create_by(clients, layout, first, end).await?;
    system.nodes.acknowledged += created;
    Ok(())
}

/// Measures sums on the nodes.
pub async fn adds(system: &System, length: Duration) -> Result<Figures> {
    let adds = WORKS.iter().find(|work| work.name == "add-3");
    let queries: Arc<[Query]> = adds.context("no such work")?.queries().into();
    let latencies = Latencies::default();
    let mut clients = Vec::new();
    for address in system.nodes.addresses() {
        clients.push(Client::connect(address, Method::Add.path()).await?);
    }
    let clients = clients.iter().cycle().take(CLIENTS);
    let mut tasks = JoinSet::new();
    let window = Window::of(length);
    for (client, first) in clients.zip(0..) {
        let (mut client, queries, latencies) = (client.clone(), queries.clone(), latencies.clone());
        tasks.spawn(async move {
            for query in queries.iter().cycle().skip(first % queries.len()) {
                let sent = Instant::now();
                if sent >= window.end {
                    break;
                }
                client.add(query).await?;
                latencies.with(|all| all.push(sent.elapsed()));
            }
            Ok(())
        });
    }
    system.measure(tasks, window, &latencies, 1).await
}
