//! The numbering of records under one producer id and epoch.

/// The sequence after `records` more than `sequence`: sequences run from 0 to 2^31 - 1 and then from 0 again.
pub fn advance(sequence: i32, records: u32) -> i32 {
    (sequence.cast_unsigned().wrapping_add(records) & i32::MAX.cast_unsigned()).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_wraps_to_zero_after_two_to_the_31() {
        assert_eq!(advance(0, 10), 10);
        assert_eq!(advance(i32::MAX, 1), 0);
        assert_eq!(advance(i32::MAX - 4, 10), 5);
        assert_eq!(advance(5, 0), 5);
    }
}
