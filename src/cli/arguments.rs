//! What Flume's shell script does to a command line before its Java program sees it.

use std::ffi::OsString;

/// The command line, taken apart.
pub struct Arguments {
    /// What is left for the ordinary parser.
    pub rest: Vec<OsString>,
    /// `-Dname=value`, in order; the published typo `-Dname==value` counts as one `=`.
    pub properties: Vec<(String, String)>,
}

/// Flume's long options that are written with one dash.
const ONE_DASH: [(&str, &str); 3] =
    [("-prov", "--conf-provider"), ("-user", "--conf-user"), ("-pwd", "--conf-password")];

impl Arguments {
    /// Takes `-D` apart, drops options of the Java machine (`-X…`, `-agentlib…`, `-javaagent…`).
    pub fn split(arguments: impl Iterator<Item = OsString>) -> Self {
        let mut rest = Vec::new();
        let mut properties = Vec::new();
        for argument in arguments {
            let text = argument.to_string_lossy();
            if let Some(property) = text.strip_prefix("-D").filter(|p| !p.is_empty()) {
                let (name, value) = property.split_once('=').unwrap_or((property, ""));
                properties.push((name.to_owned(), value.strip_prefix('=').unwrap_or(value).to_owned()));
            } else if ["-X", "-agentlib", "-agentpath", "-javaagent"]
                .iter()
                .any(|java| text.starts_with(java))
            {
            } else if let Some((_, long)) = ONE_DASH.iter().find(|(short, _)| *short == text) {
                rest.push((*long).into());
            } else {
                rest.push(argument);
            }
        }
        Self { rest, properties }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn java_options_go_and_properties_stay() {
        let line = "flume-ng agent -n a1 -Dflume.root.logger==INFO,console -Xmx20m -Da=b=c -prov x -Dflag";
        let arguments = Arguments::split(line.split(' ').map(OsString::from));
        assert_eq!(arguments.rest, ["flume-ng", "agent", "-n", "a1", "--conf-provider", "x"]);
        let expected = [("flume.root.logger", "INFO,console"), ("a", "b=c"), ("flag", "")];
        assert_eq!(arguments.properties, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }
}
