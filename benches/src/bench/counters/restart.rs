//! The time until sumd answers again after a kill, with many ids to remember.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Result, ensure};
use tokio::{task::JoinSet, time::Instant};

use super::{
    encode::{Names, ONE_GROUP},
    store::{Folder, Programs, READY_PAUSE, READY_TIMEOUT},
    sumd::{self, Incrementer},
    works::{Engine, RESTART_CLIENTS, RESTART_COUNTERS},
};
use crate::{
    grpc::Refused,
    server::{Running, free_address},
};

/// Ids are added until the server's memory for them is full, or for this long.
const FILLING: Duration = Duration::from_secs(60);

/// Memory for a fixed number of ids, independent of the machine, so that figures are comparable.
pub const ID_MEMORY: [&str; 2] = ["--id-memory", "256MiB"];

/// `RESOURCE_EXHAUSTED`, the status when the memory is full.
const FULL: &str = "8";

pub struct Restart {
    /// Number of ids added.
    pub ids: u64,
    /// Whether the memory was full.
    pub full: bool,
    /// Time from the start of the process to its first answer.
    pub seconds: f64,
}

pub async fn measure(programs: &Programs) -> Result<Restart> {
    eprint!("restart: ");
    let program = programs.of(Engine::Sumd)?;
    let folder = Folder::new("sumd")?;
    let server = start(program, folder.path()).await?;
    let created = sumd::create(server.address, 0, RESTART_COUNTERS).await?;
    let (ids, full) = fill(server.address).await?;
    server.kill().await?;

    let start_of_process = Instant::now();
    let server = start(program, folder.path()).await?;
    let seconds = start_of_process.elapsed().as_secs_f64();

    let total = sumd::total(server.address).await?;
    ensure!(
        u64::try_from(total)? == created + ids,
        "wrong total: got {total}, want {}",
        created + ids
    );
    server.kill().await?;
    eprintln!("{seconds:.3} s");
    Ok(Restart { ids, full, seconds })
}

async fn start(program: &Path, data: &Path) -> Result<Running> {
    let address = free_address()?;
    let command = sumd::command(program, data, address, &ID_MEMORY);
    let mut server = Running::spawn(command, Engine::Sumd.name(), address)?;
    let answers = async || sumd::value(address).await.map(drop);
    server.ready(READY_PAUSE, READY_TIMEOUT, answers).await?;
    Ok(server)
}

/// Adds as many ids as the server remembers. Returns their number, and whether its memory is full.
async fn fill(address: SocketAddr) -> Result<(u64, bool)> {
    let end = Instant::now() + FILLING;
    let mut tasks = JoinSet::new();
    let clients = sumd::clients(address, "IncrementCounter", RESTART_CLIENTS).await?;
    for (number, client) in clients.into_iter().enumerate() {
        let names = Names::random(RESTART_COUNTERS, number);
        tasks.spawn(increment(Incrementer::new(client, names, ONE_GROUP)?, end));
    }
    let (mut ids, mut full) = (0, false);
    while let Some(ended) = tasks.join_next().await {
        let (some, refused) = ended??;
        ids += some;
        full |= refused;
    }
    Ok((ids, full))
}

async fn increment(mut incrementer: Incrementer, end: Instant) -> Result<(u64, bool)> {
    let mut count = 0;
    while Instant::now() < end {
        match incrementer.call().await {
            Ok(()) => count += 1,
            Err(error) => match error.downcast_ref::<Refused>() {
                Some(refused) if refused.status == FULL => return Ok((count, true)),
                _ => return Err(error),
            },
        }
    }
    Ok((count, false))
}
