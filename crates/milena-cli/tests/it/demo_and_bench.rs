//! `milena demo` and `milena bench`: the figures they print.

use serde_json::Value;

#[cfg(unix)]
use crate::support::on_a_terminal;
use crate::support::{Cluster, command, embedded, end, milena, run_at, until};

/// An object with exactly these fields.
fn has_fields(object: &Value, fields: &[&str]) {
    let mut there: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
    let mut fields = fields.to_vec();
    there.sort_unstable();
    fields.sort_unstable();
    assert_eq!(there, fields);
}

fn is_a_complete_demo(summary: &Value) {
    has_fields(
        summary,
        &[
            "published",
            "handled",
            "retried",
            "dead_lettered",
            "order_violations",
            "seconds",
            "events_per_second",
            "p50_us",
            "p99_us",
            "worst_airports",
        ],
    );
    let number = |field: &str| summary[field].as_u64().unwrap();
    assert_eq!(number("published"), 20_000);
    assert_eq!(number("handled") + number("dead_lettered"), 20_000);
    assert_eq!(number("dead_lettered"), 20, "one departure in a thousand is poison");
    assert_eq!(number("order_violations"), 0);
    // 206 fail once; each poisonous one is tried three times.
    assert!(number("retried") >= 206 + 2 * 20, "{summary}");
    assert!(number("p50_us") > 0 && number("p50_us") <= number("p99_us"));
    assert!(summary["events_per_second"].as_f64().unwrap() > 0.0 && summary["seconds"].as_f64().unwrap() > 0.0);
    let worst = summary["worst_airports"].as_array().unwrap();
    assert_eq!(worst.len(), 10);
    let delays: Vec<f64> = worst.iter().map(|airport| airport["mean_delay_minutes"].as_f64().unwrap()).collect();
    assert!(delays.is_sorted_by(|a, b| a >= b), "the worst comes first: {delays:?}");
}

#[test]
fn the_demo_accounts_for_every_departure() {
    is_a_complete_demo(&milena(&["demo", "--json"]).json());
}

#[test]
fn the_demo_runs_again_and_again_on_a_broker() {
    let cluster = Cluster::start(&["--nodes", "2"]);
    is_a_complete_demo(&cluster.run(&["demo", "--json"]).json());
    let text = cluster.run(&["demo"]).ok();
    for part in ["20,000 departures", "19,980", "order violations", "✓ every event accounted for", &cluster.address] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_eq!(cluster.run(&["groups", "list"]).ok(), "", "each group is deleted");
    assert_eq!(cluster.run(&["topics", "list"]).ok(), "flights\nflights.dead-letters\n", "as its help says");
}

#[test]
fn two_demos_on_one_cluster_do_not_take_each_others_events() {
    let cluster = Cluster::start(&[]);
    // The environment names the brokers as for every other command, and the log says which those are.
    let both = [(); 2]
        .map(|()| command(&["demo", "--json", "-v"]).env("KAFKA_BOOTSTRAP_SERVERS", &cluster.address).spawn().unwrap());
    for mut ended in both.map(end) {
        assert!(ended.stderr.contains(&format!("on Kafka at {}", cluster.address)), "{}", ended.stderr);
        ended.stderr.clear();
        is_a_complete_demo(&ended.json());
    }
    assert_eq!(cluster.run(&["groups", "list"]).ok(), "");
}

#[cfg(unix)]
#[test]
fn on_a_terminal_the_demo_shows_how_far_it_is() {
    let mut ended = on_a_terminal(&["demo"]);
    for part in ["on an embedded broker in this process", "published", "handled", " of 20,000", "dead-lettered"] {
        assert!(ended.stderr.contains(part), "{part} in {}", ended.stderr);
    }
    ended.stderr.clear();
    let summary = ended.ok();
    assert!(summary.contains("✓ every event accounted for, in order"), "{summary}");
}

const FIELDS: [&str; 9] = [
    "mode",
    "records",
    "acked",
    "seconds",
    "records_per_second",
    "cpu_us_per_record",
    "p50_us",
    "p99_us",
    "peak_rss_mib",
];

fn is_plausible(figures: &Value, mode: &str, counted: &str) {
    has_fields(figures, &FIELDS.map(|field| if field == "acked" { counted } else { field }));
    assert_eq!(figures["mode"], mode);
    assert_eq!(figures["records"], 2000);
    assert_eq!(figures[counted], 2000, "every record is accounted for");
    for field in ["seconds", "records_per_second", "cpu_us_per_record", "peak_rss_mib"] {
        assert!(figures[field].as_f64().unwrap() > 0.0, "{field}");
    }
    assert!(figures["p50_us"].as_u64().unwrap() <= figures["p99_us"].as_u64().unwrap());
}

#[test]
fn each_bench_counts_every_record_and_leaves_nothing_behind() {
    let cluster = Cluster::start(&[]);
    let common = ["--records", "2000", "--json", "--size", "50", "--partitions", "3"];
    for (mode, counted, more) in [
        ("produce", "acked", &["--tasks", "3", "--compression", "lz4"][..]),
        ("consume", "consumed", &["--compression", "zstd"]),
        ("latency", "acked", &[]),
    ] {
        let figures = cluster.run(&[&["bench", mode], &common[..], more].concat()).json();
        is_plausible(&figures, mode, counted);
        assert_eq!(cluster.run(&["topics", "list"]).ok(), "", "its own topic is deleted");
    }
}

#[test]
fn a_bench_uses_the_topic_it_is_given_and_keeps_it() {
    let cluster = Cluster::start(&["--topic", "orders:2"]);
    let bench = |mode: &str| cluster.run(&["bench", mode, "-t", "orders", "--records", "2000", "--json"]);
    bench("consume").fails(2, &["orders", "0 records"]);
    is_plausible(&bench("produce").json(), "produce", "acked");
    is_plausible(&bench("consume").json(), "consume", "consumed");
    let described = cluster.run(&["topics", "describe", "orders", "--json"]).json();
    let partitions = described["partitions"].as_array().unwrap();
    assert_eq!(partitions.iter().map(|partition| partition["end_offset"].as_u64().unwrap()).sum::<u64>(), 2000);
}

#[test]
fn a_bench_that_is_cut_short_leaves_nothing_behind() {
    let cluster = Cluster::start(&[]);
    // So many that neither ends by itself.
    let bench = ["bench", "latency", "--records", "1000000000"];
    cluster.run(&[&bench[..], &["--timeout", "1"]].concat()).fails(1, &["not done after 1 s", "--timeout"]);
    assert_eq!(cluster.run(&["topics", "list"]).ok(), "");
    for signal in ["INT", "TERM"] {
        let running = cluster.follow(&bench);
        until("its topic is there", || cluster.run(&["topics", "list"]).ok().starts_with("milena-bench-"));
        let ended = running.end_by(signal);
        ended.fails(1, &["interrupted"]);
        assert_eq!(ended.stderr.lines().count(), 1, "nothing to warn of: {}", ended.stderr);
        assert_eq!(cluster.run(&["topics", "list"]).ok(), "", "after {signal}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bench_does_not_take_offsets_for_records() {
    let (broker, address) = embedded(&[("orders", 1)]).await;
    assert_eq!(run_at(&address, &["produce", "-t", "orders", "--format", "lines"], "one\ntwo\n").await.ok(), "");
    broker.end_transaction("orders", 0, 500, 0, true).unwrap();
    let bench = ["bench", "consume", "-t", "orders", "--json", "--records"];
    run_at(&address, &[&bench[..], &["3"]].concat(), "").await.fails(2, &["orders holds 2 records, 3 are asked for"]);
    assert_eq!(run_at(&address, &[&bench[..], &["2"]].concat(), "").await.json()["consumed"], 2);
    broker.shutdown().await;
}

#[test]
fn without_a_broker_a_bench_brings_its_own() {
    is_plausible(&milena(&["bench", "produce", "--records", "2000", "--json"]).json(), "produce", "acked");
    let text = milena(&["bench", "latency", "--records", "200"]).ok();
    assert!(text.starts_with("latency 200 of 200 records in "), "{text}");
}
