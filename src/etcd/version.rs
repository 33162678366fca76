//! The versions of etcd that can be trusted with counters.

use tokio::time::Instant;
use tracing::warn;

use super::{Client, Error, Host};

/// The verdict on a version of etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// It is fine.
    Good,
    /// It works, but has known bugs that lose or repeat events, or answer reads from the past. `floor` is the first
    /// version without them.
    Faulty {
        /// The version to update to.
        floor: &'static str,
    },
    /// It is too old to be used at all.
    TooOld,
    /// It does not have the form of a version.
    Unreadable,
}

/// The reason why a cluster cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// A member is too old.
    #[error("etcd at {0} is {1}; the oldest supported version is 3.{min}", min = MIN_MINOR)]
    TooOld(Host, String),
    /// No member could be asked.
    #[error(transparent)]
    Unknown(Error),
}

impl Client {
    /// Checks that no member is too old, and warns of those with known bugs. Members that cannot be reached are
    /// skipped, as long as one can.
    ///
    /// # Errors
    /// Returns an error if a member is too old, or none can be reached before the deadline.
    pub async fn check_versions(&self, deadline: Instant) -> Result<(), VersionError> {
        let mut problem = None;
        let mut judged = 0;
        for (host, member) in self.members(deadline).await {
            let version = match member {
                Ok(member) => member.version,
                Err(error) => {
                    problem = Some(error);
                    continue;
                }
            };
            judged += 1;
            match support(&version) {
                Support::Good => {}
                Support::Faulty { floor } => warn!(
                    endpoint = %host,
                    "etcd {version} has known bugs that may lose increments: update it to {floor} or later"
                ),
                Support::Unreadable => {
                    warn!(endpoint = %host, "cannot parse the version of etcd: {version:?}");
                }
                Support::TooOld => return Err(VersionError::TooOld(host, version)),
            }
        }
        match problem {
            Some(error) if judged == 0 => Err(VersionError::Unknown(error)),
            _ => Ok(()),
        }
    }
}

/// The first good patch of a minor version. Before it there are reads from the past after a pause (fixed in both),
/// leases that are wrongly revoked (3.5.13), members that diverge after a crash (3.5.3), and lost watch events (3.5.8
/// and others). There is no warning that versions before 3.5.33, 3.6.14 and 3.7.1 leave nested transactions out of the
/// quota. That costs no increments, but the database grows past the quota until the members' disks are full.
const FLOORS: [(u32, u32, &str); 2] = [(5, 28, "3.5.28"), (6, 9, "3.6.9")];

/// The first minor version of etcd 3 that has every call used here.
const MIN_MINOR: u32 = 4;

/// Judges the version that a member reports.
#[must_use]
pub fn support(version: &str) -> Support {
    let Some((major, minor, patch)) = parse(version) else {
        return Support::Unreadable;
    };
    if (major, minor) < (3, MIN_MINOR) {
        return Support::TooOld;
    }
    if major > 3 {
        return Support::Good;
    }
    let floor = FLOORS
        .iter()
        .find(|(floor_minor, ..)| minor <= *floor_minor);
    match floor {
        Some(&(floor_minor, floor_patch, floor)) if (minor, patch) < (floor_minor, floor_patch) => {
            Support::Faulty { floor }
        }
        _ => Support::Good,
    }
}

/// Parses versions such as `3.6.1` and `3.7.0-rc.1`.
fn parse(version: &str) -> Option<(u32, u32, u32)> {
    let release = version.split(['-', '+']).next()?;
    let mut parts = release.split('.').map(|part| part.parse().ok());
    let version = (parts.next()??, parts.next()??, parts.next()??);
    parts.next().is_none().then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_judged_by_their_floors() {
        use Support::{Good, TooOld, Unreadable};
        let (faulty5, faulty6) = (
            Support::Faulty { floor: "3.5.28" },
            Support::Faulty { floor: "3.6.9" },
        );
        for (version, verdict) in [
            ("2.3.8", TooOld),
            ("3.3.27", TooOld),
            ("3.4.23", faulty5),
            ("3.4.99", faulty5),
            ("3.5.0", faulty5),
            ("3.5.27", faulty5),
            ("3.5.28", Good),
            ("3.6.0", faulty6),
            ("3.6.8", faulty6),
            ("3.6.9", Good),
            ("3.6.16", Good),
            ("3.7.0-rc.0", Good),
            ("4.0.0", Good),
            ("", Unreadable),
            ("3.6", Unreadable),
            ("3.6.x", Unreadable),
            ("3.6.1.2", Unreadable),
        ] {
            assert_eq!(support(version), verdict, "{version:?}");
        }
    }

    #[test]
    fn a_version_that_will_not_do_is_told_with_the_oldest_that_will() {
        let host = "one:2379".parse().expect("a host");
        let error = VersionError::TooOld(host, "3.3.27".to_owned());
        assert_eq!(
            error.to_string(),
            format!("etcd at one:2379 is 3.3.27; the oldest supported version is 3.{MIN_MINOR}")
        );
    }
}
