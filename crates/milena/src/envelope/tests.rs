//! Golden bytes both ways for both shapes, bad bytes, and properties.

use super::*;
use proptest::prelude::*;

const ID: &str = "0199d2a4-5e6f-7a10-8b21-0c32d43e54f6";
const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn full() -> Envelope {
    Envelope::new(ID, "orders.placed", "o-17", r#"{"order_id":"o-17","cents":1250}"#)
        .with_source("/shop/checkout")
        .with_version(2)
        .with_time(EventTime::parse("2025-10-11T08:09:10.123456789Z").unwrap())
        .with_traceparent(TRACE)
        .with_tracestate("vendor=1")
        .with_correlation_id("c-1")
        .with_causation_id("e-0")
        .with_tenant_id("42")
        .with_header("region", "eu")
        .with_header("region", "us")
}

fn headers(of: &[(&'static str, &'static str)]) -> Vec<Header> {
    of.iter().map(|(name, value)| Header::new(*name, *value)).collect()
}

/// CloudEvents 1.0, Kafka protocol binding, §3.2 (binary content mode).
fn golden_cloud_event() -> EncodedEnvelope {
    EncodedEnvelope {
        key: Bytes::from("o-17"),
        value: Bytes::from(r#"{"order_id":"o-17","cents":1250}"#),
        headers: headers(&[
            ("ce_specversion", "1.0"),
            ("ce_id", ID),
            ("ce_source", "/shop/checkout"),
            ("ce_type", "orders.placed"),
            ("ce_time", "2025-10-11T08:09:10.123456789Z"),
            ("ce_aggregateid", "o-17"),
            ("ce_eventversion", "2"),
            ("ce_correlationid", "c-1"),
            ("ce_causationid", "e-0"),
            ("ce_tenantid", "42"),
            ("traceparent", TRACE),
            ("tracestate", "vendor=1"),
            ("content-type", "application/json"),
            ("region", "eu"),
            ("region", "us"),
        ]),
    }
}

#[test]
fn a_cloud_event_is_written_as_its_golden_bytes_and_read_back() {
    let golden = golden_cloud_event();
    assert_eq!(full().encode(WireShape::CloudEvents).unwrap(), golden);
    assert_eq!(Envelope::decode(Some(&golden.key), Some(&golden.value), &golden.headers).unwrap(), full());
}

/// What the Go bus writes for this envelope: its struct's field order, `omitempty` on trace, correlation and tenant.
fn golden_json() -> EncodedEnvelope {
    EncodedEnvelope {
        key: Bytes::from("o-17"),
        value: Bytes::from(concat!(
            r#"{"event_id":"0199d2a4-5e6f-7a10-8b21-0c32d43e54f6","aggregate_id":"o-17","event_type":"orders.placed","#,
            r#""event_version":2,"timestamp":"2025-10-11T08:09:10.123456789Z","trace_id":"t-1","correlation_id":"c-1","#,
            r#""tenant_id":42,"payload":{"order_id":"o-17","cents":1250}}"#
        )),
        headers: headers(&[
            ("X-Event-ID", ID),
            ("X-Aggregate-ID", "o-17"),
            ("X-Event-Version", "2"),
            ("X-Event-Type", "orders.placed"),
            ("X-Trace-ID", "t-1"),
            ("X-Correlation-ID", "c-1"),
            ("X-Tenant-ID", "42"),
        ]),
    }
}

#[test]
fn a_json_envelope_is_written_as_its_golden_bytes_and_read_back() {
    let envelope = Envelope::new(ID, "orders.placed", "o-17", r#"{"order_id":"o-17","cents":1250}"#)
        .with_version(2)
        .with_time(EventTime::parse("2025-10-11T08:09:10.123456789Z").unwrap())
        .with_trace_id("t-1")
        .with_correlation_id("c-1")
        .with_tenant_id("42");
    let golden = golden_json();
    assert_eq!(envelope.encode(WireShape::JsonEnvelope).unwrap(), golden);
    assert_eq!(Envelope::decode(Some(&golden.key), Some(&golden.value), &golden.headers).unwrap(), envelope);
    assert_eq!(Envelope::decode(None, Some(&golden.value), &[]).unwrap(), envelope, "headers only mirror the object");
}

#[test]
fn a_bare_json_envelope_leaves_out_what_is_not_set() {
    let envelope = Envelope::new("e-1", "t", "a", "1");
    let encoded = envelope.encode(WireShape::JsonEnvelope).unwrap();
    assert_eq!(
        encoded.value,
        r#"{"event_id":"e-1","aggregate_id":"a","event_type":"t","event_version":1,"timestamp":"0001-01-01T00:00:00Z","payload":1}"#
    );
    let names: Vec<&str> = encoded.headers.iter().map(|header| &*header.name).collect();
    assert_eq!(names, ["X-Event-ID", "X-Aggregate-ID", "X-Event-Version", "X-Event-Type"]);
    assert_eq!(Envelope::decode(None, Some(&encoded.value), &encoded.headers).unwrap(), envelope);
}

#[test]
fn an_envelope_crosses_from_one_shape_to_the_other_without_loss() {
    let written = full().encode(WireShape::JsonEnvelope).unwrap();
    let read = Envelope::decode(Some(&written.key), Some(&written.value), &written.headers).unwrap();
    // The JSON shape alone has no source; its trace id repeats what traceparent says.
    let expected = full().with_source("").with_trace_id("4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(read, expected);
    let back = read.with_source("/shop/checkout").encode(WireShape::CloudEvents).unwrap();
    let again = Envelope::decode(Some(&back.key), Some(&back.value), &back.headers).unwrap();
    assert_eq!(again, full().with_trace_id("4bf92f3577b34da6a3ce929d0e0e4736"));
}

#[test]
fn what_other_writers_of_the_json_envelope_do_is_understood() {
    let read = |object: &str| Envelope::decode(None, Some(&Bytes::copy_from_slice(object.as_bytes())), &[]).unwrap();
    // Spaces, another order, unknown fields, escapes in names, null for absent, a tenant as text (older releases).
    let envelope = read(
        r#" { "payload" : [1, 2] , "extra": {"a": 1}, "event\u005fversion": 3, "event_type": "t\u00e9", "aggregate_id": "a/b:c",
            "event_id": "e", "trace_id": null, "tenant_id": "42", "timestamp": "2025-10-11T16:09:10.5+08:00" } "#,
    );
    assert_eq!((envelope.event_type(), envelope.version(), envelope.aggregate_id()), ("té", 3, "a/b:c"));
    assert_eq!((envelope.trace_id(), envelope.tenant_id()), (None, Some("42")));
    assert_eq!(envelope.time().unwrap().to_string(), "2025-10-11T08:09:10.5Z");
    assert_eq!(envelope.payload(), "[1, 2]");
    let no_tenant =
        read(r#"{"event_id":"e","aggregate_id":"a","event_type":"t","event_version":1,"tenant_id":0,"payload":{}}"#);
    assert_eq!((no_tenant.tenant_id(), no_tenant.time()), (None, None));
}

#[test]
fn a_cloud_event_of_somebody_else_is_read_with_its_key_as_aggregate() {
    let value = Bytes::from("<order/>");
    let foreign = headers(&[
        ("ce_specversion", "1.0"),
        ("ce_id", "1"),
        ("ce_source", "//legacy"),
        ("ce_type", "order"),
        ("ce_subject", "s"),
        ("Content-Type", "text/xml"),
    ]);
    let envelope = Envelope::decode(Some(b"o-9"), Some(&value), &foreign).unwrap();
    assert_eq!((envelope.aggregate_id(), envelope.version(), envelope.content_type()), ("o-9", 1, "text/xml"));
    assert_eq!(envelope.headers(), headers(&[("ce_subject", "s")]), "extensions stay readable");
    envelope.encode(WireShape::CloudEvents).expect("what was read can be passed on");
    assert!(matches!(
        Envelope::decode(None, Some(&value), &foreign),
        Err(EnvelopeError::Missing { attribute: "ce_aggregateid" })
    ));
}

#[test]
fn each_way_to_break_a_cloud_event_has_its_error() {
    let golden = golden_cloud_event();
    let decode = |change: &dyn Fn(&mut Vec<Header>)| {
        let mut headers = golden.headers.clone();
        change(&mut headers);
        Envelope::decode(Some(&golden.key), Some(&golden.value), &headers).expect_err("this must not decode")
    };
    let set = |name: &'static str, value: &'static [u8]| {
        decode(&|headers: &mut Vec<Header>| {
            let header = headers.iter_mut().find(|header| header.name == name).unwrap();
            header.value = Some(Bytes::from_static(value));
        })
    };
    let without = |name: &'static str| decode(&|headers| headers.retain(|header| header.name != name));
    assert!(matches!(set("ce_specversion", b"0.3"), EnvelopeError::SpecVersion { .. }));
    assert!(matches!(set("ce_id", b"\xff"), EnvelopeError::NotText { attribute: "ce_id" }));
    assert!(matches!(set("ce_id", b" "), EnvelopeError::Invalid(InvalidEnvelope::EventId)));
    assert!(matches!(set("ce_source", b""), EnvelopeError::Invalid(InvalidEnvelope::Source)));
    assert!(matches!(set("ce_type", b""), EnvelopeError::Invalid(InvalidEnvelope::EventType)));
    assert!(matches!(set("ce_time", b"noon"), EnvelopeError::Malformed { attribute: "ce_time", .. }));
    assert!(matches!(set("ce_eventversion", b"0"), EnvelopeError::Invalid(InvalidEnvelope::Version(0))));
    assert!(matches!(set("ce_eventversion", b"1.5"), EnvelopeError::Malformed { .. }));
    assert!(matches!(
        set("ce_aggregateid", b"a\nb"),
        EnvelopeError::Invalid(InvalidEnvelope::AggregateIdCharacter('\n'))
    ));
    assert!(matches!(without("ce_id"), EnvelopeError::Missing { attribute: "ce_id" }));
    assert!(matches!(without("ce_source"), EnvelopeError::Missing { attribute: "ce_source" }));
    assert!(matches!(without("ce_type"), EnvelopeError::Missing { attribute: "ce_type" }));
    assert!(matches!(without("ce_specversion"), EnvelopeError::Missing { attribute: "payload" }));
    assert!(matches!(
        decode(&|headers| headers.push(Header::new("ce_id", "2"))),
        EnvelopeError::Repeated { attribute: "ce_id" }
    ));
    assert!(matches!(
        decode(&|headers| headers.iter_mut().for_each(|header| header.value = None)),
        EnvelopeError::NotText { attribute: "ce_specversion" }
    ));
    assert!(matches!(Envelope::decode(Some(b"k"), None, &golden.headers), Err(EnvelopeError::NoValue)));
}

#[test]
fn each_way_to_break_a_json_envelope_has_its_error() {
    let decode = |object: &str| {
        Envelope::decode(None, Some(&Bytes::copy_from_slice(object.as_bytes())), &[]).expect_err("this must not decode")
    };
    for not_json in ["", "{", "[]", "null", "7", "\u{0}", r#"{"event_id":"#] {
        assert!(matches!(decode(not_json), EnvelopeError::NotJson(_)), "{not_json}");
    }
    let object = |replaced: &str, by: &str| {
        r#"{"event_id":"e","aggregate_id":"a","event_type":"t","event_version":1,"tenant_id":1,"timestamp":"2025-10-11T08:09:10Z","payload":{}}"#
            .replace(replaced, by)
    };
    Envelope::decode(None, Some(&Bytes::from(object("", ""))), &[]).unwrap();
    assert!(matches!(decode(&object(r#""event_id":"e","#, "")), EnvelopeError::Missing { attribute: "event_id" }));
    assert!(matches!(
        decode(&object(r#""event_version":1,"#, "")),
        EnvelopeError::Missing { attribute: "event_version" }
    ));
    assert!(matches!(decode(&object(r#","payload":{}"#, "")), EnvelopeError::Missing { attribute: "payload" }));
    assert!(matches!(decode(&object(r#""e""#, r#""  ""#)), EnvelopeError::Invalid(InvalidEnvelope::EventId)));
    assert!(matches!(decode(&object(r#""e""#, "7")), EnvelopeError::Malformed { attribute: "event_id", .. }));
    assert!(matches!(
        decode(&object(":1,\"tenant", ":-1,\"tenant")),
        EnvelopeError::Invalid(InvalidEnvelope::Version(-1))
    ));
    assert!(matches!(decode(&object(":1,\"tenant", ":\"1\",\"tenant")), EnvelopeError::Malformed { .. }));
    assert!(matches!(decode(&object(r#""tenant_id":1"#, r#""tenant_id":1.5"#)), EnvelopeError::Malformed { .. }));
    assert!(matches!(decode(&object("2025-10-11T", "noon")), EnvelopeError::Malformed { attribute: "timestamp", .. }));
    assert!(matches!(
        decode(&object(r#"{"event_id":"e""#, r#"{"event_id":"e","event_id":"f""#)),
        EnvelopeError::Repeated { .. }
    ));
    assert!(matches!(
        decode(&object(r#""aggregate_id":"a""#, r#""aggregate_id":"a b""#)),
        EnvelopeError::Invalid(InvalidEnvelope::AggregateIdCharacter(' '))
    ));
    let structured = headers(&[("content-type", "application/cloudevents+json; charset=UTF-8")]);
    assert!(matches!(Envelope::decode(None, Some(&Bytes::from("{}")), &structured), Err(EnvelopeError::Structured)));
}

#[test]
fn an_envelope_that_its_shape_cannot_carry_is_refused_on_the_way_out() {
    let refused = |envelope: Envelope, shape| match envelope.encode(shape) {
        Err(EnvelopeError::Invalid(invalid)) => invalid,
        other => panic!("expected a refusal, got {other:?}"),
    };
    let (ce, json) = (WireShape::CloudEvents, WireShape::JsonEnvelope);
    let valid = || Envelope::new("e", "t", "a", "{}").with_source("s");
    assert_eq!(refused(Envelope::new("e", "t", "a", "{}"), ce), InvalidEnvelope::Source);
    assert_eq!(refused(valid().with_tenant_id("acme"), json), InvalidEnvelope::Tenant("acme".into()));
    assert_eq!(refused(valid().with_tenant_id("0"), json), InvalidEnvelope::Tenant("0".into()));
    assert_eq!(refused(Envelope::new("e", "t", "a", ""), json), InvalidEnvelope::PayloadEmpty);
    assert_eq!(
        refused(valid().with_content_type("text/xml"), json),
        InvalidEnvelope::PayloadNotJson("text/xml".into())
    );
    assert_eq!(refused(valid().with_header("ce_id", "x"), ce), InvalidEnvelope::ReservedHeader("ce_id".into()));
    assert_eq!(
        refused(valid().with_header("X-Event-ID", "x"), json),
        InvalidEnvelope::ReservedHeader("X-Event-ID".into())
    );
    assert_eq!(
        refused(valid().with_header("ce_specversion", "x"), json),
        InvalidEnvelope::ReservedHeader("ce_specversion".into())
    );
    assert_eq!(refused(Envelope::new("e", "t", "ä", "{}"), json), InvalidEnvelope::AggregateIdCharacter('ä'));
    assert_eq!(refused(Envelope::new("e", "t", "x".repeat(257), "{}"), ce), InvalidEnvelope::AggregateIdTooLong(257));
    assert_eq!(refused(Envelope::new("e", "t", "  ", "{}"), ce), InvalidEnvelope::AggregateIdBlank);
    assert!(matches!(Envelope::new("e", "t", "a", "{").encode(json), Err(EnvelopeError::Payload(_))));
    Envelope::new("e", "t", "ä", "{}").with_source("s").encode(ce).expect("CloudEvents allows any text");
}

#[test]
fn a_consequence_carries_on_what_its_cause_began() {
    let first = Envelope::new("e-1", "t", "a", "{}").with_traceparent(TRACE).with_tenant_id("42");
    let second = Envelope::new("e-2", "t", "b", "{}").caused_by(&first);
    assert_eq!((second.correlation_id(), second.causation_id()), (Some("e-1"), Some("e-1")));
    assert_eq!((second.traceparent(), second.tenant_id()), (Some(TRACE), Some("42")));
    let third = Envelope::new("e-3", "t", "c", "{}").caused_by(&second);
    assert_eq!((third.correlation_id(), third.causation_id()), (Some("e-1"), Some("e-2")));
    assert_eq!(third.trace_id(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
}

fn any_header() -> impl Strategy<Value = Header> {
    let name = prop_oneof![
        Just("ce_specversion".to_owned()),
        proptest::sample::select(mapping::TABLE.iter().map(|row| row.cloud_events.to_owned()).collect::<Vec<_>>()),
        Just("content-type".to_owned()),
        "[a-zA-Z_-]{0,12}",
    ];
    let value = prop_oneof![
        Just(None),
        Just(Some(Bytes::from("1.0"))),
        proptest::collection::vec(any::<u8>(), 0..24).prop_map(|bytes| Some(bytes.into())),
    ];
    (name, value).prop_map(|(name, value)| Header { name: name.into(), value })
}

proptest! {
    #[test]
    fn no_bytes_make_decoding_panic(
        key in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..16)),
        value in proptest::option::of(prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..200),
            r#"\{("[a-z_]{1,14}":("[^"\\]{0,9}"|[0-9]{1,3}|null|\{\}),?){0,9}\}"#.prop_map(String::into_bytes),
        ]),
        headers in proptest::collection::vec(any_header(), 0..16),
    ) {
        let value = value.map(Bytes::from);
        let _ = Envelope::decode(key.as_deref(), value.as_ref(), &headers);
    }

    #[test]
    fn what_is_written_is_read_back_the_same(
        id in "[ -~]{0,8}x", event_type in "[a-zé. \"\\\\]{0,8}t", aggregate in "[A-Za-z0-9:_./-]{1,30}",
        version in 1..i64::MAX, millis in -1_000_000_000_000..4_000_000_000_000_i64,
        correlation in "[ -~]{0,10}", tenant in proptest::option::of(1..i64::MAX), text in ".{0,20}",
        own in proptest::collection::vec(("[m-p]{1,4}", proptest::option::of("[ -~]{0,6}")), 0..4),
        shape in prop_oneof![Just(WireShape::CloudEvents), Just(WireShape::JsonEnvelope)],
    ) {
        let mut envelope = Envelope::new(id, event_type, aggregate, serde_json::to_vec(&text).unwrap())
            .with_version(version)
            .with_time(EventTime::from_millis(millis).unwrap())
            .with_correlation_id(correlation)
            .with_tenant_id(tenant.map(|tenant| tenant.to_string()).unwrap_or_default());
        if shape == WireShape::CloudEvents {
            envelope = envelope.with_source("s");
        }
        for (name, value) in own {
            envelope.headers.push(Header { name: name.into(), value: value.map(Bytes::from) });
        }
        let written = envelope.encode(shape).unwrap();
        let read = Envelope::decode(Some(&written.key), Some(&written.value), &written.headers).unwrap();
        prop_assert_eq!(read, envelope);
    }
}
