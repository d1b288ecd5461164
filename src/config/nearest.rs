//! The nearest name to a mistyped one.

/// The candidate most like `text`, if any is like it enough to be what was meant.
///
/// Distance: insertions, deletions, substitutions and swaps of neighbours (Damerau), letters compared
/// without case; up to a third of the longer name may differ.
pub fn nearest<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let scored = candidates.into_iter().map(|candidate| (distance(text, candidate), candidate));
    let (distance, candidate) = scored.min_by_key(|(distance, _)| *distance)?;
    (distance <= text.chars().count().max(candidate.chars().count()).div_ceil(3)).then_some(candidate)
}

/// Number of edits between two names; see [`nearest`].
pub fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.to_lowercase().chars().collect();
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut before: Vec<usize> = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + same);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant() {
        let names = ["hdfs.writeFormat", "hdfs.path", "selector.header", "channels", "transactionCapacity"];
        assert_eq!(nearest("hdfs.wtireFormat", names), Some("hdfs.writeFormat"));
        assert_eq!(nearest("selector.head", names), Some("selector.header"));
        assert_eq!(nearest("transactionCapactiy", names), Some("transactionCapacity"));
        assert_eq!(nearest("Channels", names), Some("channels"));
        assert_eq!(nearest("colour", names), None);
        assert_eq!(nearest("x", []), None);
    }

    #[test]
    fn a_swap_is_one_edit() {
        assert_eq!((distance("ab", "ba"), distance("abc", "abd"), distance("", "abc")), (1, 1, 3));
    }
}
