//! `milena consume`: where it begins, where it ends, what it commits.

use std::time::Duration;

use milena_client::Client;
use milena_client::consumer::{Consumer, ConsumerEvent};

use crate::support::{Cluster, embedded, run_at, until};

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[test]
fn it_begins_and_ends_where_it_is_told() {
    let cluster = Cluster::start(&["--topic", "orders:1", "--topic", "empty:2"]);
    cluster.fill("orders", 0..10);
    assert_eq!(cluster.values(&["-t", "orders"]), numbers(0..10));
    assert_eq!(cluster.values(&["-t", "orders", "--from", "beginning", "--max", "3"]), numbers(0..3));
    assert_eq!(cluster.values(&["-t", "orders", "--from", "7"]), numbers(7..10));
    assert_eq!(cluster.values(&["-t", "orders", "--from", "4", "--max", "2"]), numbers(4..6));
    assert!(cluster.values(&["-t", "orders", "--max", "0"]).is_empty());
    assert!(cluster.values(&["-t", "orders", "--from", "10"]).is_empty());
    assert!(cluster.values(&["-t", "orders", "--from", "99"]).is_empty());
    assert!(cluster.values(&["-t", "orders", "--from", "end"]).is_empty());
    assert!(cluster.values(&["-t", "empty"]).is_empty());
    assert!(cluster.values(&["-t", "empty", "-g", "billing"]).is_empty());
}

#[test]
fn an_offset_beyond_the_end_is_waited_for() {
    let cluster = Cluster::start(&["--topic", "orders:1"]);
    cluster.fill("orders", 0..3);
    let reader = cluster.follow(&["consume", "-t", "orders", "--from", "5", "--max", "1", "--format", "value"]);
    cluster.fill("orders", 3..7);
    assert_eq!(reader.line(), "5", "and not from the beginning");
}

#[test]
fn from_the_end_only_what_comes_later_is_printed() {
    let cluster = Cluster::start(&["--topic", "orders:1"]);
    cluster.fill("orders", 0..3);
    let reader = cluster.follow(&["consume", "-t", "orders", "--from", "end", "--format", "value"]);
    // Whatever the reader's start misses is followed by more.
    let first = (3..500).find_map(|number| {
        cluster.fill("orders", [number]);
        reader.line_within(Duration::from_millis(300))
    });
    let first: u32 = first.expect("what comes later is printed").parse().unwrap();
    assert!(first >= 3, "{first} was there before");
    let ended = reader.end_by("TERM");
    assert_eq!(ended.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_is_reached_where_a_transaction_left_nothing_to_see() {
    let (broker, address) = embedded(&[("orders", 2)]).await;
    let produced = run_at(&address, &["produce", "-t", "orders"], "{\"partition\":0,\"value\":\"7\"}\n").await;
    assert_eq!(produced.ok(), "");
    // One partition ends with a marker, the other holds nothing else.
    broker.end_transaction("orders", 0, 500, 0, true).unwrap();
    broker.end_transaction("orders", 1, 500, 0, false).unwrap();
    let consume = ["consume", "-t", "orders", "--exit-at-end", "--format", "value"];
    for group in [&[][..], &["-g", "billing"], &["-g", "late", "--from", "end"]] {
        let printed = run_at(&address, &[&consume[..], group].concat(), "").await.ok();
        assert_eq!(printed, if group.contains(&"end") { "" } else { "7\n" });
    }
    assert_eq!(broker.committed("billing", "orders", 0), Some(1));
    assert_eq!(run_at(&address, &[&consume[..], &["-g", "billing"]].concat(), "").await.ok(), "", "from there on");
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_without_a_partition_has_reached_the_end() {
    let (broker, address) = embedded(&[("orders", 1)]).await;
    let client = Client::builder().bootstrap(&address).unwrap().build().await.unwrap();
    // Static members come first in the assignment, so the only partition is and stays with this one.
    let holder = Consumer::builder(&client).group("billing").instance_id("first").build().unwrap();
    holder.subscribe(["orders"]).unwrap();
    let ConsumerEvent::Assigned(held) = holder.next().await.unwrap() else { panic!("assigned first") };
    assert_eq!(held.partitions().len(), 1);
    let hold = async { while holder.next().await.is_ok() {} };
    tokio::select! {
        ended = run_at(&address, &["consume", "-t", "orders", "-g", "billing", "--exit-at-end"], "") => {
            assert_eq!(ended.ok(), "");
        }
        () = hold => panic!("the holder ended first"),
    }
    broker.shutdown().await;
}

#[test]
fn a_member_of_a_topic_that_is_not_there_does_not_take_it_for_an_empty_one() {
    let cluster = Cluster::start(&["--no-auto-create"]);
    cluster.run(&["consume", "-t", "absent", "-g", "billing", "--exit-at-end"]).fails(1, &["absent"]);
}

#[test]
fn a_group_commits_what_was_printed_while_it_goes_on() {
    let cluster = Cluster::start(&["--topic", "orders:1"]);
    cluster.fill("orders", 0..5);
    let reader = cluster.follow(&["consume", "-t", "orders", "-g", "billing", "--format", "value"]);
    assert_eq!((0..5).map(|_| reader.line()).collect::<Vec<_>>(), numbers(0..5));
    until("what was printed is committed", || cluster.committed("billing") == 5);
    // Nothing is committed by the way it ends.
    reader.kill();
    assert_eq!(cluster.committed("billing"), 5);
}

#[test]
fn a_group_commits_what_was_printed_and_no_more() {
    let cluster = Cluster::start(&["--topic", "orders:1"]);
    cluster.fill("orders", 0..10);
    let group = ["-t", "orders", "-g", "billing"];
    assert_eq!(cluster.values(&[&group[..], &["--max", "4"]].concat()), numbers(0..4));
    assert_eq!(cluster.committed("billing"), 4);
    assert_eq!(cluster.values(&group), numbers(4..10));
    assert_eq!(cluster.committed("billing"), 10);
    assert!(cluster.values(&group).is_empty(), "there is nothing left");
    assert_eq!(cluster.values(&["-t", "orders", "-g", "other"]), numbers(0..10), "groups do not share");
}

#[test]
fn a_group_that_has_committed_goes_on_there_wherever_it_is_told_to_begin() {
    let cluster = Cluster::start(&["--topic", "orders:1"]);
    cluster.fill("orders", 0..5);
    assert!(cluster.values(&["-t", "orders", "-g", "late", "--from", "end"]).is_empty());
    assert_eq!(cluster.values(&["-t", "orders", "-g", "billing", "--max", "2"]), numbers(0..2));
    assert_eq!(cluster.values(&["-t", "orders", "-g", "billing", "--from", "end"]), numbers(2..5));
    cluster.run(&["consume", "-t", "orders", "-g", "billing", "--from", "3"]).fails(2, &["--from OFFSET", "--group"]);
}

#[test]
fn two_members_share_the_partitions_of_a_topic() {
    let cluster = Cluster::start(&["--topic", "orders:2"]);
    let lines: String = (0..20).map(|n| format!("{{\"partition\":{},\"value\":\"{n}\"}}\n", n % 2)).collect();
    let consume = ["consume", "-t", "orders", "-g", "billing", "--format", "value"];
    let first = cluster.follow(&consume);
    cluster.run_with(&["produce", "-t", "orders"], &lines).ok();
    let mut seen: Vec<u32> = (0..20).map(|_| first.line().parse().unwrap()).collect();
    // The second ends by itself: what it is given holds nothing, the first having committed when it gave it up.
    let second = cluster.run(&[&consume[..], &["--exit-at-end"]].concat());
    assert_eq!(second.ok(), "");
    seen.sort_unstable();
    assert_eq!(seen, (0..20).collect::<Vec<u32>>());
    assert_eq!(first.end_by("TERM").ok(), "");
    let described = cluster.run(&["groups", "describe", "billing", "--json"]).json();
    assert_eq!(described["state"], "Empty", "both have left");
    assert!(described["partitions"].as_array().unwrap().iter().all(|partition| partition["lag"] == 0));
}

#[test]
fn bytes_that_are_not_text_are_an_error_that_names_the_offset() {
    let cluster = Cluster::start(&["--topic", "orders:1"]);
    cluster.fill("orders", 0..2);
    cluster.run_with(&["produce", "-t", "orders", "--encoding", "base64"], "{\"value\":\"/w==\"}").ok();
    cluster.fill("orders", 3..4);
    let ended = cluster.run(&["consume", "-t", "orders", "-g", "billing", "--exit-at-end"]);
    ended.fails(1, &["the value at offset 2", "--encoding base64"]);
    assert_eq!(ended.stdout.lines().count(), 2, "what comes before it is printed");
    assert_eq!(cluster.committed("billing"), 2, "and committed");
    let rest = cluster.run(&["consume", "-t", "orders", "-g", "billing", "--exit-at-end", "--encoding", "base64"]);
    let values: Vec<_> = rest.records().into_iter().map(|record| record["value"].clone()).collect();
    assert_eq!(values, ["/w==", "Mw=="]);
}

#[test]
fn a_topic_that_is_not_there_is_named() {
    let cluster = Cluster::start(&["--no-auto-create"]);
    cluster.run(&["consume", "-t", "absent", "--exit-at-end"]).fails(1, &["absent"]);
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let cluster = Cluster::start(&["--topic", "orders:1"]);
    cluster.fill("orders", 0..1);
    // One record only: no later write would tell that nobody reads.
    let (first, ended) = cluster.head(&["consume", "-t", "orders", "-g", "billing", "--format", "value"]);
    assert_eq!((first.as_str(), ended.code, ended.stderr.as_str()), ("0", Some(0), ""));
    assert_eq!(cluster.run(&["groups", "describe", "billing", "--json"]).json()["state"], "Empty", "it has left");
}
