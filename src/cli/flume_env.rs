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
    /// `-D` options of `JAVA_OPTS` and `FLUME_JAVA_OPTS`.
    pub properties: Vec<(String, String)>,
    /// What has no effect here: other options of Java, variables whose value a shell would have to work out.
    pub ignored: Vec<String>,
}

impl FlumeEnv {
    /// Reads the file of a configuration directory; none is the usual case.
    pub fn read(directory: Option<&Path>) -> Self {
        let text = directory.and_then(|d| std::fs::read_to_string(d.join("flume-env.sh")).ok());
        text.map(|t| Self::parse(&t)).unwrap_or_default()
    }

    fn parse(text: &str) -> Self {
        #[derive(Default)]
        struct Found {
            variables: HashMap<String, String>,
            /// Value and the variable it stands in.
            properties: Vec<(String, (String, String))>,
            ignored: Vec<String>,
        }
        let mut env = Found::default();
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
            if name == "JAVA_OPTS" || name == "FLUME_JAVA_OPTS" {
                let (ours, others): (Vec<&str>, Vec<&str>) =
                    value.split_whitespace().partition(|word| word.starts_with("-D"));
                // A value that does not repeat the variable replaces what an earlier line gave it.
                let is_repeated =
                    |word: &&str| *word == format!("${name}") || *word == format!("${{{name}}}");
                if !others.iter().any(is_repeated) {
                    env.properties.retain(|(_, from)| from.1 != name);
                }
                let found = Arguments::split(ours.into_iter().map(Into::into)).properties;
                env.properties.extend(found.into_iter().map(|(key, value)| (key, (value, name.to_owned()))));
                // Of an option such as -javaagent:… only its name: a value may be a secret.
                let names = others.iter().filter(|word| !is_repeated(word));
                env.ignored.extend(names.map(|word| word.split(['=', ':']).next().unwrap_or("").to_owned()));
            } else if value.contains(['$', '`']) {
                env.ignored.push(name.to_owned());
            } else {
                env.variables.insert(name.to_owned(), value.to_owned());
            }
        }
        let properties = env.properties.into_iter().map(|(key, (value, _))| (key, value)).collect();
        Self { variables: env.variables, properties, ignored: env.ignored }
    }

    /// The names of what is taken, and of what has no effect. `None` if the file sets nothing.
    pub fn summary(&self) -> Option<(String, String)> {
        let mut taken: Vec<String> = self.variables.keys().cloned().collect();
        taken.extend(self.properties.iter().map(|(key, _)| format!("-D{key}")));
        taken.sort();
        (!taken.is_empty() || !self.ignored.is_empty()).then(|| (taken.join(" "), self.ignored.join(" ")))
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
        assert_eq!(env.ignored, ["C", "-Xms100m"]);
    }

    #[test]
    fn options_of_java_add_up_and_are_named_without_their_values() {
        let text = "JAVA_OPTS=\"-Da=1\"\nexport JAVA_OPTS=\"$JAVA_OPTS -Db=2 -javaagent:/x=pw\"\n\
            FLUME_JAVA_OPTS='-Djavax.net.ssl.keyStorePassword=hunter2'\nTOKEN=hunter3\n";
        let env = FlumeEnv::parse(text);
        let names: Vec<&str> = env.properties.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(names, ["a", "b", "javax.net.ssl.keyStorePassword"]);
        let summary = ("-Da -Db -Djavax.net.ssl.keyStorePassword TOKEN".to_owned(), "-javaagent".to_owned());
        assert_eq!(env.summary(), Some(summary));
        let replaced = FlumeEnv::parse("JAVA_OPTS=-Da=1\nJAVA_OPTS=-Db=2\n");
        assert_eq!(replaced.properties, [("b".to_owned(), "2".to_owned())]);
        assert_eq!(FlumeEnv::parse("# nothing").summary(), None);
    }
}
