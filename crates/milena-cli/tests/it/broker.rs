//! `milena broker`: its line, its nodes, its end.

use crate::support::{Cluster, milena};

#[test]
fn a_broker_says_where_it_listens_and_ends_cleanly_when_told_to() {
    for signal in ["TERM", "INT"] {
        let cluster = Cluster::start(&["--topic", "orders:3"]);
        assert_ne!(cluster.address, "127.0.0.1:0", "a free port was picked");
        assert_eq!(cluster.run(&["topics", "list"]).ok(), "orders\n");
        assert_eq!(cluster.stop(signal).ok(), "", "one line and no more");
    }
}

#[test]
fn each_node_has_an_address_and_any_of_them_knows_all() {
    let cluster = Cluster::start(&["--nodes", "3"]);
    let addresses: Vec<&str> = cluster.address.split(',').collect();
    assert_eq!(addresses.len(), 3);
    cluster.run(&["topics", "create", "orders", "-p", "6", "-r", "3"]).ok();
    for address in addresses {
        let topic = milena(&["topics", "describe", "orders", "--json", "-b", address]).json();
        let partitions = topic["partitions"].as_array().unwrap();
        assert!(partitions.iter().all(|partition| partition["replicas"].as_array().unwrap().len() == 3));
        let mut leaders: Vec<i64> = partitions.iter().map(|partition| partition["leader"].as_i64().unwrap()).collect();
        leaders.sort_unstable();
        leaders.dedup();
        assert_eq!(leaders.len(), 3, "every node leads some partition");
    }
}

#[test]
fn a_topic_is_made_by_producing_only_where_that_is_allowed() {
    let strict = Cluster::start(&["--no-auto-create"]);
    strict.run_with(&["produce", "-t", "orders"], "{\"value\":\"1\"}\n").fails(1, &["line 1", "orders"]);
    assert_eq!(strict.run(&["topics", "list"]).ok(), "");
}

#[test]
fn a_port_in_use_is_named() {
    let cluster = Cluster::start(&[]);
    milena(&["broker", "--listen", &cluster.address]).fails(1, &[&cluster.address, "in use"]);
}
