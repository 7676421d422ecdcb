//! `milena produce`, as `milena consume` sees it.

use std::io::{PipeWriter, Write as _, pipe};
use std::process::Child;
use std::time::Duration;

use milena_broker::{Broker, Fault, Rule};
use serde_json::json;

use crate::support::{Cluster, Ended, command, embedded, end, records, run_at, signal, until};

#[test]
fn every_part_of_a_record_comes_back_as_it_went() {
    let cluster = Cluster::start(&["--topic", "orders:3"]);
    let lines = [
        r#"{"partition":2,"offset":0,"timestamp":1700000000000,"key":"k","value":"grün\n\"x\"","headers":[["a","1"],["b",null],["a","2"]]}"#,
        r#"{"partition":2,"offset":1,"timestamp":1700000000001,"key":null,"value":"","headers":[]}"#,
        r#"{"partition":2,"offset":2,"timestamp":1699999999999,"key":"","value":null,"headers":[["",""]]}"#,
        r#"{"partition":1,"offset":0,"timestamp":0,"key":"\u0000","value":"z","headers":[]}"#,
    ];
    // An empty line is no record, and a line may end as on Windows.
    let input = format!("{}\r\n\n{}", lines[0], lines[1..].join("\n"));
    assert_eq!(cluster.run_with(&["produce", "-t", "orders"], &input).ok(), "");
    let printed = cluster.run(&["consume", "-t", "orders", "--exit-at-end"]).ok();
    let mut printed: Vec<&str> = printed.lines().collect();
    printed.sort_unstable_by_key(|line| line.starts_with(r#"{"partition":1"#));
    assert_eq!(printed, lines, "byte for byte");
}

#[test]
fn what_is_left_out_has_a_default() {
    let cluster = Cluster::start(&["--topic", "orders:1"]);
    cluster.run_with(&["produce", "-t", "orders"], "{\"value\":\"x\"}").ok();
    let record = cluster.run(&["consume", "-t", "orders", "--exit-at-end"]).records().remove(0);
    let timestamp = record["timestamp"].as_i64().unwrap();
    let expected = json!({"partition":0,"offset":0,"timestamp":timestamp,"key":null,"value":"x","headers":[]});
    assert_eq!(record, expected);
    assert!(timestamp > 1_600_000_000_000, "the time of producing");
}

#[test]
fn bytes_that_are_not_text_travel_as_base64() {
    let cluster = Cluster::start(&["--topic", "orders:1"]);
    let record = r#"{"partition":0,"offset":0,"timestamp":5,"key":"/w==","value":"AP/+","headers":[["h","gA=="]]}"#;
    cluster.run_with(&["produce", "-t", "orders", "--encoding", "base64"], record).ok();
    cluster.run_with(&["produce", "-t", "orders", "--encoding", "base64", "--format", "lines"], "aGk=\n").ok();
    let consume = ["consume", "-t", "orders", "--exit-at-end"];
    let printed = cluster.run(&[&consume[..], &["--encoding", "base64"]].concat()).ok();
    assert_eq!(printed.lines().next().unwrap(), record);
    assert_eq!(records(&printed)[1]["value"], "aGk=");
    assert_eq!(cluster.values(&["-t", "orders", "--encoding", "base64"]), ["AP/+", "aGk="]);
    assert_eq!(cluster.values(&["-t", "orders", "--from", "1"]), ["hi"]);
}

#[test]
fn a_line_is_a_value_if_one_says_so() {
    let cluster = Cluster::start(&["--topic", "orders:1"]);
    cluster.run_with(&["produce", "-t", "orders", "--format", "lines"], "one\n\n{\"value\":3}\r\nfour").ok();
    assert_eq!(cluster.values(&["-t", "orders"]), ["one", "", "{\"value\":3}", "four"]);
}

#[test]
fn every_compression_carries_the_same_values() {
    let cluster = Cluster::start(&[]);
    let input: String = (0..500).map(|number| format!("value {number} of five hundred\n")).collect();
    for compression in ["none", "gzip", "snappy", "lz4", "zstd", "auto", "throughput", "ratio", "size-table"] {
        cluster.run(&["topics", "create", compression, "-p", "1"]).ok();
        let produce = ["produce", "-t", compression, "--format", "lines", "--compression", compression];
        cluster.run_with(&produce, &input).ok();
        let printed = cluster.run(&["consume", "-t", compression, "--exit-at-end", "--format", "value"]).ok();
        assert!(printed == input, "{compression}");
    }
}

#[test]
fn keys_choose_partitions_and_keep_their_order() {
    let cluster = Cluster::start(&["--topic", "orders:4"]);
    let input: String =
        (0..200).map(|number| format!("{{\"key\":\"k{}\",\"value\":\"{number}\"}}\n", number % 20)).collect();
    cluster.run_with(&["produce", "-t", "orders"], &input).ok();
    let printed = cluster.run(&["consume", "-t", "orders", "--exit-at-end"]).records();
    assert_eq!(printed.len(), 200);
    for key in 0..20 {
        let of_key: Vec<_> = printed.iter().filter(|record| record["key"] == format!("k{key}")).collect();
        assert!(of_key.iter().all(|record| record["partition"] == of_key[0]["partition"]));
        let values: Vec<u32> = of_key.iter().map(|record| record["value"].as_str().unwrap().parse().unwrap()).collect();
        assert_eq!(values, (0..10).map(|round| key + 20 * round).collect::<Vec<u32>>());
    }
}

#[test]
fn a_bad_line_ends_it_after_the_good_ones_before() {
    let cluster = Cluster::start(&["--topic", "orders:1"]);
    let bad = [
        ("not json", "not a JSON record"),
        (r#"{"key":"k"}"#, "missing field `value`"),
        (r#"{"value":"x","partition":-1}"#, "`partition` must be 0 or more"),
        (r#"{"value":"x","partition":9}"#, "partition"),
        (r#"{"value":"x","colour":"red"}"#, "unknown field `colour`"),
        (r#"{"value":7}"#, "string"),
    ];
    for (index, (line, says)) in bad.into_iter().enumerate() {
        let input =
            format!("{{\"value\":\"{index}a\"}}\n{{\"value\":\"{index}b\"}}\n{line}\n{{\"value\":\"after\"}}\n");
        let ended = cluster.run_with(&["produce", "-t", "orders"], &input);
        ended.fails(1, &["line 3: ", says]);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    }
    let encoded = cluster.run_with(&["produce", "-t", "orders", "--encoding", "base64"], "{\"value\":\"*\"}\n");
    encoded.fails(1, &["line 1: `value` is not base64"]);
    let expected: Vec<String> = (0..bad.len()).flat_map(|index| [format!("{index}a"), format!("{index}b")]).collect();
    assert_eq!(cluster.values(&["-t", "orders"]), expected);
}

#[test]
fn a_record_too_large_is_reported_by_its_line() {
    let cluster = Cluster::start(&["--topic", "orders:1"]);
    let input = format!("small\n{}\n", "x".repeat(2_000_000));
    cluster.run_with(&["produce", "-t", "orders", "--format", "lines"], &input).fails(1, &["line 2: ", "orders"]);
    assert_eq!(cluster.values(&["-t", "orders"]), ["small"]);
}

#[test]
fn every_line_that_is_not_on_the_broker_is_reported() {
    let cluster = Cluster::start(&[]);
    cluster.run(&["topics", "create", "orders", "-p", "1", "--config", "max.message.bytes=200"]).ok();
    // The first two are for the broker to refuse; the last is no record at all.
    let large = "x".repeat(500);
    let input = format!("{{\"value\":\"{large}\"}}\n{{\"value\":\"{large}\"}}\n{{\"value\":\"small\"}}\nnot json\n");
    let ended = cluster.run_with(&["produce", "-t", "orders"], &input);
    ended.fails(1, &["orders", "not a JSON record"]);
    let lines: Vec<&str> = ended.stderr.lines().map(|line| &line[..line.len().min(14)]).collect();
    assert_eq!(lines, ["error: line 1:", "error: line 2:", "error: line 4:"], "{}", ended.stderr);
    assert_eq!(cluster.values(&["-t", "orders"]), ["small"]);
}

#[test]
fn a_refused_record_is_news_while_the_input_is_still_open() {
    let cluster = Cluster::start(&["--no-auto-create"]);
    let mut child = command(&["produce", "-t", "absent", "--format", "lines", "-b", &cluster.address]).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, b"one\n").unwrap();
    // Nobody closes its stdin before it has ended.
    end(child).fails(1, &["line 1", "absent"]);
    drop(input);
}

#[test]
fn whoever_ends_it_loses_nothing_that_was_read() {
    let cluster = Cluster::start(&["--topic", "orders:1"]);
    for (name, count) in [("INT", 1), ("TERM", 2)] {
        let produce = ["produce", "-t", "orders", "--format", "lines", "-b", &cluster.address];
        let mut child = command(&produce).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut input, b"whole\npart").unwrap();
        until("a record", || cluster.values(&["-t", "orders"]).len() == count);
        signal(child.id(), name);
        // Nobody closes its stdin before it has ended.
        assert_eq!(end(child).ok(), "");
        drop(input);
    }
    assert_eq!(cluster.values(&["-t", "orders"]), ["whole", "whole"]);
}

/// More lines than may be unacknowledged at once, all in memory after the first read of stdin.
const MANY: usize = 10_050;

/// `milena produce` in the midst of its work: a broker that takes this long to look at the first batch has it, all of
/// `lines` were read from a pipe that stays open, and as many as may be are unacknowledged. After the record that the
/// batch holds it waits for nothing until it waits for room or for more lines: there a signal finds it.
async fn in_its_midst(broker: &Broker, address: &str, hold: Duration, lines: &[u8]) -> (Child, PipeWriter) {
    // Of all that it asks, only a batch is about a partition.
    let slow = broker.faults().add(Rule::new(Fault::Delay(hold)).topic("orders").partition(0));
    let (stdin, mut input) = pipe().unwrap();
    assert!(lines.len() <= 60_000, "a pipe holds it all");
    input.write_all(lines).unwrap();
    let mut produce = command(&["produce", "-t", "orders", "--format", "lines", "-b", address]);
    let child = produce.stdin(stdin).spawn().unwrap();
    let has_come = async {
        while broker.faults().hits(slow) == 0 {
            tokio::task::yield_now().await
        }
    };
    tokio::time::timeout(Duration::from_secs(60), has_come).await.expect("the first batch");
    (child, input)
}

async fn ended(child: Child) -> Ended {
    tokio::task::spawn_blocking(|| end(child)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_finds_no_moment_at_which_a_line_that_was_read_is_lost() {
    for name in ["INT", "TERM"] {
        let (broker, address) = embedded(&[("orders", 1)]).await;
        let (child, input) = in_its_midst(&broker, &address, Duration::from_secs(3), &b"x\n".repeat(MANY)).await;
        signal(child.id(), name);
        assert_eq!(ended(child).await.ok(), "");
        drop(input);
        assert_eq!(broker.log_offsets("orders", 0).unwrap(), (0, MANY as i64), "after {name}");
        broker.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_waited_for_at_an_interrupt_and_then_refused_is_told_by_its_line() {
    // It waits for a line more, or has one in hand that there is no room for: it goes no further than that one, which is
    // delivered as all before it are.
    for (more, delivered) in [(0, 0), (MANY - 1, 10_000)] {
        let (broker, address) = embedded(&[]).await;
        let create = ["topics", "create", "orders", "-p", "1", "--config", "max.message.bytes=20000"];
        run_at(&address, &create, "").await.ok();
        // Larger than any batch of several, so that it is alone in being refused.
        let lines = [&b"x".repeat(30_000)[..], b"\n", &b"x\n".repeat(more)].concat();
        let (child, input) = in_its_midst(&broker, &address, Duration::from_secs(3), &lines).await;
        signal(child.id(), "INT");
        let ended = ended(child).await;
        drop(input);
        ended.fails(1, &["line 1: cannot produce to topic orders"]);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        assert_eq!(broker.log_offsets("orders", 0).unwrap(), (0, delivered), "{more} lines after it");
        broker.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_interrupt_ends_what_the_first_left_to_be_delivered() {
    let (broker, address) = embedded(&[("orders", 1)]).await;
    // Longer than anything here waits.
    let (child, input) = in_its_midst(&broker, &address, Duration::from_secs(600), &b"x\n".repeat(MANY)).await;
    signal(child.id(), "INT");
    signal(child.id(), "TERM");
    ended(child).await.fails(1, &["interrupted before all that was read was acknowledged"]);
    drop(input);
}
