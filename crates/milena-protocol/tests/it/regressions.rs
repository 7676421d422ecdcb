//! Replays what fuzzing has found, and the golden batches with it, through the very functions that the fuzz targets
//! call.

use std::fs;
use std::path::{Path, PathBuf};

#[allow(unreachable_pub, reason = "public in the library of the fuzz targets")]
#[path = "../../../../fuzz/src/codecs.rs"]
mod codecs;
#[allow(unreachable_pub, reason = "public in the library of the fuzz targets")]
#[path = "../../../../fuzz/src/messages.rs"]
mod messages;
#[allow(unreachable_pub, reason = "public in the library of the fuzz targets")]
#[path = "../../../../fuzz/src/protocol.rs"]
mod protocol;

type Target = fn(&[u8]);

/// The targets that need this crate alone; those of others are replayed there.
const TARGETS: &[(&str, Target)] = &[
    ("encode", protocol::encode),
    ("fetch_decoding", protocol::fetch_decoding),
    ("frames", protocol::frames),
    ("gzip", codecs::gzip),
    ("lz4", codecs::lz4),
    ("produce_framing", protocol::produce_framing),
    ("records", protocol::records),
    ("requests", messages::requests),
    ("responses", messages::responses),
    ("snappy", codecs::snappy),
    ("zstd", codecs::zstd),
];

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn what_fuzzing_found_stays_mended() {
    for (target, demand) in TARGETS {
        for file in files(&root().join("fuzz/regressions").join(target)) {
            eprintln!("{}", file.display());
            demand(&fs::read(file).unwrap());
        }
    }
}

#[test]
fn golden_batches_meet_the_demands_of_fuzzing() {
    let mut replayed = 0;
    for file in files(&root().join("testdata/batches")) {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let bytes = fs::read(&file).unwrap();
        for (target, demand) in TARGETS {
            eprintln!("{target}: {}", file.display());
            match *target {
                "gzip" | "lz4" | "snappy" | "zstd" if name.starts_with(target) => {
                    demand(&[&[0xff, 0xff], &bytes[61..]].concat());
                    replayed += 1;
                }
                "records" | "frames" => demand(&bytes),
                _ => {}
            }
        }
    }
    assert_eq!(replayed, 7);
}

#[test]
fn every_message_is_fuzzed() {
    let mut fuzzed: Vec<_> = messages::REQUESTS.iter().chain(messages::RESPONSES).map(|(name, _)| *name).collect();
    fuzzed.sort_unstable();
    let mut all = Vec::new();
    macro_rules! names {
        ($($module:ident $message:ident)*) => { $(all.push(stringify!($message));)* };
    }
    crate::generated::every_message!(names);
    all.retain(|name| name.ends_with("Request") || name.ends_with("Response"));
    all.sort_unstable();
    assert_eq!(fuzzed, all);
}
