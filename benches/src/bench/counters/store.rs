//! A server that keeps counters: started on a folder of its own, asked for its totals, and stopped.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tokio::process::Command;

use super::{
    encode::{Names, ONE_GROUP},
    postgres::{self, Database},
    redis, sumd,
    works::{Contender, Engine, Load, Work},
};
use crate::server::{Running, beside_us, free_address, run};

pub const READY_TIMEOUT: Duration = Duration::from_secs(60);
pub const READY_PAUSE: Duration = Duration::from_millis(2);

/// Debian's folder for the programs of `PostgreSQL`, with a subfolder for each version.
const DEBIAN_POSTGRES: &str = "/usr/lib/postgresql";

/// The programs of the servers that are installed.
pub struct Programs {
    sumd: PathBuf,
    redis: Option<PathBuf>,
    postgres: Option<PathBuf>,
}

impl Programs {
    /// sumd without peers.
    pub fn alone(sumd: &Path) -> Result<Self> {
        ensure!(sumd.exists(), "no {}", sumd.display());
        Ok(Self {
            sumd: sumd.to_owned(),
            redis: None,
            postgres: None,
        })
    }

    pub fn found(sumd: &Path) -> Result<Self> {
        let redis = on_path("redis-server");
        let postgres = on_path("postgres").or_else(debian_postgres);
        for (name, found) in [("redis", &redis), ("postgres", &postgres)] {
            if found.is_none() {
                eprintln!("skipping {name}: its server is not installed");
            }
        }
        Ok(Self {
            redis,
            postgres,
            ..Self::alone(sumd)?
        })
    }

    pub fn can(&self, contender: &Contender, work: &Work) -> bool {
        contender.does(work) && self.of(contender.engine).is_ok()
    }

    pub fn of(&self, engine: Engine) -> Result<&Path> {
        let program = match engine {
            Engine::Sumd => Some(&self.sumd),
            Engine::Redis => self.redis.as_ref(),
            Engine::Postgres => self.postgres.as_ref(),
        };
        Ok(program.context("not installed")?)
    }
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut places = std::env::split_paths(&path).map(|folder| folder.join(program));
    places.find(|place| place.exists())
}

/// The newest version.
fn debian_postgres() -> Option<PathBuf> {
    let versions = fs::read_dir(DEBIAN_POSTGRES).ok()?.flatten();
    let version = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions.map(|entry| entry.path()).max_by_key(version)?;
    Some(newest.join("bin/postgres")).filter(|program| program.exists())
}

/// A new, empty folder on disk, which is removed at the end.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Result<Self> {
        let folder = Self(beside_us("data")?.join(name));
        // A killed bench may have left it.
        let _ = fs::remove_dir_all(&folder.0);
        fs::create_dir_all(&folder.0)?;
        Ok(folder)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Waits until the file system has written everything to disk, including the data of earlier runs.
    pub async fn sync(&self) -> Result<()> {
        run(Command::new("sync").arg("-f").arg(&self.0)).await?;
        Ok(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A client with one request in flight at a time.
pub enum Caller {
    Sumd(sumd::Incrementer),
    Redis(redis::Incrementer),
    Postgres(postgres::Incrementer),
}

impl Caller {
    /// Makes the next request, and checks the answer.
    pub async fn call(&mut self) -> Result<()> {
        match self {
            Self::Sumd(incrementer) => incrementer.call().await,
            Self::Redis(incrementer) => incrementer.call().await,
            Self::Postgres(incrementer) => incrementer.call().await,
        }
    }
}

pub struct Store {
    pub running: Running,
    pub engine: Engine,
    kind: Kind,
    counters: u32,
    /// Number of acknowledged increments, each of them by 1.
    pub acknowledged: u64,
    folder: Folder,
}

enum Kind {
    Sumd,
    Redis,
    Postgres(Box<Database>),
}

impl Store {
    /// Starts a server whose `counters` counters are 0, and waits until it answers.
    pub async fn start(programs: &Programs, engine: Engine, counters: u32) -> Result<Self> {
        let program = programs.of(engine)?;
        let folder = Folder::new(engine.name())?;
        let address = free_address()?;
        let (kind, command) = match engine {
            Engine::Sumd => {
                let command = sumd::command(program, &folder.0, address, &[]);
                (Kind::Sumd, command)
            }
            Engine::Redis => {
                let command = redis::command(program, &folder.0, address);
                (Kind::Redis, command)
            }
            Engine::Postgres => {
                let database = Database::create(program, &folder.0, address).await?;
                let command = database.serve(program, address);
                (Kind::Postgres(Box::new(database)), command)
            }
        };
        let mut store = Self {
            running: Running::spawn(command, engine.name(), address)?,
            engine,
            kind,
            counters,
            acknowledged: 0,
            folder,
        };
        store.ready().await?;
        store.folder.sync().await?;
        Ok(store)
    }

    async fn ready(&mut self) -> Result<()> {
        let address = self.running.address;
        let answers = async || match &self.kind {
            Kind::Sumd => sumd::value(address).await.map(drop),
            Kind::Redis => redis::Connection::open(address).await?.ping().await,
            Kind::Postgres(database) => postgres::connect(&database.login).await.map(drop),
        };
        let ready = self.running.ready(READY_PAUSE, READY_TIMEOUT, answers);
        ready.await?;
        if let Kind::Postgres(database) = &self.kind {
            database.fill(self.counters).await?;
        }
        Ok(())
    }

    /// Connected clients.
    pub async fn callers(&self, load: Load) -> Result<Vec<Caller>> {
        let address = self.running.address;
        let names = (0..load.clients).map(|client| Names::random(load.counters, client));
        let mut callers = Vec::new();
        match &self.kind {
            Kind::Sumd => {
                let clients = sumd::clients(address, "IncrementCounter", load.clients).await?;
                for (client, names) in clients.into_iter().zip(names) {
                    let incrementer = sumd::Incrementer::new(client, names, ONE_GROUP);
                    callers.push(Caller::Sumd(incrementer?));
                }
            }
            Kind::Redis => {
                for names in names {
                    let incrementer = redis::Incrementer::new(address, load.batch, names);
                    callers.push(Caller::Redis(incrementer.await?));
                }
            }
            Kind::Postgres(database) => {
                for names in names {
                    let incrementer = postgres::Incrementer::new(&database.login, names);
                    callers.push(Caller::Postgres(incrementer.await?));
                }
            }
        }
        Ok(callers)
    }

    /// A file for the bench itself, in the server's folder.
    pub fn scratch(&self) -> PathBuf {
        self.folder.0.join("scratch")
    }

    /// Compares the sum of all counters with the acknowledged increments, and stops the server.
    pub async fn finish(self) -> Result<()> {
        let address = self.running.address;
        let total = match &self.kind {
            Kind::Sumd => sumd::total(address).await?,
            Kind::Redis => {
                let mut connection = redis::Connection::open(address).await?;
                connection.total(self.counters).await?
            }
            Kind::Postgres(database) => database.total().await?,
        };
        ensure!(
            u64::try_from(total)? == self.acknowledged,
            "wrong total: got {total}, want {}",
            self.acknowledged
        );
        match self.kind {
            // If it were killed, a shared memory segment would be left behind.
            Kind::Postgres(_) => self.running.end_by("QUIT").await,
            _ => self.running.end().await,
        }
    }
}
