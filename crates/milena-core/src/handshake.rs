//! What happens on a connection before its first real request: version negotiation (KIP-35) with the client's name
//! (KIP-511) and the downgrade dance. Holds no socket and no clock: it yields requests and is fed their answers.
//!
//! The machine is a conversation of requests and answers, each answer choosing the next state, so that authentication
//! takes its place between `Negotiating` and `Ready` without a change to its driver, and re-authentication (KIP-368)
//! is the same conversation held again on a connection that is `Ready`.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use milena_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};
use milena_protocol::{
    ApiKey, Decode as _, DecodeError, Encode as _, EncodeError, ErrorCode, Message as _, VersionRange,
};

/// The name and version that a client tells the broker, for the broker's metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Software {
    /// Letters, digits, dots and hyphens; the broker refuses anything else.
    pub name: Arc<str>,
    /// As `name`.
    pub version: Arc<str>,
}

impl Default for Software {
    fn default() -> Self {
        Self { name: "milena".into(), version: env!("CARGO_PKG_VERSION").into() }
    }
}

/// A request of the handshake, to be sent alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandshakeRequest {
    /// Which API.
    pub api_key: ApiKey,
    /// Version of the body.
    pub api_version: i16,
    /// The encoded body.
    pub body: Bytes,
}

/// Why a handshake cannot succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The broker answered with an error.
    #[error("the broker refuses version negotiation with {0}")]
    Refused(ErrorCode),
    /// The broker refuses the oldest version of the negotiation itself.
    #[error("the broker speaks no version of ApiVersions that this client does: it needs Kafka 2.1 or later")]
    NoCommonVersion,
    /// The broker's answer cannot be read.
    #[error("the broker's answer cannot be read")]
    Decode(#[from] DecodeError),
    /// The client's name does not fit its field.
    #[error("the request cannot be written")]
    Encode(#[from] EncodeError),
    /// The driver fed an answer that no request asked for, or ended early.
    #[error("the handshake is not finished")]
    OutOfTurn,
}

/// The handshake of one connection.
///
/// Send what [`Self::poll_request`] yields, feed the answer to [`Self::handle_response`], repeat until it yields
/// nothing, then take the result with [`Self::finish`].
#[derive(Debug)]
pub struct Handshake {
    software: Software,
    state: State,
}

#[derive(Debug)]
enum State {
    /// ApiVersions is to be sent in `version`.
    Starting { version: i16 },
    /// ApiVersions has been sent in `version`.
    Negotiating { version: i16 },
    /// Requests may be sent.
    Ready(NegotiatedVersions),
}

impl Handshake {
    /// Starts with the newest version of ApiVersions that we know.
    pub fn new(software: Software) -> Self {
        Self { software, state: State::Starting { version: ApiVersionsRequest::VERSIONS.max } }
    }

    /// The next request to send; nothing while an answer is due, and nothing any more once the handshake is done.
    ///
    /// # Errors
    /// [`HandshakeError::Encode`] when the client's name does not fit.
    pub fn poll_request(&mut self) -> Result<Option<HandshakeRequest>, HandshakeError> {
        let State::Starting { version } = self.state else { return Ok(None) };
        let request = ApiVersionsRequest {
            client_software_name: (&*self.software.name).into(),
            client_software_version: (&*self.software.version).into(),
            ..ApiVersionsRequest::default()
        };
        let mut body = BytesMut::new();
        request.encode(version, &mut body)?;
        self.state = State::Negotiating { version };
        Ok(Some(HandshakeRequest { api_key: ApiKey::ApiVersions, api_version: version, body: body.freeze() }))
    }

    /// Takes the body of the answer to the last request.
    ///
    /// # Errors
    /// [`HandshakeError`]; the connection is of no use then.
    pub fn handle_response(&mut self, body: Bytes) -> Result<(), HandshakeError> {
        let State::Negotiating { version } = self.state else { return Err(HandshakeError::OutOfTurn) };
        // A broker that does not know our version answers in version 0, whatever we asked in (KIP-35). The error code
        // is the first field of every version, so it says which layout follows.
        let code = body.first_chunk::<2>().map(|code| ErrorCode(i16::from_be_bytes(*code)));
        if code == Some(ErrorCode::UNSUPPORTED_VERSION) {
            let lower = downgrade(version, ApiVersionsResponse::decode(0, &mut body.clone()).ok());
            let version = lower.ok_or(HandshakeError::NoCommonVersion)?;
            self.state = State::Starting { version };
            return Ok(());
        }
        let response = ApiVersionsResponse::decode_exact(version, body)?;
        response.error_code.ok().map_err(HandshakeError::Refused)?;
        self.state = State::Ready(NegotiatedVersions::new(&response));
        Ok(())
    }

    /// What was negotiated.
    ///
    /// # Errors
    /// [`HandshakeError::OutOfTurn`] before the end.
    pub fn finish(self) -> Result<NegotiatedVersions, HandshakeError> {
        match self.state {
            State::Ready(versions) => Ok(versions),
            State::Starting { .. } | State::Negotiating { .. } => Err(HandshakeError::OutOfTurn),
        }
    }
}

/// The version to try after `refused`: the best that the broker names (KIP-511), else 0. Always lower than the last,
/// so the dance ends.
fn downgrade(refused: i16, response: Option<ApiVersionsResponse>) -> Option<i16> {
    let offered = response.iter().flat_map(|response| &response.api_keys);
    let offered = offered.filter(|api| api.api_key == i16::from(ApiKey::ApiVersions));
    let common = offered
        .filter_map(|api| ApiVersionsRequest::VERSIONS.intersect(VersionRange::new(api.min_version, api.max_version)))
        .map(|common| common.max)
        .next();
    common.filter(|version| *version < refused).or_else(|| (refused > 0).then_some(0))
}

/// What one broker and this client both speak, and the features its cluster has finalized.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NegotiatedVersions {
    // By API key; absent where there is no common version.
    ranges: BTreeMap<i16, VersionRange>,
    // What the broker said, of the APIs that we know.
    offered: BTreeMap<i16, VersionRange>,
    features: BTreeMap<Box<str>, i16>,
}

impl NegotiatedVersions {
    fn new(response: &ApiVersionsResponse) -> Self {
        let mut ranges = BTreeMap::new();
        let mut all = BTreeMap::new();
        for offered in &response.api_keys {
            let Ok(api_key) = ApiKey::try_from(offered.api_key) else { continue };
            let theirs = VersionRange::new(offered.min_version, offered.max_version);
            all.entry(offered.api_key).or_insert(theirs);
            if let Some(common) = api_key.versions().intersect(theirs) {
                ranges.entry(offered.api_key).or_insert(common);
            }
        }
        // Without an epoch the levels mean nothing.
        let finalized = response.finalized_features_epoch >= 0;
        let features = response.finalized_features.iter().filter(|_| finalized);
        let features = features.map(|feature| (feature.name.as_str().into(), feature.max_version_level)).collect();
        Self { ranges, offered: all, features }
    }

    /// The common versions of an API, if there are any.
    pub fn range(&self, api_key: ApiKey) -> Option<VersionRange> {
        self.ranges.get(&i16::from(api_key)).copied()
    }

    /// The versions that the broker offers, be they common or not: for errors that name them.
    pub fn offered(&self, api_key: ApiKey) -> Option<VersionRange> {
        self.offered.get(&i16::from(api_key)).copied()
    }

    /// The highest common version.
    pub fn highest(&self, api_key: ApiKey) -> Option<i16> {
        self.range(api_key).map(|range| range.max)
    }

    /// The highest common version that is not above `cap`.
    pub fn highest_up_to(&self, api_key: ApiKey, cap: i16) -> Option<i16> {
        let range = self.range(api_key)?;
        let version = range.max.min(cap);
        range.contains(version).then_some(version)
    }

    /// The level at which the cluster has finalized a feature, such as `transaction.version`.
    pub fn feature(&self, name: &str) -> Option<i16> {
        self.features.get(name).copied()
    }
}

#[cfg(test)]
mod tests;
