//! Where a broker listens: a host and a port. Resolves nothing; [`TcpConnector`](crate::TcpConnector) asks the DNS anew
//! at every dial, since a name may move.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest host name that the DNS allows.
const MAX_HOST_LEN: usize = 255;

/// Host and port of a broker, as bootstrap servers and metadata name it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BrokerAddress {
    host: Arc<str>,
    port: u16,
}

/// Why a text or a pair from metadata is not a broker's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// There is no `:port` at the end.
    #[error("`{0}` has no port: write it as host:port, for example {0}:9092")]
    MissingPort(String),
    /// What follows the last colon is not a port.
    #[error("`{0}` has no valid port: it must be a number from 1 to 65535")]
    InvalidPort(String),
    /// The host is empty, too long, or holds characters that no host name has.
    #[error("`{0}` has no valid host: write it as host:port, an IPv6 address in brackets")]
    InvalidHost(String),
    /// The text starts with a scheme.
    #[error("`{0}` starts with a scheme: leave it away and write host:port")]
    Scheme(String),
}

impl BrokerAddress {
    /// Checks and joins a host (a name or an address, IPv6 without brackets) and a port.
    ///
    /// # Errors
    /// [`AddressError`] when the host could not be one or the port is outside 1–65535; both come from the network
    /// with metadata, so neither is trusted.
    pub fn new(host: &str, port: i32) -> Result<Self, AddressError> {
        let shown = || host.chars().take(80).collect::<String>();
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._%:".contains(&byte) || byte >= 0x80;
        if host.is_empty() || host.len() > MAX_HOST_LEN || !host.bytes().all(allowed) {
            return Err(AddressError::InvalidHost(shown()));
        }
        match u16::try_from(port) {
            Ok(port) if port > 0 => Ok(Self { host: host.into(), port }),
            _ => Err(AddressError::InvalidPort(format!("{}:{port}", shown()))),
        }
    }

    /// The host, an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, never 0.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for BrokerAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let text = text.trim();
        let shown = || text.chars().take(80).collect::<String>();
        if text.contains("://") {
            return Err(AddressError::Scheme(shown()));
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or_else(|| AddressError::InvalidHost(shown()))?;
                (host, rest.strip_prefix(':').ok_or_else(|| AddressError::MissingPort(shown()))?)
            }
            None => {
                let (host, port) = text.rsplit_once(':').ok_or_else(|| AddressError::MissingPort(shown()))?;
                if host.contains(':') {
                    // `::1:9092` could be cut in two ways; brackets make it one.
                    return Err(AddressError::InvalidHost(shown()));
                }
                (host, port)
            }
        };
        let port = port.parse::<i32>().map_err(|_| AddressError::InvalidPort(shown()))?;
        Self::new(host, port)
    }
}

impl fmt::Display for BrokerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip() {
        for text in ["localhost:9092", "10.0.0.1:1", "broker-1.example.org:65535", "[::1]:9092", "embedded-0:9092"] {
            let address: BrokerAddress = text.parse().expect(text);
            assert_eq!(address.to_string(), text);
        }
        let address: BrokerAddress = "[fe80::1%eth0]:9092".parse().expect("a scoped address");
        assert_eq!((address.host(), address.port()), ("fe80::1%eth0", 9092));
    }

    #[test]
    fn wrong_addresses_say_what_is_wrong() {
        for (text, wanted) in [
            ("localhost", "has no port"),
            ("[::1]", "has no port"),
            ("localhost:", "no valid port"),
            ("localhost:0", "no valid port"),
            ("localhost:65536", "no valid port"),
            ("localhost:kafka", "no valid port"),
            (":9092", "no valid host"),
            ("", "has no port"),
            ("::1:9092", "in brackets"),
            ("[::1:9092", "no valid host"),
            ("a b:9092", "no valid host"),
            ("http://localhost:9092", "starts with a scheme"),
        ] {
            let error = text.parse::<BrokerAddress>().expect_err(text).to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }

    #[test]
    fn metadata_hosts_are_not_trusted() {
        assert!(BrokerAddress::new(&"x".repeat(256), 9092).is_err());
        assert!(BrokerAddress::new("host", -1).is_err());
        assert!(BrokerAddress::new("a\nb", 9092).is_err());
    }
}
