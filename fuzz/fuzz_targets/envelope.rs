//! Reads envelopes of the bus.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| milena_fuzz::bus::envelope(data));
