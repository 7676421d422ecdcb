//! `milena demo` and `milena bench`: the figures they print.

use serde_json::Value;

use crate::support::{Cluster, milena};

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
    for part in ["20000", "order violations", &cluster.address] {
        assert!(text.replace([',', '_', '\u{202f}'], "").contains(&part.replace(',', "")), "{part} in {text}");
    }
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
fn without_a_broker_a_bench_brings_its_own() {
    is_plausible(&milena(&["bench", "produce", "--records", "2000", "--json"]).json(), "produce", "acked");
    let text = milena(&["bench", "latency", "--records", "200"]).ok();
    assert!(text.starts_with("latency 200 of 200 records in "), "{text}");
}
