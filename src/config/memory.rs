//! The memory that this process may use.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

/// Assumed if neither the kernel nor a control group gives a size.
const UNKNOWN: u64 = 1 << 30;

/// The bytes that this process may use: the machine's memory, or the limit of its control group
/// (<https://docs.kernel.org/admin-guide/cgroup-v2.html>). Determined once, so that all shares are of the same total.
pub(super) fn available() -> u64 {
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
