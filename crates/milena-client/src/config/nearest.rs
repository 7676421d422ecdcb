//! Finds the known name that a mistyped one was most likely meant to be.

/// The known name nearest to `name`, unless none is near.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Keys come from configuration files; a monstrous one must not cost a monstrous table.
    if name.len() > 100 {
        return None;
    }
    let name = name.to_ascii_lowercase().replace(['_', '-'], ".");
    let (distance, nearest) = known.into_iter().map(|known| (distance(&name, known), known)).min()?;
    (distance <= nearest.len().div_ceil(3)).then_some(nearest)
}

/// Levenshtein distance: insertions, deletions and substitutions.
fn distance(a: &str, b: &str) -> usize {
    let mut row = (0..=b.len()).collect::<Vec<_>>();
    for (i, from) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_nonsense_is_not() {
        let known = ["bootstrap.servers", "client.id", "request.timeout.ms"];
        assert_eq!(nearest("bootstrap.server", known), Some("bootstrap.servers"));
        assert_eq!(nearest("BOOTSTRAP_SERVERS", known), Some("bootstrap.servers"));
        assert_eq!(nearest("reqest.timeout", known), Some("request.timeout.ms"));
        assert_eq!(nearest("zookeeper.connect", known), None);
        assert_eq!(nearest(&"x".repeat(1_000), known), None);
    }
}
