//! `milena topics`.

use serde_json::json;

use crate::support::Cluster;

#[test]
fn a_topic_is_created_listed_described_and_deleted() {
    let cluster = Cluster::start(&["--nodes", "2"]);
    let created = cluster.run(&["topics", "create", "orders", "-p", "3", "-r", "2", "--config", "retention.ms=60000"]);
    assert_eq!(created.ok(), "created orders with 3 partitions\n");
    let created = cluster.run(&["topics", "create", "audit", "-p", "1"]);
    assert_eq!(created.ok(), "created audit with 1 partition\n");
    assert_eq!(cluster.run(&["topics", "list"]).ok(), "audit\norders\n");
    let listed = cluster.run(&["topics", "list", "--json"]).json();
    assert_eq!(listed[1]["name"], "orders");
    assert_eq!(listed[1]["partitions"], 3);

    cluster.fill("orders", 0..4);
    let described = cluster.run(&["topics", "describe", "orders", "--json"]).json();
    assert_eq!(described["name"], "orders");
    assert_eq!(described["configs"]["retention.ms"], "60000");
    let partitions = described["partitions"].as_array().unwrap();
    assert_eq!(partitions.len(), 3);
    assert_eq!(partitions[0]["start_offset"], 0);
    assert_eq!(partitions[0]["end_offset"], 4);
    assert_eq!(partitions[1]["end_offset"], 0);
    for partition in partitions {
        assert_eq!(partition["replicas"].as_array().unwrap().len(), 2);
        assert_eq!(partition["isr"].as_array().unwrap().len(), 2);
    }

    let text = cluster.run(&["topics", "describe", "orders"]).ok();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("orders  "), "{text}");
    assert_eq!(lines[1], "  retention.ms=60000");
    assert!(lines[2].starts_with("PARTITION  LEADER  EPOCH  REPLICAS  ISR"), "{text}");
    assert_eq!(lines.len(), 6);
    assert!(lines[3].ends_with("0      4"), "{text}");

    assert_eq!(cluster.run(&["topics", "delete", "orders"]).ok(), "deleted orders\n");
    assert_eq!(cluster.run(&["topics", "list"]).ok(), "audit\n");
}

#[test]
fn what_was_done_is_told_to_programs_too() {
    let cluster = Cluster::start(&["--nodes", "2"]);
    let created = cluster.run(&["topics", "create", "orders", "-p", "3", "-r", "2", "--json"]).json();
    let described = cluster.run(&["topics", "describe", "orders", "--json"]).json();
    assert_eq!(created, json!({"created": "orders", "id": described["id"], "partitions": 3, "replication": 2}));
    let deleted = cluster.run(&["topics", "delete", "orders", "--json"]).json();
    assert_eq!(deleted, json!({"deleted": "orders"}));
}

#[test]
fn what_cannot_be_done_to_a_topic_is_said() {
    let cluster = Cluster::start(&["--topic", "orders:1"]);
    cluster.run(&["topics", "create", "orders", "-p", "1"]).fails(1, &["orders", "exists"]);
    cluster.run(&["topics", "create", "wide", "-p", "1", "-r", "9"]).fails(1, &["wide", "replication"]);
    cluster.run(&["topics", "describe", "absent"]).fails(1, &["absent"]);
    cluster.run(&["topics", "delete", "absent"]).fails(1, &["absent"]);
    assert_eq!(cluster.run(&["topics", "list"]).ok(), "orders\n");
}
