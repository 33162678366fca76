//! The load on the net/rpc server: a Go program, because only Go supports gob.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::{
    measure::{Edge, Measurement, WARM_UP},
    server::{Running, beside_us, bound_to_us},
    works::{CONNECTIONS, Work},
};

#[derive(Deserialize)]
struct Report {
    calls: usize,
    p50_us: f64,
    p99_us: f64,
}

/// Puts `work` on `server`, and measures `window` after the warm-up.
pub async fn drive(server: &Running, work: &Work, window: Duration) -> Result<Measurement> {
    let idle_mib = server.processes.rss_mib()?;
    server.processes.reset_peak()?;
    let program = beside_us("go-netrpc-load")?;
    let mut load = bound_to_us(&program)
        .args(["-address", &server.address.to_string()])
        .args(["-connections", &CONNECTIONS.to_string()])
        .args(["-in-flight", &work.in_flight.to_string()])
        .args(["-values", &work.values.to_string()])
        .args(["-bits", &work.bits.to_string()])
        .args(["-distinct", &work.distinct.to_string()])
        .args(["-warm-up", &format!("{}ms", WARM_UP.as_millis())])
        .args(["-window", &format!("{}ms", window.as_millis())])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(load.stdout.take().context("no output")?).lines();

    ensure!(
        lines.next_line().await?.as_deref() == Some("start"),
        "the load failed"
    );
    let opened = Edge::now(server.processes)?;
    ensure!(
        lines.next_line().await?.as_deref() == Some("stop"),
        "the load failed"
    );
    let closed = Edge::now(server.processes)?;
    let report = lines.next_line().await?.context("the load failed")?;
    let report: Report = serde_json::from_str(&report)?;

    Ok(Measurement::from_quantiles(
        &opened,
        &closed,
        report.calls,
        (report.p50_us, report.p99_us),
        (idle_mib, server.processes.peak_rss_mib()?),
    ))
}
