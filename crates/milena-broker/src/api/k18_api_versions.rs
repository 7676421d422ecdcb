//! ApiVersions (18), versions 0–5: what this broker serves.
//!
//! As Kafka: any newer version is answered in version 0 with UNSUPPORTED_VERSION and the versions there are of this one
//! request (KIP-511). Unlike Kafka, no features are finalized: transactions and the newer group protocols are not served.

use milena_protocol::{
    ApiKey, ErrorCode, VersionRange,
    messages::{ApiVersionsRequest, ApiVersionsResponse, api_versions_response::ApiVersion},
};

use super::{NoReply, RequestContext, SERVED, Subject, k00_produce};

pub(crate) const VERSIONS: VersionRange = VersionRange::new(0, 5);

/// From here on clients give their software's name.
const SOFTWARE_NAME: i16 = 3;
/// From here on clients say whom they think to talk to.
const EXPECTED_NODE: i16 = 5;

impl Subject for ApiVersionsRequest {}

pub(crate) async fn handle(
    cx: &RequestContext<'_>,
    request: ApiVersionsRequest,
) -> Result<ApiVersionsResponse, NoReply> {
    let named = is_software_name(&request.client_software_name) && is_software_name(&request.client_software_version);
    let error_code = match cx.effects.error() {
        Some(code) => code,
        None if cx.version >= SOFTWARE_NAME && !named => ErrorCode::INVALID_REQUEST,
        None if cx.version >= EXPECTED_NODE => check_destination(cx, &request),
        None => ErrorCode::NONE,
    };
    let mut response = ApiVersionsResponse { error_code, ..Default::default() };
    if error_code.is_ok() {
        let offered = SERVED.iter().filter_map(|&(api, served)| Some((api, cx.core.versions_of(api, served)?)));
        response.api_keys = offered.map(|(api, versions)| entry(api, advertised(api, versions))).collect();
    }
    Ok(response)
}

/// Kafka too claims to serve Produce from version 0, since older librdkafka takes the codecs it may use from that
/// (KAFKA-18659); nobody sends those versions.
fn advertised(api: ApiKey, versions: VersionRange) -> VersionRange {
    if api == ApiKey::Produce && versions.min == k00_produce::VERSIONS.min {
        VersionRange { min: 0, ..versions }
    } else {
        versions
    }
}

/// The answer, in version 0, to a version that is not served.
pub(super) fn unsupported_version(offered: VersionRange) -> ApiVersionsResponse {
    ApiVersionsResponse {
        error_code: ErrorCode::UNSUPPORTED_VERSION,
        api_keys: vec![entry(ApiKey::ApiVersions, offered)],
        ..Default::default()
    }
}

fn entry(api: ApiKey, versions: VersionRange) -> ApiVersion {
    ApiVersion { api_key: api.into(), min_version: versions.min, max_version: versions.max }
}

/// KIP-1242: a client that dialled an old address learns that another cluster or node answers there. It names both or
/// neither.
fn check_destination(cx: &RequestContext<'_>, request: &ApiVersionsRequest) -> ErrorCode {
    match (request.cluster_id.as_deref(), request.node_id) {
        (None, -1) => ErrorCode::NONE,
        (None, _) | (_, -1) => ErrorCode::INVALID_REQUEST,
        (Some(cluster), node) if cluster == cx.core.cluster.id && node == cx.node.0 => ErrorCode::NONE,
        _ => ErrorCode::REBOOTSTRAP_REQUIRED,
    }
}

/// `[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?`, as KIP-511 has it.
fn is_software_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let ends = bytes.first().zip(bytes.last());
    ends.is_some_and(|(first, last)| first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
}
