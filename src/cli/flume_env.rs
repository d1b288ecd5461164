//! `flume-env.sh` in the configuration directory: variables for the flow, and `-D` options in `JAVA_OPTS`.
//!
//! Flume's script runs that file in a shell. Here only its plain lines count, `NAME=value` and `export
//! NAME=value`, with or without quotes; anything a shell would have to work out is skipped.

use std::collections::HashMap;
use std::path::Path;

use super::arguments::Arguments;

/// What the file sets.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct FlumeEnv {
    /// Variables, for `${env:NAME}`.
    pub variables: HashMap<String, String>,
    /// `-D` options of `JAVA_OPTS`.
    pub properties: Vec<(String, String)>,
}

impl FlumeEnv {
    /// Reads the file of a configuration directory; none is the usual case.
    pub fn read(directory: Option<&Path>) -> Self {
        let text = directory.and_then(|d| std::fs::read_to_string(d.join("flume-env.sh")).ok());
        text.map(|t| Self::parse(&t)).unwrap_or_default()
    }

    fn parse(text: &str) -> Self {
        let mut env = Self::default();
        for line in text.lines() {
            let line = line.trim();
            let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
            let Some((name, value)) = line.split_once('=') else { continue };
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if name.is_empty() || !name.chars().all(plain) {
                continue;
            }
            let value = value.trim();
            let quoted = ['"', '\''].iter().find_map(|q| value.strip_prefix(*q)?.split_once(*q));
            let value = quoted.map_or_else(|| value.split_whitespace().next().unwrap_or(""), |(v, _)| v);
            if name == "JAVA_OPTS" {
                let words = value.split_whitespace().filter(|w| w.starts_with("-D"));
                env.properties = Arguments::split(words.map(Into::into)).properties;
            } else if !value.contains(['$', '`']) {
                env.variables.insert(name.to_owned(), value.to_owned());
            }
        }
        env
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_lines_count() {
        let text = "# comment\nexport PORT=44\nHOST = no\nexport A=\"b c\" # x\nB='d'\nC=$A/x\nif [ x = y ]; then\n\
            export JAVA_OPTS=\"-Xms100m -Dcom.sun.x -Dflume.monitoring.type=http $JAVA_OPTS\"\n";
        let env = FlumeEnv::parse(text);
        let mut found: Vec<_> = env.variables.iter().map(|(k, v)| format!("{k}={v}")).collect();
        found.sort();
        assert_eq!(found, ["A=b c", "B=d", "PORT=44"]);
        let expected = [("com.sun.x", ""), ("flume.monitoring.type", "http")];
        assert_eq!(env.properties, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }
}
