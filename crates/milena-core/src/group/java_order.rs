//! The order in which Java's `HashMap` hands out string keys. Kafka's assignors break ties by it, so a group whose
//! leader moves between a Java client and this one keeps its assignment only if we break them the same way.
//! Holds no values and hashes nothing else.

/// Java's `String.hashCode`: over UTF-16 units, wrapping.
pub(crate) fn string_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}

/// Java's `TopicPartition.hashCode`.
pub(crate) fn topic_partition_hash(topic: &str, partition: i32) -> i32 {
    31i32.wrapping_mul(31i32.wrapping_add(partition)).wrapping_add(string_hash(topic))
}

fn bucket(hash: i32, table: usize) -> usize {
    let hash = hash as u32;
    (hash ^ (hash >> 16)) as usize & (table - 1)
}

fn table_for(entries: usize) -> usize {
    let mut table = 16usize;
    while entries > table * 3 / 4 {
        table *= 2;
    }
    table
}

/// Indexes of `keys` (given in the order of insertion) in the order of iteration of a `HashMap` that grew by itself.
pub(crate) fn iteration_order<'a>(keys: impl Iterator<Item = &'a str>) -> Vec<usize> {
    let hashes: Vec<i32> = keys.map(string_hash).collect();
    let table = table_for(hashes.len());
    let mut order: Vec<usize> = (0..hashes.len()).collect();
    // Stable: within a bucket Java keeps the order of insertion, and a resize keeps it, too.
    order.sort_by_key(|&index| bucket(hashes[index], table));
    order
}

/// A `HashSet` reduced to what the sticky assignor asks of it: add, remove, and "the first element of the iterator".
#[derive(Debug, Default)]
pub(crate) struct FirstOut<T> {
    entries: Vec<(i32, T)>,
    most: usize,
}

impl<T: PartialEq + Copy> FirstOut<T> {
    pub(crate) fn insert(&mut self, hash: i32, value: T) {
        if !self.entries.iter().any(|(_, known)| *known == value) {
            self.entries.push((hash, value));
            self.most = self.most.max(self.entries.len());
        }
    }

    pub(crate) fn remove(&mut self, value: T) {
        self.entries.retain(|(_, known)| *known != value);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn first(&self) -> Option<T> {
        // A table never shrinks, so its size follows the most entries it ever held.
        let table = table_for(self.most);
        self.entries.iter().min_by_key(|(hash, _)| bucket(*hash, table)).map(|(_, value)| *value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_javas() {
        assert_eq!(string_hash(""), 0);
        assert_eq!(
            string_hash("consumer-1"),
            "consumer-1".bytes().fold(0i32, |h, b| h.wrapping_mul(31).wrapping_add(b.into()))
        );
        assert_eq!(string_hash("polygenelubricants"), i32::MIN, "a known value from Java's own tests");
        assert_eq!(topic_partition_hash("t", 0), 31 * 31 + 116);
    }

    #[test]
    fn iteration_is_by_bucket_and_then_by_insertion() {
        // "Aa" and "BB" collide in Java.
        assert_eq!(string_hash("Aa"), string_hash("BB"));
        assert_eq!(iteration_order(["BB", "Aa", "a"].into_iter()), vec![0, 1, 2]);
        assert_eq!(iteration_order(["b", "a"].into_iter()), vec![1, 0]);
    }
}
