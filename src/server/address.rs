//! Addresses to listen on and to connect to: `host:port` or `unix:/path`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// An address in the syntax of gRPC's naming
/// (<https://github.com/grpc/grpc/blob/master/doc/naming.md>).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `host:port`. The host is a name, an IPv4 address, or an IPv6 address in brackets.
    Tcp(String),
    /// `unix:/path`: a socket in the file system.
    Unix(PathBuf),
}

/// An error for text that is no address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected host:port, [ipv6]:port or unix:/path")]
pub struct ParseAddressError;

impl FromStr for Address {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return match path {
                "" => Err(ParseAddressError),
                path => Ok(Self::Unix(path.into())),
            };
        }
        let (host, port) = text.rsplit_once(':').ok_or(ParseAddressError)?;
        let bracketed = host.starts_with('[') && host.ends_with(']');
        if host.is_empty() || (host.contains(':') && !bracketed) || port.parse::<u16>().is_err() {
            return Err(ParseAddressError);
        }
        Ok(Self::Tcp(text.to_owned()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_as_they_print() {
        for text in [
            "localhost:8080",
            "0.0.0.0:0",
            "[::1]:443",
            "unix:/run/sumd.sock",
        ] {
            let address: Address = text.parse().expect(text);
            assert_eq!(address.to_string(), text);
        }
        assert_eq!(
            "unix:///run/sumd.sock".parse(),
            Ok(Address::Unix("/run/sumd.sock".into()))
        );
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "8080",
            ":8080",
            "host",
            "host:",
            "host:65536",
            "::1:80",
            "unix:",
        ] {
            assert_eq!(text.parse::<Address>(), Err(ParseAddressError), "{text:?}");
        }
    }
}
