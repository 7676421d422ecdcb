use milena_protocol::StrBytes;
use milena_protocol::messages::api_versions_response::{ApiVersion, FinalizedFeatureKey};

use super::*;

const NEWEST: i16 = ApiVersionsRequest::VERSIONS.max;

fn api(key: ApiKey, min: i16, max: i16) -> ApiVersion {
    ApiVersion { api_key: key.into(), min_version: min, max_version: max, ..ApiVersion::default() }
}

fn answer(version: i16, error_code: ErrorCode, api_keys: Vec<ApiVersion>) -> Bytes {
    let response = ApiVersionsResponse { error_code, api_keys, ..ApiVersionsResponse::default() };
    let mut body = BytesMut::new();
    response.encode(version, &mut body).expect("the answer fits its version");
    body.freeze()
}

/// Sends the next request and says in which version it went out.
fn sent(handshake: &mut Handshake) -> i16 {
    let request = handshake.poll_request().expect("the name fits").expect("a request is due");
    assert_eq!(request.api_key, ApiKey::ApiVersions);
    assert_eq!(handshake.poll_request().expect("the name fits"), None, "one request at a time");
    request.api_version
}

#[test]
fn a_current_broker_needs_one_request_which_names_the_client() {
    let mut handshake = Handshake::new(Software::default());
    let request = handshake.poll_request().expect("the name fits").expect("a request is due");
    assert_eq!(request.api_version, NEWEST);
    let decoded = ApiVersionsRequest::decode_exact(NEWEST, request.body).expect("our own request");
    assert_eq!(decoded.client_software_name, StrBytes::from("milena"));
    assert_eq!(decoded.client_software_version, StrBytes::from(env!("CARGO_PKG_VERSION")));

    let body = answer(NEWEST, ErrorCode::NONE, vec![api(ApiKey::Metadata, 4, 999), api(ApiKey::Fetch, 500, 501)]);
    handshake.handle_response(body).expect("a good answer");
    assert_eq!(handshake.poll_request(), Ok(None));
    let versions = handshake.finish().expect("the handshake is done");
    assert_eq!(versions.range(ApiKey::Metadata), Some(VersionRange::new(4, ApiKey::Metadata.versions().max)));
    assert_eq!(versions.highest_up_to(ApiKey::Metadata, 9), Some(9));
    assert_eq!(versions.highest_up_to(ApiKey::Metadata, 3), None);
    assert_eq!(versions.highest(ApiKey::Fetch), None, "no common version");
    assert_eq!(versions.highest(ApiKey::Produce), None, "not offered");
}

#[test]
fn a_refused_version_falls_to_the_one_the_broker_names() {
    let mut handshake = Handshake::new(Software::default());
    assert_eq!(sent(&mut handshake), NEWEST);
    let refusal = answer(0, ErrorCode::UNSUPPORTED_VERSION, vec![api(ApiKey::ApiVersions, 0, 3)]);
    handshake.handle_response(refusal).expect("a downgrade is no failure");
    assert_eq!(sent(&mut handshake), 3);
    handshake.handle_response(answer(3, ErrorCode::NONE, vec![])).expect("a good answer");
    assert!(handshake.finish().is_ok());
}

#[test]
fn a_bare_refusal_falls_to_version_0_and_a_second_one_is_final() {
    for refusal in [answer(0, ErrorCode::UNSUPPORTED_VERSION, vec![]), Bytes::from_static(&[0, 35])] {
        let mut handshake = Handshake::new(Software::default());
        assert_eq!(sent(&mut handshake), NEWEST);
        handshake.handle_response(refusal.clone()).expect("a downgrade is no failure");
        assert_eq!(sent(&mut handshake), 0);
        assert_eq!(handshake.handle_response(refusal), Err(HandshakeError::NoCommonVersion));
    }
}

#[test]
fn a_broker_that_refuses_what_it_names_cannot_keep_us_dancing() {
    let mut handshake = Handshake::new(Software::default());
    let refusal = answer(0, ErrorCode::UNSUPPORTED_VERSION, vec![api(ApiKey::ApiVersions, 0, NEWEST)]);
    assert_eq!(sent(&mut handshake), NEWEST);
    handshake.handle_response(refusal.clone()).expect("a downgrade is no failure");
    assert_eq!(sent(&mut handshake), 0);
    assert_eq!(handshake.handle_response(refusal), Err(HandshakeError::NoCommonVersion));
}

#[test]
fn errors_and_cut_answers_are_typed() {
    let mut handshake = Handshake::new(Software::default());
    assert_eq!(handshake.handle_response(Bytes::new()), Err(HandshakeError::OutOfTurn));
    sent(&mut handshake);
    let refused = answer(NEWEST, ErrorCode::CLUSTER_AUTHORIZATION_FAILED, vec![]);
    let error = HandshakeError::Refused(ErrorCode::CLUSTER_AUTHORIZATION_FAILED);
    assert_eq!(handshake.handle_response(refused), Err(error));

    let whole = answer(NEWEST, ErrorCode::NONE, vec![api(ApiKey::Metadata, 0, 9)]);
    for cut in 0..whole.len() {
        let mut handshake = Handshake::new(Software::default());
        sent(&mut handshake);
        let outcome = handshake.handle_response(whole.slice(..cut));
        assert!(matches!(outcome, Err(HandshakeError::Decode(_))), "cut at {cut}: {outcome:?}");
    }
    assert_eq!(Handshake::new(Software::default()).finish(), Err(HandshakeError::OutOfTurn));
}

#[test]
fn features_count_only_with_an_epoch() {
    for (epoch, wanted) in [(7, Some(2)), (-1, None)] {
        let response = ApiVersionsResponse {
            finalized_features_epoch: epoch,
            finalized_features: vec![FinalizedFeatureKey {
                name: "transaction.version".into(),
                max_version_level: 2,
                min_version_level: 1,
                ..FinalizedFeatureKey::default()
            }],
            ..ApiVersionsResponse::default()
        };
        assert_eq!(NegotiatedVersions::new(&response).feature("transaction.version"), wanted);
    }
}
