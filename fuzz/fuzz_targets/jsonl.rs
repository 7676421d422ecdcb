//! Reads records as lines of JSON.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| milena_fuzz::cli::jsonl(data));
