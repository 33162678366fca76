//! The address of an etcd cluster: `etcd://host1:2379,host2:2379`.

use std::fmt;
use std::str::FromStr;

/// etcd's client port, for hosts without a port.
const PORT: u16 = 2379;

/// The maximum number of hosts, as a bound on typing errors. etcd itself advises against more than seven members.
const MAX_HOSTS: usize = 64;

/// The members of a cluster, any of which will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Whether connections use TLS: `etcds` instead of `etcd`.
    pub tls: bool,
    /// Their addresses, at least one, each once.
    pub hosts: Vec<Host>,
}

/// A member's address for clients.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host {
    /// A name, an IPv4 address, or an IPv6 address without brackets.
    pub name: String,
    /// The port.
    pub port: u16,
}

/// The reason why a text is no address of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseAddressError {
    /// It begins with neither `etcd://` nor `etcds://`.
    #[error("expected etcd://host:port,host:port, or etcds:// for TLS")]
    Scheme,
    /// This host is invalid.
    #[error("expected host:port or [ipv6]:port, not {0:?}")]
    Host(String),
    /// This host is named twice.
    #[error("{0} is named twice")]
    Twice(Host),
    /// There are too many hosts.
    #[error("{0} hosts are more than {max}", max = MAX_HOSTS)]
    TooMany(usize),
}

impl FromStr for Address {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scheme, list) = text.split_once("://").ok_or(ParseAddressError::Scheme)?;
        let tls = match scheme {
            "etcd" => false,
            "etcds" => true,
            _ => return Err(ParseAddressError::Scheme),
        };
        let count = list.split(',').count();
        if count > MAX_HOSTS {
            return Err(ParseAddressError::TooMany(count));
        }
        let mut hosts = Vec::with_capacity(count);
        for host in list.split(',') {
            let host: Host = host.parse()?;
            if hosts.contains(&host) {
                return Err(ParseAddressError::Twice(host));
            }
            hosts.push(host);
        }
        Ok(Self { tls, hosts })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls { "etcds://" } else { "etcd://" })?;
        for (i, host) in self.hosts.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{host}")?;
        }
        Ok(())
    }
}

impl FromStr for Host {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseAddressError::Host(text.to_owned());
        let (name, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (name, port) = rest.split_once(']').ok_or_else(wrong)?;
                name.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
                (name, port)
            }
            None => text.split_at(text.find(':').unwrap_or(text.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().map_err(|_| wrong())?,
            None if port.is_empty() => PORT,
            None => return Err(wrong()),
        };
        let ipv6 = text.starts_with('[');
        let may_stand = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if name.is_empty() || port == 0 || !(ipv6 || name.chars().all(may_stand)) {
            return Err(wrong());
        }
        Ok(Self {
            name: name.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, port } = self;
        if name.contains(':') {
            write!(f, "[{name}]:{port}")
        } else {
            write!(f, "{name}:{port}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_as_they_print() {
        for text in [
            "etcd://localhost:2379",
            "etcd://10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:12379",
            "etcds://etcd-0.etcd.default.svc:2379,[::1]:2380",
        ] {
            let address: Address = text.parse().expect(text);
            assert_eq!(address.to_string(), text);
        }
    }

    /// The port may be left out, as with etcdctl.
    #[test]
    fn the_port_is_2379_where_none_is_named() {
        let address: Address = "etcd://one,[::1]".parse().expect("an address");
        assert_eq!(address.to_string(), "etcd://one:2379,[::1]:2379");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        use ParseAddressError::{Host as Wrong, Scheme, TooMany, Twice};
        let many = format!("etcd://{}", vec!["host"; MAX_HOSTS + 1].join(","));
        for (text, problem) in [
            ("", Scheme),
            ("localhost:2379", Scheme),
            ("http://localhost:2379", Scheme),
            ("etcd://", Wrong(String::new())),
            ("etcd://a,,b", Wrong(String::new())),
            ("etcd://a:", Wrong("a:".into())),
            ("etcd://a:0", Wrong("a:0".into())),
            ("etcd://a:65536", Wrong("a:65536".into())),
            ("etcd://::1:2379", Wrong("::1:2379".into())),
            ("etcd://[a]:2379", Wrong("[a]:2379".into())),
            ("etcd://[::1]2379", Wrong("[::1]2379".into())),
            ("etcd://me:secret@a:2379", Wrong("me:secret@a:2379".into())),
            ("etcd://a:2379/prefix", Wrong("a:2379/prefix".into())),
            ("etcd://a,a:2379", Twice("a".parse().expect("a host"))),
            (&many, TooMany(MAX_HOSTS + 1)),
        ] {
            assert_eq!(text.parse::<Address>(), Err(problem), "{text:?}");
        }
    }

    #[test]
    fn errors_name_what_is_wrong() {
        let hosts = |count| {
            let hosts: Vec<_> = (0..count).map(|at| format!("h{at}")).collect();
            hosts.join(",")
        };
        let most = format!("etcd://{}", hosts(MAX_HOSTS)).parse::<Address>();
        assert_eq!(most.expect("an address").hosts.len(), MAX_HOSTS);
        let many = hosts(MAX_HOSTS + 1);
        for (text, wrong) in [
            ("http://a:1", "etcd://host:port"),
            ("etcd://a:b", "not \"a:b\""),
            ("etcd://a:1,a:1", "a:1 is named twice"),
            (&format!("etcd://{many}"), &format!("more than {MAX_HOSTS}")),
        ] {
            let error = text.parse::<Address>().expect_err(text).to_string();
            assert!(error.contains(wrong), "{error}");
        }
    }
}
