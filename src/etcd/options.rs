//! The options of a client.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::{Address, Host};

/// The location of etcd, the credentials and the timeouts.
#[derive(Clone, Debug)]
pub struct Options {
    /// The members, at least one.
    pub endpoints: Vec<Host>,
    /// The TLS settings, if connections use TLS.
    pub tls: Option<Tls>,
    /// The user, if etcd has authentication enabled.
    pub login: Option<Login>,
    /// The timeouts.
    pub timeouts: Timeouts,
}

/// Certificates as PEM files, which are read for each connection, so a renewed one is used. Each member needs a
/// certificate for the name in its address.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// The CA of the members' certificates; without it the system's are trusted.
    pub ca: Option<PathBuf>,
    /// The client certificate, which etcd's `--client-cert-auth` requires.
    pub identity: Option<Identity>,
}

/// A client certificate.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate, and the intermediate ones up to the CA's.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// A user of etcd.
#[derive(Clone)]
pub struct Login {
    /// The name.
    pub user: String,
    /// The password, which no log shows.
    pub password: String,
}

/// The timeouts. Each call also has a deadline, which none of these extends.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// The time for one endpoint to connect, and then to report its status.
    pub connect: Duration,
    /// The time before the next endpoint is tried beside one that has not connected yet.
    pub stagger: Duration,
    /// The time for the answer to a read before another endpoint is asked. It doubles with each attempt, so that a slow
    /// read completes.
    pub attempt: Duration,
    /// The time of a watch without events before the member is asked whether it still watches.
    pub progress: Duration,
    /// The time after that before the watch begins anew on another endpoint.
    pub silence: Duration,
}

impl Options {
    /// Options with defaults for everything but the address.
    #[must_use]
    pub fn new(address: &Address) -> Self {
        Self {
            endpoints: address.hosts.clone(),
            tls: address.tls.then(Tls::default),
            login: None,
            timeouts: Timeouts::default(),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            stagger: Duration::from_millis(250),
            attempt: Duration::from_secs(1),
            progress: Duration::from_secs(1),
            silence: Duration::from_secs(2),
        }
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Login");
        debug.field("user", &self.user).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_do_not_show_passwords() {
        let login = Login {
            user: "sumd".to_owned(),
            password: "secret".to_owned(),
        };
        assert_eq!(format!("{login:?}"), "Login { user: \"sumd\", .. }");
    }
}
