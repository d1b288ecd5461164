//! Config filters: values that are kept outside of the flow's file, mostly passwords.
//!
//! Flume: `org.apache.flume.configfilter.ConfigFilter`. `${f1['key']}` in a value of a source, channel, sink or
//! sink group stands for what the filter `f1` has under that key. They run on the thread that reads the flow,
//! before a shard exists. Flume logs a filter that fails and goes on with the reference as the value; here
//! that refuses the start, because the reference would be sent to somebody as a password.

use std::path::Path;
use std::sync::Arc;

use crate::config::model::AgentConfig;
use crate::config::nearest::nearest;
use crate::config::{ComponentSettings, Diagnostic, ParseContext, Property, PropertySpec};
use crate::io::{Io, LocalBoxFuture};

pub mod env;
pub mod external;
pub mod hadoop;

/// Key of the filter's type.
pub const TYPE: Property<String> =
    Property::required("type", "Kind of the filter, or its class name.").example("env");
/// What every config filter has.
pub const COMMON: &[&dyn PropertySpec] = &[&TYPE];

/// References in one value that are followed; the rest stays as it is.
const REFERENCES_MAX: usize = 100;

/// One row of the registry's table of config filters.
pub struct FilterEntry {
    /// Flume's alias.
    pub name: &'static str,
    /// Flume's class name.
    pub class: &'static str,
    /// One sentence for `describe`.
    pub summary: &'static str,
    /// Every property it reads.
    pub properties: &'static [&'static dyn PropertySpec],
    /// Text to filter. `None` only after a complaint.
    pub parse: fn(&mut ParseContext<'_>) -> Option<Arc<dyn ConfigFilter>>,
}

/// What a filter may look at.
pub struct World<'a> {
    /// Files and time.
    pub io: Io,
    /// Environment variables.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// Flume's configuration directory (`-c`).
    pub conf: Option<&'a Path>,
}

/// A parsed config filter.
pub trait ConfigFilter {
    /// The value behind a key; `None` if there is none.
    ///
    /// # Errors
    /// The filter does not work.
    fn look_up<'a>(
        &'a self,
        key: &'a str,
        world: &'a World<'a>,
    ) -> LocalBoxFuture<'a, Result<Option<String>, String>>;
}

/// Replaces every reference to a filter in an agent's values.
pub async fn apply(
    config: &mut AgentConfig,
    entries: &'static [FilterEntry],
    world: &World<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let mut filters = Vec::new();
    for settings in &config.config_filters {
        // A filter that does not parse has complained; a reference to it needs no second complaint.
        filters.push((settings.name.clone(), parse(settings, entries, diagnostics)));
    }
    let names: Vec<&str> = filters.iter().map(|(name, _)| name.as_str()).collect();
    let mut given = Vec::new();
    let lists = [&mut config.sources, &mut config.channels, &mut config.sinks, &mut config.sink_groups];
    for component in lists.into_iter().flatten() {
        let subject = component.subject();
        for (key, setting) in &mut component.settings {
            let mut from = 0;
            for _ in 0..REFERENCES_MAX {
                let Some(found) = reference(&setting.value, from) else { break };
                let (name, wanted) = (found.name.to_owned(), found.key.to_owned());
                let (start, end) = (found.start, found.end);
                from = end;
                let complain = |mut diagnostic: Diagnostic, hint: String| {
                    diagnostic.location = Some(setting.location.clone());
                    diagnostic.hint = Some(hint);
                    diagnostic
                };
                let key = format!("{subject}.{key}");
                let Some((_, filter)) = filters.iter().find(|(n, _)| *n == name) else {
                    let message = format!("refers to {name:?}, which is no config filter of this agent");
                    let agent = &config.name;
                    let hint = match nearest(&name, names.iter().copied()) {
                        Some(near) => format!("did you mean ${{{near}['{wanted}']}} ?"),
                        None => format!("add: {agent}.configfilters = {name}"),
                    };
                    diagnostics.push(complain(Diagnostic::warning(key, message), hint));
                    continue;
                };
                let Some(filter) = filter else { continue };
                match filter.look_up(&wanted, world).await {
                    Ok(Some(value)) => {
                        setting.value.replace_range(start..end, &value);
                        setting.is_secret = true;
                        from = start + value.len();
                        given.push(value);
                    }
                    Ok(None) => {
                        let message =
                            format!("config filter {name} has no {wanted:?}; the value stays as written");
                        let hint = format!("add {wanted} to what {name} reads, or correct the key");
                        diagnostics.push(complain(Diagnostic::warning(key, message), hint));
                    }
                    Err(problem) => {
                        let message = format!("config filter {name} fails: {problem}");
                        let hint = format!("correct {}.configfilters.{name}", config.name);
                        diagnostics.push(complain(Diagnostic::error(key, message), hint));
                    }
                }
            }
        }
    }
    given.iter().for_each(|value| config.add_secret(value));
}

fn parse(
    settings: &ComponentSettings,
    entries: &'static [FilterEntry],
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Arc<dyn ConfigFilter>> {
    let mut cx = ParseContext::new(settings, diagnostics);
    let text = cx.get(&TYPE)?;
    let entry =
        entries.iter().find(|e| e.name.eq_ignore_ascii_case(&text) || e.class.eq_ignore_ascii_case(&text));
    let Some(entry) = entry else {
        let near = nearest(&text, entries.iter().map(|e| e.name));
        let names: Vec<&str> = entries.iter().map(|e| e.name).collect();
        let hint = match near {
            Some(near) => format!("did you mean {near} ?"),
            None => format!("there are: {}", names.join(", ")),
        };
        cx.error("type", "unknown config filter", Some(hint));
        return None;
    };
    (entry.parse)(&mut cx)
}

/// A reference to a filter.
#[derive(Debug, PartialEq, Eq)]
struct Reference<'a> {
    start: usize,
    end: usize,
    name: &'a str,
    key: &'a str,
}

/// The next `${name['key']}`, `${name["key"]}` or `${name[key]}` from a position on.
fn reference(text: &str, from: usize) -> Option<Reference<'_>> {
    let starts = text.get(from..)?.match_indices("${").map(|(at, _)| from + at);
    for start in starts {
        let inner = &text[start + 2..];
        let (name, rest) = inner.split_once('[')?;
        let (quoted, rest) = rest.split_once(']')?;
        let word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let key =
            ['\'', '"'].iter().find_map(|q| quoted.strip_prefix(*q)?.strip_suffix(*q)).unwrap_or(quoted);
        let is_name = !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || "${}".contains(c));
        if is_name && !key.is_empty() && key.chars().all(word) && rest.starts_with('}') {
            return Some(Reference { start, end: text.len() - rest.len() + 1, name, key });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Severity, properties};
    use crate::io::{EngineKind, run_local};

    #[test]
    fn references() {
        let cases = [
            ("${f1['a-b_C9']}", Some(("f1", "a-b_C9"))),
            ("x${f1[\"k\"]}y", Some(("f1", "k"))),
            ("${f1[k]}", Some(("f1", "k"))),
            ("${f1['k\"]}", None),
            ("${f1['k]}", None),
            ("${f1[k k]}", None),
            ("${f1[]}", None),
            ("${f1[k]", None),
            ("${a} ${f1[k]}", Some(("f1", "k"))),
            ("f1[k]", None),
            ("$", None),
        ];
        for (text, expected) in cases {
            assert_eq!(reference(text, 0).map(|r| (r.name, r.key)), expected, "{text}");
        }
        let second = reference("${f[a]}${g[b]}é", 7).map(|r| (r.start, r.end, r.name));
        assert_eq!(second, Some((7, 14, "g")));
    }

    /// The sink's `password`, and what is said, of a flow with these further lines.
    fn filtered(lines: &str, password: &str) -> (String, Vec<Diagnostic>) {
        let flow = format!(
            "a1.sources = r1\na1.channels = c1\na1.configfilters = f1 f2\n\
             a1.sources.r1.type = x\na1.channels.c1.type = memory\na1.sources.r1.password = {password}\n\
             a1.configfilters.f2.type = env\n{lines}"
        );
        let entries = properties::parse("f", flow.as_bytes()).unwrap();
        let mut diagnostics = Vec::new();
        let mut config = AgentConfig::read("a1", &entries, &mut diagnostics).unwrap();
        let env = |name: &str| (name == "PW").then(|| "from env".to_owned());
        run_local(EngineKind::Portable, |io| async {
            let world = World { io, env: &env, conf: None };
            apply(&mut config, crate::registry::CONFIG_FILTERS, &world, &mut diagnostics).await;
        })
        .unwrap();
        (config.sources[0].settings["password"].value.clone(), diagnostics)
    }

    #[test]
    fn every_filter_gives_its_value() {
        let store = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/keystore/credentials.jceks");
        let hadoop = format!(
            "a1.configfilters.f1.type = hadoop\na1.configfilters.f1.credential.provider.path = localjceks://file{store}\n"
        );
        let external =
            "a1.configfilters.f1.type = external\na1.configfilters.f1.command = /bin/echo the  key\n";
        for (lines, password, expected) in [
            ("a1.configfilters.f1.type = env\n", "${f1['PW']}", "from env"),
            ("a1.configfilters.f1.type = env\n", "<${f1[PW]}|${f2[\"PW\"]}>", "<from env|from env>"),
            (external, "${f1['db']}", "the key db"),
            (&hadoop, "${f1['sink-token']}", "changeit"),
            (&hadoop, "${f1['SINK-TOKEN']}", "changeit"),
        ] {
            let (value, said) = filtered(lines, password);
            assert!(said.is_empty(), "{said:?}");
            assert_eq!(value, expected, "{password}");
        }
    }

    #[test]
    fn what_is_not_there_is_said() {
        let missing = "a1.configfilters.f1.type = hadoop\na1.configfilters.f1.credential.provider.path = localjceks://file/no/such\n";
        let failing = "a1.configfilters.f1.type = external\na1.configfilters.f1.command = /bin/false\n";
        for (lines, password, severity, part) in [
            ("a1.configfilters.f1.type = env\n", "${f1[NO]}", Severity::Warning, "has no \"NO\""),
            ("a1.configfilters.f1.type = env\n", "${f3[NO]}", Severity::Warning, "no config filter"),
            ("a1.configfilters.f1.type = evn\n", "${f1[PW]}", Severity::Error, "did you mean env ?"),
            ("a1.configfilters.f1.type = external\n", "${f1[PW]}", Severity::Error, "command: is required"),
            (missing, "${f1[PW]}", Severity::Error, "/no/such"),
            (failing, "${f1[PW]}", Severity::Error, "exit status: 1"),
        ] {
            let (value, said) = filtered(lines, password);
            assert_eq!(value, password);
            assert_eq!(said.len(), 1, "{said:?}");
            assert_eq!(said[0].severity, severity);
            assert!(said[0].to_string().contains(part), "{part:?} in {}", said[0]);
        }
    }
}
