//! Replays what fuzzing has found in lines of JSON, through the very function that the fuzz target calls.

use std::fs;
use std::path::PathBuf;

/// Where the fuzz targets look for it.
mod jsonl {
    pub(crate) use milena_cli::jsonl::{Encoding, OutputRecord, format, parse};
}

#[allow(unreachable_pub, reason = "public in the library of the fuzz targets")]
#[path = "../../../../fuzz/src/cli.rs"]
mod cli;

#[test]
fn what_fuzzing_found_in_lines_stays_mended() {
    // Each encoding once, so that the demands themselves are tried.
    cli::jsonl(br#"0{"partition":3,"timestamp":5,"key":null,"value":"a\nb","headers":[["h",null],["h","1"]]}"#);
    cli::jsonl(br#"1{"key":"AP8=","value":null,"offset":9}"#);
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/regressions/jsonl"));
    let Ok(files) = fs::read_dir(folder) else { return };
    for file in files {
        let file = file.unwrap().path();
        eprintln!("{}", file.display());
        cli::jsonl(&fs::read(file).unwrap());
    }
}
