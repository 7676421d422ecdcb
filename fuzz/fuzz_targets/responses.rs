//! Decodes every response in every version.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| milena_fuzz::messages::responses(data));
