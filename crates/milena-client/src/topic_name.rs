//! Kafka's rule for topic names, checked before anything is sent: a broker answers an illegal name only after a while
//! and, on some paths, not at all.

/// The longest name, in bytes: partition directories are named after it.
const MAX_LEN: usize = 249;

/// Why `name` cannot be a topic's; `None` if it can.
pub(crate) fn fault(name: &str) -> Option<&'static str> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if name.is_empty() {
        Some("it is empty")
    } else if name == "." || name == ".." {
        Some("`.` and `..` are not allowed")
    } else if name.len() > MAX_LEN {
        Some("it is longer than 249 characters")
    } else if !name.bytes().all(allowed) {
        Some("only ASCII letters, digits, `.`, `_` and `-` are allowed")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule_exactly() {
        let longest = "a".repeat(249);
        for name in ["a", "...", "-", "_", "A.b_c-9", "__consumer_offsets", &longest] {
            assert_eq!(fault(name), None, "{name}");
        }
        let too_long = "a".repeat(250);
        for name in ["", ".", "..", "a b", "a/b", "café", "a\0", "a:b", "a\n", &too_long] {
            assert!(fault(name).is_some(), "{name:?}");
        }
    }
}
