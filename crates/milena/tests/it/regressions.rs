//! Replays what fuzzing has found in the envelope, through the very function that the fuzz target calls.

use std::fs;
use std::path::PathBuf;

/// Where the fuzz targets look for it.
mod envelope {
    pub(crate) use milena::{Envelope, Header, WireShape};
}

#[allow(unreachable_pub, reason = "public in the library of the fuzz targets")]
#[path = "../../../../fuzz/src/bus.rs"]
mod bus;

#[test]
fn what_fuzzing_found_in_envelopes_stays_mended() {
    // Each shape once, so that the demands themselves are tried.
    bus::envelope(b"\x01ce_id\x011\0ce_source\x01/shop\0ce_type\x01paid\0ce_aggregateid\x01order-1\0\0{}");
    bus::envelope(br#"0{"event_id":"1","aggregate_id":"a","event_type":"t","event_version":1,"payload":{}}"#);
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/regressions/envelope"));
    let Ok(files) = fs::read_dir(folder) else { return };
    for file in files {
        let file = file.unwrap().path();
        eprintln!("{}", file.display());
        bus::envelope(&fs::read(file).unwrap());
    }
}
