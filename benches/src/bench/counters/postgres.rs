//! The load on `PostgreSQL`, and the creation of a server.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::chown,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use tokio::process::Command;
use tokio_postgres::{Client, Config, NoTls, Statement};

use super::encode::{Ids, Names, PREFIX};
use crate::server::{bound_to_us, run};

const USER: &str = "bench";

/// The account that Debian's packages create for it.
const SYSTEM_USER: &str = "postgres";

/// For the clients, and a few internal ones.
const MAX_CONNECTIONS: u32 = 300;

/// A database that is ready to be served.
pub struct Database {
    data: PathBuf,
    /// The user to run the server as, if this is root: the server refuses to run as root.
    system_user: Option<u32>,
    /// The address and credentials of clients.
    pub login: Config,
}

impl Database {
    /// Creates one in the folder `data`, for a server on `address`, with the programs beside `program`.
    pub async fn create(program: &Path, data: &Path, address: SocketAddr) -> Result<Self> {
        let user_id = async |user: &[&str]| -> Result<u32> {
            let id = run(Command::new("id").arg("-u").args(user)).await?;
            Ok(id.trim().parse()?)
        };
        let root = user_id(&[]).await? == 0;
        let system_user = if root {
            Some(user_id(&[SYSTEM_USER]).await?)
        } else {
            None
        };
        // Keeps other users of this machine out.
        let password = Ids::default().next_string();
        let password_file = data.join("password");
        fs::write(&password_file, &password)?;
        for path in [data, &password_file] {
            chown(path, system_user, None)?;
        }
        let mut login = Config::new();
        login
            .host(address.ip().to_string())
            .port(address.port())
            .user(USER)
            .password(password)
            .dbname("postgres");
        let database = Self {
            data: data.join("postgres"),
            system_user,
            login,
        };
        let mut initdb = database.command(&program.with_file_name("initdb"));
        initdb
            .args(["--username", USER, "--auth", "scram-sha-256"])
            .arg("--pwfile")
            .arg(password_file)
            .args(["--no-locale", "--encoding", "UTF8"]);
        run(&mut initdb).await?;
        Ok(database)
    }

    /// A server that answers only after its data are on disk.
    pub fn serve(&self, program: &Path, address: SocketAddr) -> Command {
        let mut command = self.command(program);
        for setting in [
            format!("listen_addresses={}", address.ip()),
            format!("port={}", address.port()),
            format!("max_connections={MAX_CONNECTIONS}"),
            "unix_socket_directories=".to_owned(),
            "synchronous_commit=on".to_owned(),
            "fsync=on".to_owned(),
        ] {
            command.args(["-c", &setting]);
        }
        command
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = match self.system_user {
            Some(id) => {
                let mut command = bound_to_us("setpriv");
                command
                    .args(["--reuid", &id.to_string(), "--regid", SYSTEM_USER])
                    // Changing the user has reset the death signal.
                    .args(["--init-groups", "--pdeathsig", "KILL"])
                    .arg(program);
                command
            }
            None => bound_to_us(program),
        };
        command.arg("-D").arg(&self.data);
        command
    }

    /// Creates the table, with all counters in it.
    pub async fn fill(&self, counters: u32) -> Result<()> {
        let sql = format!(
            "CREATE TABLE counter (k text PRIMARY KEY, v bigint NOT NULL);
             INSERT INTO counter
                 SELECT '{PREFIX}' || lpad(k::text, 8, '0'), 0 FROM generate_series(0, {}) k;",
            counters - 1
        );
        let client = connect(&self.login).await?;
        client.batch_execute(&sql).await?;
        Ok(client.batch_execute("VACUUM ANALYZE counter").await?)
    }

    /// The sum of all counters.
    pub async fn total(&self) -> Result<i64> {
        let client = connect(&self.login).await?;
        let sql = "SELECT sum(v)::bigint FROM counter";
        Ok(client.query_one(sql, &[]).await?.get(0))
    }
}

pub async fn connect(login: &Config) -> Result<Client> {
    let (client, connection) = login.connect(NoTls).await?;
    // An error of the connection surfaces in each query on it.
    tokio::spawn(connection);
    Ok(client)
}

/// Increments counters by a prepared statement, each in a transaction of its own.
pub struct Incrementer {
    client: Client,
    update: Statement,
    names: Names,
}

impl Incrementer {
    pub async fn new(login: &Config, names: Names) -> Result<Self> {
        let client = connect(login).await?;
        let update = "UPDATE counter SET v = v + $1 WHERE k = $2";
        let update = client.prepare(update).await.context("cannot prepare")?;
        Ok(Self {
            client,
            update,
            names,
        })
    }

    pub async fn call(&mut self) -> Result<()> {
        let name = self.names.next();
        let rows = self.client.execute(&self.update, &[&1_i64, &name]).await?;
        ensure!(rows == 1, "{rows} rows were updated");
        Ok(())
    }
}
