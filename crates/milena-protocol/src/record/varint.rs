//! Zigzag varints as records use them.
//!
//! Encoding writes into a slice whose room was computed beforehand by the `*_len` functions; decoding is strict: at
//! most 5 bytes for 32 bits and 10 for 64, no set bit beyond the type's width.

/// Maps signed to unsigned so that small magnitudes stay short.
pub(crate) const fn zigzag32(value: i32) -> u32 {
    ((value << 1) ^ (value >> 31)) as u32
}

/// As [`zigzag32`], for 64 bits.
pub(crate) const fn zigzag64(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// Bytes that `value` takes as a zigzag varint.
pub(crate) const fn varint_len(value: i32) -> usize {
    // 32 - leading zeros = significant bits; each byte carries 7; a zero takes one byte.
    let bits = 32 - (zigzag32(value) | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Bytes that `value` takes as a zigzag varlong.
pub(crate) const fn varlong_len(value: i64) -> usize {
    let bits = 64 - (zigzag64(value) | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Writes `value` at `position` and returns the position behind it.
#[inline]
pub(crate) fn put_varint(slot: &mut [u8], position: usize, value: i32) -> usize {
    let mut rest = zigzag32(value);
    let mut position = position;
    while rest >= 0x80 {
        slot[position] = rest as u8 | 0x80;
        rest >>= 7;
        position += 1;
    }
    slot[position] = rest as u8;
    position + 1
}

/// As [`put_varint`], for 64 bits.
#[inline]
pub(crate) fn put_varlong(slot: &mut [u8], position: usize, value: i64) -> usize {
    let mut rest = zigzag64(value);
    let mut position = position;
    while rest >= 0x80 {
        slot[position] = rest as u8 | 0x80;
        rest >>= 7;
        position += 1;
    }
    slot[position] = rest as u8;
    position + 1
}

/// Why a varint could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VarintError {
    /// The bytes ended inside it.
    Truncated,
    /// It has too many bytes, or bits beyond the type's width.
    Overflow,
}

/// Reads the fields of a record, one after the other.
///
/// A place in bytes that stay as they are: a slice that is cut at its front costs twice as many instructions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    #[inline]
    pub(crate) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    /// Where the next field begins.
    #[inline]
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// Bytes that are left.
    #[inline]
    pub(crate) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// What was read since `from`.
    #[inline]
    pub(crate) fn since(&self, from: usize) -> &'a [u8] {
        &self.bytes[from..self.at]
    }

    /// The next `length` bytes, if there are so many.
    #[inline]
    pub(crate) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(taken)
    }

    /// A zigzag varint.
    #[inline]
    pub(crate) fn varint(&mut self) -> Result<i32, VarintError> {
        // One byte holds the fields of a small record, two its length: more is rare, and kept out of the caller's loop.
        let low = *self.bytes.get(self.at).ok_or(VarintError::Truncated)?;
        if low < 0x80 {
            self.at += 1;
            return Ok(unzigzag32(u32::from(low)));
        }
        match self.bytes.get(self.at + 1) {
            Some(&high) if high < 0x80 => {
                self.at += 2;
                Ok(unzigzag32(u32::from(low & 0x7f) | u32::from(high) << 7))
            }
            _ => self.long_varint(),
        }
    }

    #[cold]
    fn long_varint(&mut self) -> Result<i32, VarintError> {
        let mut value = 0u32;
        for index in 0..5 {
            let Some(&byte) = self.bytes.get(self.at + index) else { return Err(VarintError::Truncated) };
            if index == 4 && byte > 0x0f {
                return Err(VarintError::Overflow);
            }
            value |= u32::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                self.at += index + 1;
                return Ok(unzigzag32(value));
            }
        }
        Err(VarintError::Overflow)
    }

    /// As [`varint`](Self::varint), of 64 bits.
    #[inline]
    pub(crate) fn varlong(&mut self) -> Result<i64, VarintError> {
        let low = *self.bytes.get(self.at).ok_or(VarintError::Truncated)?;
        if low < 0x80 {
            self.at += 1;
            return Ok(unzigzag64(u64::from(low)));
        }
        match self.bytes.get(self.at + 1) {
            Some(&high) if high < 0x80 => {
                self.at += 2;
                Ok(unzigzag64(u64::from(low & 0x7f) | u64::from(high) << 7))
            }
            _ => self.long_varlong(),
        }
    }

    #[cold]
    fn long_varlong(&mut self) -> Result<i64, VarintError> {
        let mut value = 0u64;
        for index in 0..10 {
            let Some(&byte) = self.bytes.get(self.at + index) else { return Err(VarintError::Truncated) };
            if index == 9 && byte > 0x01 {
                return Err(VarintError::Overflow);
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                self.at += index + 1;
                return Ok(unzigzag64(value));
            }
        }
        Err(VarintError::Overflow)
    }
}

/// Short varints, out of eight bytes that were read at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WordVarints {
    bits: u64,
    /// Bytes that were read.
    pub(crate) taken: usize,
}

impl WordVarints {
    /// The eight bytes at `at`, if there are so many.
    #[inline(always)]
    pub(crate) fn at(bytes: &[u8], at: usize) -> Option<Self> {
        let word = bytes.get(at..)?.first_chunk()?;
        Some(Self { bits: u64::from_le_bytes(*word), taken: 0 })
    }

    #[inline(always)]
    pub(crate) fn skip_byte(&mut self) {
        self.advance(1);
    }

    /// A zigzag varint of one byte, or two, or three, if those bytes are in the word; what is longer reads as `None`.
    #[inline(always)]
    pub(crate) fn varint(&mut self) -> Option<i32> {
        let bits = self.bits as u32;
        let (value, length) = if bits & 0x80 == 0 {
            (bits & 0x7f, 1)
        } else if bits & 0x8000 == 0 {
            (bits & 0x7f | bits >> 1 & 0x3f80, 2)
        } else if bits & 0x80_0000 == 0 {
            (bits & 0x7f | bits >> 1 & 0x3f80 | bits >> 2 & 0x1f_c000, 3)
        } else {
            return None;
        };
        self.advance(length);
        (self.taken <= 8).then_some(unzigzag32(value))
    }

    #[inline(always)]
    fn advance(&mut self, bytes: usize) {
        self.bits >>= 8 * bytes;
        self.taken += bytes;
    }
}

const fn unzigzag32(value: u32) -> i32 {
    (value >> 1) as i32 ^ -((value & 1) as i32)
}

const fn unzigzag64(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_encodings_match_kafka() {
        // From Kafka's ByteUtilsTest.
        for (value, bytes) in [
            (0, &[0x00][..]),
            (-1, &[0x01]),
            (1, &[0x02]),
            (63, &[0x7e]),
            (-64, &[0x7f]),
            (64, &[0x80, 0x01]),
            (8191, &[0xfe, 0x7f]),
            (i32::MAX, &[0xfe, 0xff, 0xff, 0xff, 0x0f]),
            (i32::MIN, &[0xff, 0xff, 0xff, 0xff, 0x0f]),
        ] {
            let mut slot = [0; 5];
            let end = put_varint(&mut slot, 0, value);
            assert_eq!(&slot[..end], bytes, "{value}");
            assert_eq!(varint_len(value), bytes.len(), "{value}");
        }
    }

    #[test]
    fn overflow_and_truncation_are_told_apart() {
        assert_eq!(Cursor::new(&[0xff, 0xff, 0xff, 0xff, 0x10], 0).varint(), Err(VarintError::Overflow));
        assert_eq!(Cursor::new(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00], 0).varint(), Err(VarintError::Overflow));
        assert_eq!(Cursor::new(&[0x80, 0x80], 0).varint(), Err(VarintError::Truncated));
        assert_eq!(Cursor::new(&[], 0).varint(), Err(VarintError::Truncated));
        assert_eq!(Cursor::new(&[0xff; 10], 0).varlong(), Err(VarintError::Overflow));
        assert_eq!(Cursor::new(&[0xff; 9], 0).varlong(), Err(VarintError::Truncated));
    }

    proptest! {
        #[test]
        fn varint_round_trip(value: i32) {
            let mut slot = [0; 5];
            let end = put_varint(&mut slot, 0, value);
            prop_assert_eq!(end, varint_len(value));
            let mut input = Cursor::new(&slot[..end], 0);
            prop_assert_eq!(input.varint(), Ok(value));
            prop_assert_eq!(input.left(), 0);
        }

        #[test]
        fn varlong_round_trip(value: i64, shift in 0u32..64) {
            let value = value >> shift;
            let mut slot = [0; 10];
            let end = put_varlong(&mut slot, 0, value);
            prop_assert_eq!(end, varlong_len(value));
            let mut input = Cursor::new(&slot[..end], 0);
            prop_assert_eq!(input.varlong(), Ok(value));
            prop_assert_eq!(input.left(), 0);
        }
    }
}
