//! Reads record batches, as they are and with their CRC repaired.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| milena_fuzz::protocol::records(data));
