//! The history of the figures: a line of CSV for each work, appended to a file (`--history`).

use std::{fmt::Write as _, fs, io::Write as _, path::Path};

use anyhow::{Context as _, Result};
use tokio::process::Command;

use crate::server::run;

/// The columns, as README.md describes them.
const HEADER: &str = "date,version,commit,machine,runs,work,cpu_us,per_second,peer,ratio";

/// sumd's medians on a work.
pub struct Entry {
    pub work: String,
    /// The number of runs that the medians are of.
    pub runs: usize,
    /// CPU time of a sum or an increment.
    pub cpu_us: f64,
    /// Sums or increments a second.
    pub per_second: f64,
    pub peer: Option<Peer>,
}

/// A peer of sumd on a work.
pub struct Peer {
    pub name: &'static str,
    /// sumd's CPU time over the peer's, in the same runs.
    pub ratio: f64,
}

/// The columns that all lines of one bench share.
struct Origin {
    date: String,
    version: String,
    commit: String,
    machine: String,
}

impl Origin {
    async fn of(sumd: &Path) -> Result<Self> {
        let line = async |program: &str, arguments: &[&str]| -> Result<String> {
            let output = run(Command::new(program).args(arguments)).await?;
            Ok(output.trim().to_owned())
        };
        let version = run(Command::new(sumd).arg("--version")).await?;
        let version = version.split_whitespace().last().context("a version")?;
        Ok(Self {
            date: line("date", &["--utc", "+%F"]).await?,
            version: version.to_owned(),
            commit: line("git", &["describe", "--always", "--dirty", "--exclude=*"]).await?,
            machine: machine()?,
        })
    }

    fn line(&self, entry: &Entry) -> Result<String> {
        let Self {
            date,
            version,
            commit,
            machine,
        } = self;
        let Entry {
            work,
            runs,
            cpu_us,
            per_second,
            peer,
        } = entry;
        let mut line = format!(
            "{date},{version},{commit},{machine},{runs},{work},{cpu_us:.4},{per_second:.0}"
        );
        match peer {
            Some(Peer { name, ratio }) => writeln!(line, ",{name},{ratio:.4}")?,
            None => writeln!(line, ",,")?,
        }
        Ok(line)
    }
}

/// The processor and the number of its cores, without a comma.
fn machine() -> Result<String> {
    let cpus = fs::read_to_string("/proc/cpuinfo")?;
    let names = cpus
        .lines()
        .filter_map(|line| line.strip_prefix("model name"))
        .filter_map(|rest| rest.split_once(':'));
    let names: Vec<_> = names.map(|(_, name)| name.trim()).collect();
    let name = names.first().context("a processor")?;
    Ok(format!("{} × {}", names.len(), name).replace(',', ""))
}

/// Appends a line for each entry to the file, after a header if it is new.
pub async fn append(path: &Path, sumd: &Path, entries: &[Entry]) -> Result<()> {
    let origin = Origin::of(sumd).await?;
    let mut file = fs::File::options().create(true).append(true).open(path)?;
    let mut text = String::new();
    if file.metadata()?.len() == 0 {
        writeln!(text, "{HEADER}")?;
    }
    for entry in entries {
        text.push_str(&origin.line(entry)?);
    }
    file.write_all(text.as_bytes())?;
    Ok(())
}
