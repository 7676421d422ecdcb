//! CRC-32C of record batches, and the algebra that joins two checksums without their bytes.
//!
//! A batch's CRC covers 40 header bytes and then the record section. The section's CRC and its [`Shift`] are kept
//! from the seal on, so that new header bytes cost one short checksum and one multiplication, whatever the payload.

use crc_fast::{CrcAlgorithm, checksum};

/// The CRC-32C polynomial, bit-reflected.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// x^(2^k) modulo the polynomial, for every k that a length in bits can need.
const POWERS: [u32; 64] = {
    let mut powers = [0; 64];
    powers[0] = 1 << 30; // x^1: bit 31 is x^0.
    let mut k = 1;
    while k < 64 {
        powers[k] = multiply(powers[k - 1], powers[k - 1]);
        k += 1;
    }
    powers
};

/// The CRC-32C of `bytes`, which a batch has of all that follows its CRC field.
pub fn crc32c(bytes: &[u8]) -> u32 {
    // An iSCSI CRC fits in 32 bits: the type is that of all CRCs.
    checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// What appending a run of bytes of a certain length does to the CRC in front of it: x^(8·length).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shift(u32);

impl Shift {
    pub(crate) const fn by(length: usize) -> Self {
        let mut product = 1 << 31;
        let mut rest = length as u64;
        let mut k = 3; // A byte has 2^3 bits.
        while rest != 0 {
            if rest & 1 == 1 {
                product = multiply(POWERS[k], product);
            }
            rest >>= 1;
            k += 1;
        }
        Self(product)
    }

    /// The CRC of A followed by B, of which `self` is B's shift.
    pub(crate) const fn combine(self, crc_a: u32, crc_b: u32) -> u32 {
        multiply(self.0, crc_a) ^ crc_b
    }
}

/// a · b modulo the polynomial, in the reflected representation.
const fn multiply(a: u32, b: u32) -> u32 {
    let mut product = 0;
    let mut b = b;
    let mut mask = 1u32 << 31;
    while mask != 0 {
        if a & mask != 0 {
            product ^= b;
        }
        b = if b & 1 == 1 { (b >> 1) ^ POLYNOMIAL } else { b >> 1 };
        mask >>= 1;
    }
    product
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn castagnoli_check_value() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    proptest! {
        // Ours folds many bytes at a time, from some length and alignment on; the oracle counts eight.
        #[test]
        fn checksum_is_that_of_another_library(bytes in proptest::collection::vec(any::<u8>(), 0..4000), from in 0usize..64) {
            let bytes = &bytes[from.min(bytes.len())..];
            prop_assert_eq!(crc32c(bytes), crc32c::crc32c(bytes));
        }

        #[test]
        fn combined_equals_whole(a in proptest::collection::vec(any::<u8>(), 0..200), b in proptest::collection::vec(any::<u8>(), 0..5000)) {
            let whole = [a.as_slice(), b.as_slice()].concat();
            let combined = Shift::by(b.len()).combine(crc32c(&a), crc32c(&b));
            prop_assert_eq!(combined, crc32c(&whole));
            prop_assert_eq!(combined, ::crc32c::crc32c_combine(crc32c(&a), crc32c(&b), b.len()));
        }
    }
}
