//! `milena groups`.

use crate::support::Cluster;

#[test]
fn a_group_is_listed_described_and_deleted() {
    let cluster = Cluster::start(&["--topic", "orders:1"]);
    assert_eq!(cluster.run(&["groups", "list"]).ok(), "");
    cluster.fill("orders", 0..5);
    cluster.run(&["consume", "-t", "orders", "-g", "billing", "--max", "2"]).ok();

    let listed = cluster.run(&["groups", "list"]).ok();
    assert!(listed.lines().nth(1).unwrap().starts_with("billing  Empty"), "{listed}");
    assert_eq!(cluster.run(&["groups", "list", "--json"]).json()[0]["group"], "billing");

    let described = cluster.run(&["groups", "describe", "billing", "--json"]).json();
    assert_eq!(described["state"], "Empty");
    assert_eq!(described["members"].as_array().unwrap().len(), 0);
    let partition = &described["partitions"][0];
    assert_eq!(partition["topic"], "orders");
    assert_eq!(partition["committed"], 2);
    assert_eq!(partition["end_offset"], 5);
    assert_eq!(partition["lag"], 3);
    let text = cluster.run(&["groups", "describe", "billing"]).ok();
    assert!(text.starts_with("billing  Empty  0 members"), "{text}");
    let row: Vec<&str> = text.lines().nth(2).unwrap().split_whitespace().collect();
    assert_eq!(row, ["orders", "0", "2", "5", "3", "-"]);

    assert_eq!(cluster.run(&["groups", "delete", "billing"]).ok(), "deleted billing\n");
    assert_eq!(cluster.run(&["groups", "list"]).ok(), "");
}

#[test]
fn a_group_with_a_member_shows_it_and_is_not_deleted() {
    let cluster = Cluster::start(&["--topic", "orders:1"]);
    cluster.fill("orders", [7]);
    let member = cluster.follow(&["consume", "-t", "orders", "-g", "billing", "--format", "value"]);
    assert_eq!(member.line(), "7");
    let described = cluster.run(&["groups", "describe", "billing", "--json"]).json();
    assert_eq!(described["state"], "Stable");
    assert_eq!(described["members"][0]["client_id"], "milena-cli");
    assert_eq!(described["partitions"][0]["member_id"], described["members"][0]["member_id"]);
    cluster.run(&["groups", "delete", "billing"]).fails(1, &["billing", "NON_EMPTY_GROUP"]);
    assert_eq!(member.end_by("INT").ok(), "");
    assert_eq!(cluster.committed("billing"), 1, "what was printed is committed");
    assert_eq!(
        cluster.run(&["groups", "delete", "billing", "--json"]).json(),
        serde_json::json!({"deleted": "billing"})
    );
}

#[test]
fn a_group_that_is_not_there_is_named() {
    let cluster = Cluster::start(&[]);
    cluster.run(&["groups", "describe", "absent"]).fails(1, &["absent"]);
    cluster.run(&["groups", "delete", "absent"]).fails(1, &["absent"]);
}
