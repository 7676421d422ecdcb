//! `milena produce`, as `milena consume` sees it.

use serde_json::json;

use crate::support::{Cluster, command, end, records, signal, until};

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
    for compression in ["none", "gzip", "snappy", "lz4", "zstd", "auto"] {
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
