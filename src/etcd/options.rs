//! What a client has to know.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::{Address, Host};

/// Where etcd is, who asks, and how long to wait.
#[derive(Clone, Debug)]
pub struct Options {
    /// The members, one at least.
    pub endpoints: Vec<Host>,
    /// How to speak to them by TLS, if so.
    pub tls: Option<Tls>,
    /// Who asks, where etcd wants to know.
    pub login: Option<Login>,
    /// How long to wait.
    pub timeouts: Timeouts,
}

/// Certificates, as PEM files, which are read at each connection: one that is renewed is found. Each member has to
/// have a certificate for the name that stands in its address.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// Who has to have signed the members' certificates; whom the system trusts, where there is none.
    pub ca: Option<PathBuf>,
    /// What we show them: etcd's `--client-cert-auth` wants it.
    pub identity: Option<Identity>,
}

/// A certificate of our own.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate, and those between it and the CA's.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// A user of etcd's.
#[derive(Clone)]
pub struct Login {
    /// The name.
    pub user: String,
    /// The password, which no log shows.
    pub password: String,
}

/// How long to wait for what. Each call has a deadline besides, which none of these extends.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For one endpoint to be connected and to say that it is well.
    pub connect: Duration,
    /// Before the next endpoint is tried beside one that has not connected yet.
    pub stagger: Duration,
    /// For the answer to a read, before another endpoint is asked. It doubles each time, so that what takes long
    /// comes to an end.
    pub attempt: Duration,
    /// For a watch with nothing to tell, before the member is asked whether it still watches.
    pub progress: Duration,
    /// For a watch after that, before it is made anew elsewhere.
    pub silence: Duration,
}

impl Options {
    /// With nothing but the address.
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
