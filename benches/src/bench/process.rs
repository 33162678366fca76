//! The CPU time and memory of a server, from `/proc`: of the process itself, and of its descendants.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};

/// The unit of times in `/proc/<pid>/stat`: Linux reports them in hundredths of a second on every platform that it runs
/// servers on.
const TICK: Duration = Duration::from_millis(10);

/// Positions of fields in `/proc/<pid>/stat`, after the program's name.
const PARENT: usize = 1;
const OWN_TIMES: [usize; 2] = [11, 12];
const CHILDREN_TIMES: [usize; 2] = [13, 14];

/// Positions of times in the lines of `/proc/stat`.
const IDLE_TIMES: [usize; 2] = [3, 4];

/// A process and all its descendants.
#[derive(Clone, Copy)]
pub struct Processes {
    root: u32,
}

impl Processes {
    pub fn new(root: u32) -> Self {
        Self { root }
    }

    /// CPU time of all of them so far, including those that have ended.
    ///
    /// The time of a process that ends moves to its parent's figures, and could be counted twice or not at all if it
    /// ends during the reading. In that case everything is read again.
    pub fn cpu(self) -> Result<Duration> {
        loop {
            let ids = self.ids()?;
            let ended = ended_cpu(&ids);
            let living: Duration = ids.iter().filter_map(|id| own_cpu(*id).ok()).sum();
            if ended_cpu(&ids) == ended {
                return Ok(ended + living);
            }
        }
    }

    /// CPU time of the first process so far, which is all if it starts no others.
    pub fn first_cpu(self) -> Result<Duration> {
        own_cpu(self.root)
    }

    /// Memory in use, in MiB; shared memory is counted once.
    pub fn shared_mib(self) -> Result<f64> {
        let ids = self.ids()?;
        let each = ids
            .iter()
            .filter_map(|id| mib(&folder(*id).join("smaps_rollup"), "Pss:").ok());
        Ok(each.sum())
    }

    /// Memory in use by the first process, in MiB.
    pub fn rss_mib(self) -> Result<f64> {
        mib(&folder(self.root).join("status"), "VmRSS:")
    }

    /// The peak memory of the first process since its start or the last [`Self::reset_peak`], in MiB.
    pub fn peak_rss_mib(self) -> Result<f64> {
        mib(&folder(self.root).join("status"), "VmHWM:")
    }

    pub fn reset_peak(self) -> Result<()> {
        fs::write(folder(self.root).join("clear_refs"), "5")
            .context("cannot reset the peak of memory")
    }

    fn ids(self) -> Result<Vec<u32>> {
        let mut others = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let Some(id) = entry?.file_name().to_str().and_then(|id| id.parse().ok()) else {
                continue;
            };
            // A process that has just ended has no entry any more.
            if let Ok(parent) = stat(id).and_then(|stat| number(&stat, PARENT)) {
                others.push((id, parent));
            }
        }
        let mut ids = vec![self.root];
        let mut next = 0;
        while let Some(parent) = ids.get(next).copied() {
            let children = others.iter().filter(|other| other.1 == parent);
            ids.extend(children.map(|child| child.0));
            next += 1;
        }
        Ok(ids)
    }
}

/// CPU time of all threads of a process so far.
///
/// The scheduler's figures are exact to the nanosecond, but lack threads that have ended. The process's own figures
/// include those, but only to the tick. Neither is ever too large.
pub fn own_cpu(id: u32) -> Result<Duration> {
    let threads: u64 = fs::read_dir(folder(id).join("task"))?
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
        .filter_map(|line| line.split(' ').next()?.parse::<u64>().ok())
        .sum();
    Ok(Duration::from_nanos(threads).max(times(&stat(id)?, OWN_TIMES)?))
}

/// CPU time of the two cores so far, used by any program, the kernel or other virtual machines.
pub fn cores_cpu() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let mut ticks = 0;
    for core in ["cpu0 ", "cpu1 "] {
        let times = stat.lines().find_map(|line| line.strip_prefix(core));
        let times = times.context("a core that is not there")?.split(' ');
        // All times except those of idling and of waiting for the disk, and those of guests, which are contained in
        // others.
        for (place, time) in times.take(8).enumerate() {
            if !IDLE_TIMES.contains(&place) {
                ticks += time.parse::<u32>()?;
            }
        }
    }
    Ok(TICK * ticks)
}

/// CPU time of ended processes, by their parents.
fn ended_cpu(parents: &[u32]) -> Duration {
    let times = |id: &u32| times(&stat(*id).ok()?, CHILDREN_TIMES).ok();
    parents.iter().filter_map(times).sum()
}

fn folder(id: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{id}"))
}

/// The fields after the program's name, which is in parentheses and may contain anything.
fn stat(id: u32) -> Result<String> {
    let stat = fs::read_to_string(folder(id).join("stat"))?;
    let (_, fields) = stat.rsplit_once(") ").context("stat without a name")?;
    Ok(fields.to_owned())
}

fn number(stat: &str, place: usize) -> Result<u32> {
    let field = stat.split(' ').nth(place).context("a short stat")?;
    Ok(field.parse()?)
}

fn times(stat: &str, [user, system]: [usize; 2]) -> Result<Duration> {
    Ok(TICK * (number(stat, user)? + number(stat, system)?))
}

fn mib(file: &Path, key: &str) -> Result<f64> {
    let lines = fs::read_to_string(file)?;
    let line = lines.lines().find_map(|line| line.strip_prefix(key));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB"));
    Ok(kib.context("no such figure of memory")?.parse::<f64>()? / 1024.0)
}
