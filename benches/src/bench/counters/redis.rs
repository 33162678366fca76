//! The load on Redis.

use std::{net::SocketAddr, path::Path};

use anyhow::{Result, bail, ensure};
use bytes::{Buf as _, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::Command,
};

use super::encode::{Batch, Names, ONE_GROUP, name};
use crate::server::bound_to_us;

/// Names per command that reads counters.
const READ_NAMES: u32 = 1_000;

/// A server that answers only after its data are on disk, and keeps no other files there.
pub fn command(program: &Path, data: &Path, address: SocketAddr) -> Command {
    let mut command = bound_to_us(program);
    command
        .args(["--bind", &address.ip().to_string()])
        .args(["--port", &address.port().to_string()])
        .arg("--dir")
        .arg(data)
        .args(["--appendonly", "yes"])
        .args(["--appendfsync", "always"])
        .args(["--save", ""]);
    command
}

pub struct Connection {
    stream: TcpStream,
    unread: BytesMut,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            unread: BytesMut::new(),
        })
    }

    pub async fn ping(&mut self) -> Result<()> {
        self.stream.write_all(&command_of(&["PING"])).await?;
        let answer = self.line().await?;
        ensure!(answer == "+PONG", "not ready: {answer}");
        Ok(())
    }

    /// The sum of `counters` counters.
    pub async fn total(&mut self, counters: u32) -> Result<i64> {
        let mut total = 0;
        for first in (0..counters).step_by(READ_NAMES as usize) {
            let indexes = first..counters.min(first + READ_NAMES);
            let names: Vec<_> = indexes.map(name).collect();
            let words: Vec<_> = ["MGET"]
                .into_iter()
                .chain(names.iter().map(String::as_str))
                .collect();
            self.stream.write_all(&command_of(&words)).await?;
            let header = self.line().await?;
            ensure!(
                header == format!("*{}", names.len()),
                "wrong answer: {header}"
            );
            for _ in names {
                total += self.bulk().await?;
            }
        }
        Ok(total)
    }

    /// Reads a counter that is sent as a string; a missing one is 0.
    async fn bulk(&mut self) -> Result<i64> {
        let length = self.line().await?;
        if length == "$-1" {
            return Ok(0);
        }
        Ok(self.line().await?.parse()?)
    }

    async fn line(&mut self) -> Result<String> {
        loop {
            if let Some(end) = self.unread.windows(2).position(|two| two == b"\r\n") {
                let line = String::from_utf8(self.unread.split_to(end).to_vec())?;
                self.unread.advance(2);
                return Ok(line);
            }
            self.read().await?;
        }
    }

    /// Reads `count` answers, which must be integers and the only ones.
    async fn integers(&mut self, count: usize) -> Result<()> {
        let mut integers = 0;
        while integers < count {
            self.read().await?;
            let lines = self.unread.split_inclusive(|byte| *byte == b'\n');
            let whole = lines.filter(|line| line.ends_with(b"\n"));
            let mut read = 0;
            for line in whole {
                ensure!(
                    line.starts_with(b":"),
                    "wrong answer: {}",
                    String::from_utf8_lossy(line)
                );
                integers += 1;
                read += line.len();
            }
            self.unread.advance(read);
        }
        ensure!(
            integers == count && self.unread.is_empty(),
            "more answers than requests"
        );
        Ok(())
    }

    async fn read(&mut self) -> Result<()> {
        if self.stream.read_buf(&mut self.unread).await? == 0 {
            bail!("the connection has ended");
        }
        Ok(())
    }
}

/// Increments counters by pipelines of commands, one pipeline after the other.
pub struct Incrementer {
    connection: Connection,
    commands: Batch,
    count: usize,
    names: Names,
}

impl Incrementer {
    pub async fn new(address: SocketAddr, count: usize, names: Names) -> Result<Self> {
        let one = command_of(&["INCRBY", &name(0), "1"]);
        Ok(Self {
            connection: Connection::open(address).await?,
            commands: Batch::new(&one, count, ONE_GROUP)?,
            count,
            names,
        })
    }

    pub async fn call(&mut self) -> Result<()> {
        let commands = self.commands.name(&mut self.names);
        self.connection.stream.write_all(commands).await?;
        self.connection.integers(self.count).await
    }
}

fn command_of(words: &[&str]) -> Vec<u8> {
    let words = words.iter();
    let head = format!("*{}\r\n", words.len());
    let bulks = words.map(|word| format!("${}\r\n{word}\r\n", word.len()));
    [head].into_iter().chain(bulks).collect::<String>().into()
}
