//! How much memory there is.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

/// Where nobody says how much there is.
const UNKNOWN: u64 = 1 << 30;

/// The bytes that this process may take: the machine's, or what its control group has of them
/// (<https://docs.kernel.org/admin-guide/cgroup-v2.html>, `memory.max`). Looked at once, lest two parts be of
/// different wholes.
pub(super) fn available() -> u64 {
    static AVAILABLE: LazyLock<u64> =
        LazyLock::new(|| available_in(Path::new("/")).unwrap_or(UNKNOWN));
    *AVAILABLE
}

fn available_in(root: &Path) -> Option<u64> {
    let machine = machine(&fs::read_to_string(root.join("proc/meminfo")).ok()?)?;
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().filter_map(|group| {
        // A number, what it controls (nothing in version 2, which controls all), and its path.
        let mut fields = group.splitn(3, ':').skip(1);
        let (mount, file) = match fields.next()? {
            "" => ("sys/fs/cgroup", "memory.max"),
            "memory" => ("sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => return None,
        };
        // In a container the path may be that outside of it; what is mounted is the container's.
        let path = Path::new(fields.next()?).strip_prefix("/").ok()?;
        let limit = |group: &Path| {
            let limit = fs::read_to_string(root.join(mount).join(group).join(file));
            limit.ok()?.trim().parse::<u64>().ok()
        };
        path.ancestors().filter_map(limit).min()
    });
    Some(limits.fold(machine, u64::min))
}

/// The machine's memory by `/proc/meminfo`.
fn machine(meminfo: &str) -> Option<u64> {
    let total = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = total.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes << 10)
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
        available_in(root.path())
    }

    const MACHINE: (&str, &str) = (
        "proc/meminfo",
        "MemTotal:       24000000 kB\nMemFree: 1 kB\n",
    );

    #[test]
    fn all_of_the_machine_is_there_where_nothing_limits_it() {
        assert_eq!(available(&[MACHINE]), Some(24_000_000 << 10));
        let group = ("proc/self/cgroup", "0::/user.slice\n");
        let unlimited = ("sys/fs/cgroup/user.slice/memory.max", "max\n");
        assert_eq!(
            available(&[MACHINE, group, unlimited]),
            Some(24_000_000 << 10)
        );
    }

    #[test]
    fn a_group_has_no_more_than_those_around_it() {
        let group = ("proc/self/cgroup", "0::/system.slice/sumd.service\n");
        let own = (
            "sys/fs/cgroup/system.slice/sumd.service/memory.max",
            "2147483648\n",
        );
        let slice = ("sys/fs/cgroup/system.slice/memory.max", "1073741824\n");
        assert_eq!(available(&[MACHINE, group, own]), Some(2 << 30));
        assert_eq!(available(&[MACHINE, group, own, slice]), Some(1 << 30));
    }

    #[test]
    fn a_container_has_what_is_mounted_in_it() {
        let group = ("proc/self/cgroup", "0::/docker/4f1d\n");
        let mounted = ("sys/fs/cgroup/memory.max", "536870912\n");
        assert_eq!(available(&[MACHINE, group, mounted]), Some(512 << 20));
        let group = (
            "proc/self/cgroup",
            "5:memory:/docker/4f1d\n4:cpu:/docker/4f1d\n",
        );
        let mounted = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "536870912\n");
        assert_eq!(available(&[MACHINE, group, mounted]), Some(512 << 20));
    }

    #[test]
    fn where_nothing_is_told_nothing_is_known() {
        assert_eq!(available(&[]), None);
    }
}
