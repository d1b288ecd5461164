//! Substitution of `${...}` in values, as Flume 1.10 and later do it (log4j's lookups).
//!
//! `${key}` another key of the merged file, `${env:NAME}`, `${sys:name}` (a `-D` property), `${date:pattern}`
//! the time of the start or reload (`SimpleDateFormat`); `${x:-default}`, nesting and recursion work, `$${` stands for `${`,
//! and what cannot be resolved stays as it is. With `-DpropertiesImplementation=…EnvVarResolverProperties`
//! (Flume 1.7 to 1.9) a bare `${NAME}` also falls back to the environment. Flume resolves references while its
//! map fills, in hash order; here the whole map is known first.

use std::collections::HashMap;

/// Deepest nesting of references; a cycle ends there and stays literal.
const DEPTH_MAX: usize = 16;
/// Longest value after substitution, in bytes.
const VALUE_BYTES_MAX: usize = 1 << 20;

/// Where references lead.
pub struct Lookups<'a> {
    /// Keys of the merged configuration.
    pub keys: &'a HashMap<String, String>,
    /// Environment variables.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// `-D` properties.
    pub system: &'a HashMap<String, String>,
    /// The time in a pattern of `SimpleDateFormat`; `None` for a pattern that is none.
    pub date: &'a dyn Fn(&str) -> Option<String>,
}

impl Lookups<'_> {
    /// The value with everything resolved that can be.
    pub fn resolve(&self, value: &str) -> String {
        self.expand(value, 0)
    }

    fn expand(&self, text: &str, depth: usize) -> String {
        if depth > DEPTH_MAX || !text.contains("${") {
            return text.to_owned();
        }
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            if rest[..at].ends_with('$') {
                out.push_str(&rest[..at - 1]);
                out.push_str("${");
                rest = &rest[at + 2..];
                continue;
            }
            out.push_str(&rest[..at]);
            let Some(length) = closing(&rest[at + 2..]) else {
                rest = &rest[at..];
                break;
            };
            let inner = &rest[at + 2..at + 2 + length];
            match self.lookup(inner, depth + 1) {
                Some(found) if out.len() + found.len() <= VALUE_BYTES_MAX => out.push_str(&found),
                _ => out.push_str(&rest[at..at + length + 3]),
            }
            rest = &rest[at + 3 + length..];
        }
        out.push_str(rest);
        out
    }

    fn lookup(&self, inner: &str, depth: usize) -> Option<String> {
        let inner = self.expand(inner, depth);
        let (name, default) = match inner.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inner.as_str(), None),
        };
        let found = match name.split_once(':') {
            Some(("env", name)) => (self.env)(name),
            Some(("sys", name)) => self.system.get(name).cloned(),
            Some(("date", pattern)) => (self.date)(pattern),
            Some(_) => None,
            None => self.keys.get(name).cloned().or_else(|| {
                let old = self.system.get("propertiesImplementation")?;
                old.ends_with("EnvVarResolverProperties").then(|| (self.env)(name))?
            }),
        };
        match found {
            Some(found) if depth > DEPTH_MAX => Some(found),
            Some(found) => Some(self.expand(&found, depth)),
            None => default.map(str::to_owned),
        }
    }
}

/// Length of the reference's inside: up to the brace that closes it, nested ones skipped.
fn closing(text: &str) -> Option<usize> {
    let mut open = 1;
    let bytes = text.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'{' if at > 0 && bytes[at - 1] == b'$' => open += 1,
            b'}' => {
                open -= 1;
                if open == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        let keys: HashMap<String, String> = [("A", "1"), ("B", "${A}2"), ("LOOP", "${LOOP}x"), ("N", "A")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        let system = HashMap::from([("p".to_owned(), "q".to_owned())]);
        let env = |name: &str| (name == "HOME").then(|| "/home/me".to_owned());
        let date = |pattern: &str| (pattern == "HH:mm").then(|| "12:34".to_owned());
        let lookups = Lookups { keys: &keys, env: &env, system: &system, date: &date };
        let cases = [
            ("x", "x"),
            ("${A}", "1"),
            ("<${B}>", "<12>"),
            ("${env:HOME}/x", "/home/me/x"),
            ("${env:NOT}", "${env:NOT}"),
            ("${env:NOT:-d}", "d"),
            ("${NOT:-${A}}", "1"),
            ("${${N}}", "1"),
            ("${sys:p}", "q"),
            ("at ${date:HH:mm}", "at 12:34"),
            ("${date:?}", "${date:?}"),
            ("$${A}", "${A}"),
            ("${f1['key']}", "${f1['key']}"),
            ("${A", "${A"),
            ("100%{host}", "100%{host}"),
        ];
        for (text, expected) in cases {
            assert_eq!(lookups.resolve(text), expected, "{text}");
        }
        assert!(lookups.resolve("${LOOP}").len() < 200);
    }
}
