//! Values that look like events, all different, without a cost that would be measured: slices of one pool of text.

/// Bytes of the pool; a value longer than this repeats it.
const POOL: usize = 1 << 20;

/// A pool of JSON-like text to cut values from.
#[derive(Debug)]
pub(crate) struct Payload {
    pool: Vec<u8>,
    size: usize,
}

impl Payload {
    pub(crate) fn new(size: usize) -> Self {
        let mut pool = Vec::with_capacity(POOL + size + 256);
        let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
        while pool.len() < POOL + size {
            // xorshift64: any fixed sequence will do, as long as each run measures the same bytes.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let text = format!(
                "{{\"id\":\"{:016x}\",\"airport\":\"{}\",\"delay\":{},\"note\":\"departed\"}},",
                state,
                ["ORD", "DFW", "ATL", "LAX", "PHX", "SFO"][(state % 6) as usize],
                state % 240,
            );
            pool.extend_from_slice(text.as_bytes());
        }
        Self { pool, size }
    }

    /// The value of the `index`th record.
    pub(crate) fn value(&self, index: u64) -> &[u8] {
        let start = (index.wrapping_mul(61) % POOL as u64) as usize;
        &self.pool[start..start + self.size]
    }

    /// Its key, 16 bytes.
    pub(crate) fn key(index: u64) -> [u8; 16] {
        let mut key = *b"key-000000000000";
        let mut rest = index;
        for digit in key[4..].iter_mut().rev() {
            *digit = b"0123456789abcdef"[(rest & 15) as usize];
            rest >>= 4;
        }
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_and_values_have_their_size() {
        assert_eq!(&Payload::key(0x1f), b"key-00000000001f");
        for size in [1, 100, 5000] {
            let payload = Payload::new(size);
            assert!((0..100_000).all(|index| payload.value(index * 977).len() == size));
        }
    }
}
