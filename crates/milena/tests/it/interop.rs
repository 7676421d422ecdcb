//! Envelopes of one shape handled by a bus of the other, and those of the Go event bus.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use milena::{Bus, Delivery, Envelope, WireShape};
use milena_broker::Broker;
use milena_client::producer::{Record, RecordHeader};

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn each_shape_is_read_by_a_bus_that_writes_the_other() {
    let broker = Broker::builder().topic("steps", 1).build();
    let cloud_events = Bus::builder().embedded(broker.clone()).source("/new").open().await.unwrap();
    let json = Bus::builder().embedded(broker.clone()).wire_shape(WireShape::JsonEnvelope).open().await.unwrap();
    let seen: Arc<Mutex<Vec<(u64, Envelope)>>> = Arc::default();
    let log = Arc::clone(&seen);
    let subscription = json
        .subscribe(policy(), move |delivery: Delivery<Stepped>| {
            log.lock().unwrap().push((delivery.event().number, delivery.envelope().clone()));
            std::future::ready(())
        })
        .group("workers")
        .await
        .unwrap();
    let first = cloud_events.envelope(&stepped("a", 0)).unwrap().with_correlation_id("c-1").with_tenant_id("42");
    cloud_events.publish_envelope("steps", &first).await.unwrap();
    let second = json.envelope(&stepped("a", 1)).unwrap().caused_by(&first);
    json.publish_envelope("steps", &second).await.unwrap();
    within("both", subscription.wait_for(|status| status.counts.handled == 2)).await.unwrap();
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen[0], (0, first.clone()), "nothing of the envelope is lost on the way");
    let (number, back) = &seen[1];
    assert_eq!((*number, back.correlation_id(), back.causation_id()), (1, Some("c-1"), Some(first.id())));
    assert_eq!(back.tenant_id(), Some("42"));
    for record in read_all(&broker, "steps").await {
        assert_eq!(record.key(), Some(&b"a"[..]), "the key is the aggregate id in both shapes");
    }
    for bus in [cloud_events, json] {
        let _ = bus.close(Duration::from_secs(5)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_of_the_go_event_bus_is_handled_as_an_event() {
    let broker = Broker::builder().topic("steps", 1).build();
    let bus = bus_on(&broker).await;
    let journal = Journal::default();
    let log = journal.clone();
    let subscription = bus
        .subscribe(policy(), move |event: Stepped| {
            log.note(&event);
            std::future::ready(())
        })
        .group("workers")
        .await
        .unwrap();
    let value = br#"{"event_id":"0199d2a4-5e6f-7a10-8b21-0c32d43e54f6","aggregate_id":"a","event_type":"test.stepped","event_version":1,"timestamp":"2025-10-11T16:09:10.123456789+08:00","tenant_id":7,"payload":{"thing":"a","number":0}}"#;
    let headers = [
        RecordHeader { key: "X-Event-ID", value: Some(b"0199d2a4-5e6f-7a10-8b21-0c32d43e54f6") },
        RecordHeader { key: "X-Aggregate-ID", value: Some(b"a") },
        RecordHeader { key: "X-Event-Version", value: Some(b"1") },
        RecordHeader { key: "X-Event-Type", value: Some(b"test.stepped") },
        RecordHeader { key: "X-Tenant-ID", value: Some(b"7") },
    ];
    send_raw(&broker, Record::to("steps").key(b"a").value(value).headers(&headers)).await;
    within("handled", subscription.wait_for(|status| status.counts.handled == 1)).await.unwrap();
    assert_eq!(journal.of("a"), [0]);
    let _ = bus.close(Duration::from_secs(5)).await;
}
