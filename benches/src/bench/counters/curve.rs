//! The cost of an increment in sumd, over its number of counters.

use std::time::Duration;

use anyhow::Result;

use super::{
    drive::{Run, drive, quiet},
    store::{Programs, Store},
    sumd,
    works::{CURVE_CLIENTS, CURVE_COUNTERS, Engine, Load, MESSAGE_INCREMENTS},
};

pub struct Point {
    pub counters: u32,
    pub record: Run,
    pub increment: Run,
}

/// Measures one server that gets more and more counters.
pub async fn measure(programs: &Programs, window: Duration) -> Result<Vec<Point>> {
    let mut store = Store::start(programs, Engine::Sumd, 0).await?;
    let mut points = Vec::new();
    let mut created = 0;
    for counters in CURVE_COUNTERS {
        eprint!("counters-curve {counters}: ");
        let address = store.running.address;
        store.acknowledged += sumd::create(address, created, counters).await?;
        created = counters;
        quiet(store.running.processes).await?;
        let load = |batch| Load {
            counters,
            clients: CURVE_CLIENTS,
            batch,
        };
        let record = drive(&mut store, load(MESSAGE_INCREMENTS), window).await?;
        let increment = drive(&mut store, load(1), window).await?;
        eprintln!(
            "{:.3} µs in bulk, {:.3} µs unary",
            record.figures.cpu_us, increment.figures.cpu_us
        );
        points.push(Point {
            counters,
            record,
            increment,
        });
    }
    store.finish().await?;
    Ok(points)
}
