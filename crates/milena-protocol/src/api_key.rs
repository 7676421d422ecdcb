//! Which request it is, in which versions it exists, and which header goes before it.

use std::fmt;

use crate::VersionRange;
pub use crate::messages::api_keys::ApiKey;

/// What the schemas say about a key. `*_flexible` is the first flexible version, `i16::MAX` if there is none.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) name: &'static str,
    pub(crate) versions: VersionRange,
    pub(crate) request_flexible: i16,
    pub(crate) response_flexible: i16,
}

impl ApiKey {
    /// Kafka's name of the API: `OffsetFetch`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.api().name
    }

    /// The versions that this crate reads and writes.
    #[must_use]
    pub const fn versions(self) -> VersionRange {
        self.api().versions
    }

    /// The version of the header before a request.
    #[must_use]
    pub const fn request_header_version(self, version: i16) -> i16 {
        if version >= self.api().request_flexible { 2 } else { 1 }
    }

    /// The version of the header before a response.
    #[must_use]
    pub const fn response_header_version(self, version: i16) -> i16 {
        // A client that does not know yet what the broker speaks must be able to read it (KIP-511).
        if matches!(self, Self::ApiVersions) || version < self.api().response_flexible { 0 } else { 1 }
    }
}

/// A number that is no request of Kafka 4.4.0's, or one that only brokers and controllers send each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no client sends a request with API key {0}")]
#[non_exhaustive]
pub struct UnknownApiKey(pub i16);

impl TryFrom<i16> for ApiKey {
    type Error = UnknownApiKey;

    fn try_from(number: i16) -> Result<Self, UnknownApiKey> {
        let found = Self::ALL.binary_search_by_key(&number, |key| *key as i16);
        found.map(|index| Self::ALL[index]).map_err(|_| UnknownApiKey(number))
    }
}

impl From<ApiKey> for i16 {
    fn from(key: ApiKey) -> Self {
        key as Self
    }
}

impl fmt::Display for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_keys_are_one_to_one() {
        for &key in ApiKey::ALL {
            assert_eq!(ApiKey::try_from(i16::from(key)), Ok(key));
            assert!(key.versions().min <= key.versions().max);
        }
        assert!(ApiKey::ALL.is_sorted());
        for unknown in [-1, 4, 52, 83, 9999] {
            assert_eq!(ApiKey::try_from(unknown), Err(UnknownApiKey(unknown)));
        }
    }

    #[test]
    fn header_versions_follow_the_flexible_versions() {
        assert_eq!((ApiKey::Produce.request_header_version(8), ApiKey::Produce.request_header_version(9)), (1, 2));
        assert_eq!((ApiKey::Produce.response_header_version(8), ApiKey::Produce.response_header_version(9)), (0, 1));
        assert_eq!(ApiKey::SaslHandshake.request_header_version(1), 1);
        assert_eq!(ApiKey::ApiVersions.request_header_version(3), 2);
        for version in 0..=4 {
            assert_eq!(ApiKey::ApiVersions.response_header_version(version), 0);
        }
    }
}
