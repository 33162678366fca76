//! The memory that this process may use, and its parts.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use clap::Args;

use super::values;
use crate::model::Bounds;

/// How long ids and sessions are kept, and how much memory is used.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Counters")]
pub struct MemoryOptions {
    /// Minimum time for which request ids are remembered
    #[arg(long, env = "SUMD_ID_HORIZON", value_name = "TIME", default_value = "10m",
          value_parser = values::horizon())]
    pub id_horizon: Duration,

    /// Time for which unused sessions are remembered
    #[arg(long, env = "SUMD_SESSION_HORIZON", value_name = "TIME", default_value = "1day",
          value_parser = values::horizon())]
    pub session_horizon: Duration,

    /// Memory for request ids and sessions [default: an eighth of the machine's memory, or of its control group's
    /// limit]
    ///
    /// An id takes some 50 bytes, and a commit 64. When the memory is full, new ids are refused. With a horizon of 10m,
    /// each GiB is enough for 35,000 new ids a second.
    #[arg(long, env = "SUMD_ID_MEMORY", value_name = "SIZE", value_parser = values::size())]
    id_memory: Option<usize>,

    /// Memory for counters [default: a quarter of the machine's memory, or of the control group's limit]
    ///
    /// A counter takes some 130 bytes. Those unused for the longest are evicted, and read again from disk. Up to half
    /// of this memory, and at most 128 MiB, is for counters whose latest value is on disk in the log only.
    #[arg(long, env = "SUMD_COUNTER_MEMORY", value_name = "SIZE", value_parser = values::size())]
    counter_memory: Option<usize>,

    /// Memory for request messages that have not fully arrived [default: an eighth of the machine's memory, or of the
    /// control group's limit]
    ///
    /// A message of which no more fits is refused with RESOURCE_EXHAUSTED and RetryInfo. Messages that come in one
    /// frame take none of it, and neither do sums: they are taken as they arrive, unless they are compressed.
    #[arg(long, env = "SUMD_REQUEST_MEMORY", value_name = "SIZE", value_parser = values::size(),
          help_heading = "Limits")]
    request_memory: Option<usize>,
}

/// One of `parts` equal shares of the available memory.
fn share_of_memory(parts: u64) -> usize {
    usize::try_from(available() / parts).unwrap_or(usize::MAX)
}

/// Upper bound of the counters in the log that are not in their rows yet, however much memory there is: the next start
/// reads all of them again from the log.
const MAX_RECENT_BYTES: usize = 64 << 20;

impl MemoryOptions {
    /// The memory that this process may use, as a whole.
    #[must_use]
    pub fn available(&self) -> u64 {
        available()
    }

    /// The bytes for request ids and sessions.
    #[must_use]
    pub fn id_bytes(&self) -> usize {
        self.id_memory.unwrap_or_else(|| share_of_memory(8))
    }

    /// The bytes for counters.
    #[must_use]
    pub fn counter_bytes(&self) -> usize {
        self.counter_memory.unwrap_or_else(|| share_of_memory(4))
    }

    /// The bytes for unfinished request messages.
    #[must_use]
    pub fn request_bytes(&self) -> usize {
        self.request_memory.unwrap_or_else(|| share_of_memory(8))
    }

    /// The bytes of counters whose rows are not up to date. While these are being written, as many bytes again may be
    /// in use.
    #[must_use]
    pub fn recent_bytes(&self) -> usize {
        (self.counter_bytes() / 4).min(MAX_RECENT_BYTES)
    }

    /// The bounds of a lane.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        Bounds {
            id_bytes: self.id_bytes(),
            counter_bytes: self.counter_bytes() - 2 * self.recent_bytes(),
            id_horizon: millis(self.id_horizon),
            session_horizon: millis(self.session_horizon),
        }
    }
}

/// Assumed if neither the kernel nor a control group gives a size.
const UNKNOWN: u64 = 1 << 30;

/// The bytes that this process may use: the machine's memory, or the limit of its control group
/// (<https://docs.kernel.org/admin-guide/cgroup-v2.html>). Determined once, so that all shares are of the same total.
fn available() -> u64 {
    static AVAILABLE: LazyLock<u64> =
        LazyLock::new(|| available_in(Path::new("/"), machine()).unwrap_or(UNKNOWN));
    *AVAILABLE
}

/// The smallest limit: that of the machine, or of a control group by the files below `root`.
fn available_in(root: &Path, machine: Option<u64>) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().filter_map(|group| {
        // The fields are a number, the controllers (empty in version 2, which controls all), and the path.
        let mut fields = group.splitn(3, ':').skip(1);
        let (mount, files) = match fields.next()? {
            "" => ("sys/fs/cgroup", &["memory.max", "memory.high"][..]),
            "memory" => ("sys/fs/cgroup/memory", &["memory.limit_in_bytes"][..]),
            _ => return None,
        };
        // In a container, the path may be the one on the host, while the mount shows the container's group: its
        // ancestors are tried too.
        let path = Path::new(fields.next()?).strip_prefix("/").ok()?;
        let limit = |group: &Path| {
            let limits = files.iter().filter_map(|file| {
                let limit = fs::read_to_string(root.join(mount).join(group).join(file));
                limit.ok()?.trim().parse::<u64>().ok()
            });
            limits.min()
        };
        path.ancestors().filter_map(limit).min()
    });
    limits.chain(machine).min()
}

/// The machine's memory, by system call: `/proc/meminfo` is missing if `/proc` shows processes only.
#[cfg(target_os = "linux")]
fn machine() -> Option<u64> {
    let info = rustix::system::sysinfo();
    let unit = u64::from(info.mem_unit.max(1));
    #[allow(clippy::useless_conversion)] // On other architectures it has 32 bits.
    let units = u64::from(info.totalram);
    let bytes = units.checked_mul(unit)?;
    Some(bytes).filter(|bytes| *bytes > 0)
}

#[cfg(not(target_os = "linux"))]
fn machine() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn available(files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().expect("a folder");
        for (path, contents) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, contents).expect("a file");
        }
        available_in(root.path(), Some(MACHINE))
    }

    const MACHINE: u64 = 24_000_000 << 10;

    #[test]
    fn all_of_the_machine_is_there_where_nothing_limits_it() {
        assert_eq!(available(&[]), Some(MACHINE));
        let group = ("proc/self/cgroup", "0::/user.slice\n");
        let unlimited = ("sys/fs/cgroup/user.slice/memory.max", "max\n");
        assert_eq!(available(&[group, unlimited]), Some(MACHINE));
    }

    #[test]
    fn a_group_has_no_more_than_those_around_it() {
        let group = ("proc/self/cgroup", "0::/system.slice/sumd.service\n");
        let own = (
            "sys/fs/cgroup/system.slice/sumd.service/memory.max",
            "2147483648\n",
        );
        let slice = ("sys/fs/cgroup/system.slice/memory.max", "1073741824\n");
        assert_eq!(available(&[group, own]), Some(2 << 30));
        assert_eq!(available(&[group, own, slice]), Some(1 << 30));
        // Above this limit the kernel throttles the process.
        let high = (
            "sys/fs/cgroup/system.slice/sumd.service/memory.high",
            "536870912\n",
        );
        assert_eq!(available(&[group, own, slice, high]), Some(512 << 20));
    }

    #[test]
    fn a_container_has_what_is_mounted_in_it() {
        let group = ("proc/self/cgroup", "0::/docker/4f1d\n");
        let mounted = ("sys/fs/cgroup/memory.max", "536870912\n");
        assert_eq!(available(&[group, mounted]), Some(512 << 20));
        let group = (
            "proc/self/cgroup",
            "5:memory:/docker/4f1d\n4:cpu:/docker/4f1d\n",
        );
        let mounted = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "536870912\n");
        assert_eq!(available(&[group, mounted]), Some(512 << 20));
    }

    #[test]
    fn a_group_counts_where_the_machine_is_not_known() {
        let root = tempfile::tempdir().expect("a folder");
        assert_eq!(available_in(root.path(), None), None);
        let group = root.path().join("proc/self/cgroup");
        fs::create_dir_all(group.parent().expect("a folder")).expect("a folder");
        fs::write(group, "0::/\n").expect("a file");
        let limit = root.path().join("sys/fs/cgroup/memory.max");
        fs::create_dir_all(limit.parent().expect("a folder")).expect("a folder");
        fs::write(limit, "536870912\n").expect("a file");
        assert_eq!(available_in(root.path(), None), Some(512 << 20));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_kernel_tells_what_the_machine_has() {
        let meminfo = fs::read_to_string("/proc/meminfo").expect("/proc");
        let total = meminfo
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"));
        let total = total.and_then(|total| total.trim().strip_suffix(" kB"));
        let kibibytes: u64 = total.expect("a total").parse().expect("a number");
        // A container may show less in this file.
        assert!(machine().expect("Linux") >= kibibytes << 10);
    }
}
