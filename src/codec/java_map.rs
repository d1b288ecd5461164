//! The order in which Java's `HashMap<String, String>` gives its entries, and its text.
//!
//! Flume prints headers through `HashMap.toString()` (logger sink, `HEADER_AND_TEXT`), so the order is part
//! of its output: buckets of `hash ^ hash >>> 16` in a table that doubles above three quarters full, and
//! within a bucket the order of insertion.

/// `String.hashCode()`: over UTF-16 units.
pub fn string_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}

/// Sorts entries, given in order of insertion, into the order of a `HashMap` that holds them.
pub fn sort<V>(entries: &mut [(&str, V)]) {
    let mut table = 16usize;
    while entries.len() > table / 4 * 3 {
        table *= 2;
    }
    entries.sort_by_key(|(key, _)| {
        let hash = string_hash(key) as u32;
        (hash ^ (hash >> 16)) as usize & (table - 1)
    });
}

/// Appends the text of a `HashMap` with these entries: `{k=v, k2=v2}`.
pub fn write<'a>(entries: impl Iterator<Item = (&'a str, &'a str)>, out: &mut String) {
    let mut entries: Vec<_> = entries.collect();
    sort(&mut entries);
    out.push('{');
    for (index, (key, value)) in entries.iter().enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        out.push_str(key);
        out.push('=');
        out.push_str(value);
    }
    out.push('}');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_javas() {
        assert_eq!(string_hash(""), 0);
        assert_eq!(string_hash("timestamp"), 55_126_294);
        assert_eq!(string_hash("host"), 3_208_616);
        // Overflows, and a character outside the basic plane (two units).
        assert_eq!(string_hash("polygenelubricants"), i32::MIN);
        assert_eq!(string_hash("\u{1f600}"), 0xd83d * 31 + 0xde00);
    }

    #[test]
    fn order_is_the_tables() {
        let text = |entries: &[(&str, &str)]| {
            let mut out = String::new();
            write(entries.iter().copied(), &mut out);
            out
        };
        assert_eq!(text(&[]), "{}");
        assert_eq!(text(&[("b", "2"), ("a", "1")]), "{a=1, b=2}");
        // "Aa" and "BB" have one hash: insertion decides.
        assert_eq!(text(&[("BB", "1"), ("Aa", "2")]), "{BB=1, Aa=2}");
        // 'a' (97) lies in bucket 1 of 16, 'p' (112) in bucket 0.
        assert_eq!(text(&[("a", "1"), ("p", "2")]), "{p=2, a=1}");
        // 13 entries make a table of 32, in which 'p' lies behind 'a'.
        let letters = ["p", "o", "n", "m", "l", "k", "j", "i", "h", "g", "f", "e", "a"];
        let many: Vec<_> = letters.iter().map(|l| (*l, "")).collect();
        assert_eq!(text(&many), "{a=, e=, f=, g=, h=, i=, j=, k=, l=, m=, n=, o=, p=}");
    }
}
