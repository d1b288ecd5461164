//! What can be said about a flow before an event passes: keys nobody reads, parts that do not fit together.
//!
//! Pure, like the rest of the compilation. [`keys`] looks at the text alone and so works on broken flows
//! too; everything else looks at a compiled plan.

#[cfg(test)]
mod combinations;
mod graph;
mod headers;
mod keys;
mod rolls;

pub use keys::keys;

use super::plan::Plan;
use crate::config::Diagnostic;

/// Checks how the parts of a plan fit together.
pub fn plan(plan: &Plan, diagnostics: &mut Vec<Diagnostic>) {
    graph::check(plan, diagnostics);
    headers::check(plan, diagnostics);
    rolls::check(plan, diagnostics);
}

#[cfg(test)]
pub(super) mod tests {
    use crate::agent::compile::compile;
    use crate::config::model::AgentConfig;
    use crate::config::{Diagnostic, Specs, properties};
    use crate::registry;

    /// Everything that is said about a flow, sorted as `check` sorts it.
    pub fn complaints(flow: &str) -> String {
        let entries = properties::parse("flow.properties", flow.as_bytes()).unwrap();
        let mut diagnostics = Vec::new();
        match AgentConfig::read("a1", &entries, &mut diagnostics) {
            Some(config) => complaints_of(&config, diagnostics),
            None => shown(diagnostics),
        }
    }

    /// The same, of a flow that was read already, with what was said then.
    pub fn complaints_of(config: &AgentConfig, mut diagnostics: Vec<Diagnostic>) -> String {
        compile(config, &mut diagnostics);
        shown(diagnostics)
    }

    fn shown(mut diagnostics: Vec<Diagnostic>) -> String {
        diagnostics.sort_by(|a, b| (&a.location, &a.subject).cmp(&(&b.location, &b.subject)));
        diagnostics.iter().map(|d| format!("{d}\n\n")).collect()
    }

    const GOOD: &str = "a1.sources = r1\na1.channels = c1\na1.sinks = k1\n\
        a1.sources.r1.type = netcat\na1.sources.r1.bind = h\na1.sources.r1.port = 4141\na1.sources.r1.channels = c1\n\
        a1.channels.c1.type = memory\na1.sinks.k1.type = logger\na1.sinks.k1.channel = c1\n";

    /// A sound flow with one slip each, and what is said about it.
    #[test]
    fn every_slip_is_pointed_at() {
        assert_eq!(complaints(GOOD), "");
        let hdfs = "a1.sinks.k1.type = hdfs\na1.sinks.k1.hdfs.rollInterval = 3600\na1.sinks.k1.hdfs.rollSize = 0\n\
            a1.sinks.k1.hdfs.rollCount = 0\na1.sinks.k1.hdfs.path = ";
        let slips: Vec<(&str, String)> = vec![
            ("name of another agent", GOOD.replace("a1.", "b1.")),
            ("one line of a mistyped agent", GOOD.replace("a1.sources.r1.port", "al.sources.r1.port")),
            ("no channels", GOOD.replace("a1.channels = c1\n", "")),
            (
                "neither sources nor sinks",
                GOOD.replace("a1.sources = r1\n", "").replace("a1.sinks = k1\n", ""),
            ),
            ("a name that has no settings", GOOD.replace("a1.sinks = k1", "a1.sinks = k1 k2")),
            ("a component that is not listed", GOOD.to_owned() + "a1.sinks.k9.type = logger\n"),
            ("a kind that is none", GOOD.replace("a1.sinks.k1.channel", "a1.sink.k1.channel")),
            ("a list that is none", GOOD.to_owned() + "a1.sorces = r2\n"),
            ("no property", GOOD.to_owned() + "a1.sinks.k1 = logger\n"),
            ("an empty value", GOOD.to_owned() + "a1.sinks.k1.maxBytesToLog =\n"),
            ("set twice", GOOD.to_owned() + "a1.channels.c1.type = file\n"),
            ("an unknown type", GOOD.replace("= netcat", "= netcta")),
            ("channel for channels", GOOD.replace("r1.channels", "r1.channel")),
            ("channels for channel", GOOD.replace("k1.channel ", "k1.channels ")),
            ("a channel that is not there", GOOD.replace("k1.channel = c1", "k1.channel = c2")),
            ("a required property", GOOD.replace("a1.sources.r1.bind = h\n", "")),
            ("a mistyped property", GOOD.to_owned() + "a1.channels.c1.capcity = 5\n"),
            ("a value that does not fit", GOOD.replace("4141", "99999")),
            (
                "a mistyped interceptor",
                GOOD.to_owned()
                    + "a1.sources.r1.interceptors = i1\na1.sources.r1.interceptors.i1.type = timestmp\n",
            ),
            (
                "a mistyped selector property",
                GOOD.to_owned()
                    + "a1.sources.r1.selector.type = multiplexing\na1.sources.r1.selector.head = x\n",
            ),
            ("a sink of no group", GOOD.to_owned() + "a1.sinkgroups = g1\na1.sinkgroups.g1.sinks = k1 k2\n"),
            (
                "sink groups between tabs",
                GOOD.to_owned() + "a1.sinkgroups = g1\tg2\na1.sinkgroups.g1.sinks = k1\n",
            ),
            ("a time nobody sets", GOOD.replace("a1.sinks.k1.type = logger\n", &format!("{hdfs}/x/%Y\n"))),
            (
                "a header nobody sets",
                GOOD.replace("a1.sinks.k1.type = logger\n", &format!("{hdfs}/x/%{{fileName}}\n")),
            ),
            (
                "a key of a config filter",
                GOOD.to_owned()
                    + "a1.configfilters = f1\na1.configfilters.f1.type = external\na1.configfilters.f1.comand = x\n",
            ),
        ];
        let said: Vec<String> =
            slips.iter().map(|(what, flow)| format!("== {what}\n{}", complaints(flow))).collect();
        for (text, (what, _)) in said.iter().zip(&slips) {
            assert!(text.lines().count() > 1, "nothing is said: {what}");
        }
        insta::assert_snapshot!(said.concat());
    }

    /// What every component says when it is told nothing, and about every property it is told nonsense.
    #[test]
    fn every_property_complains_in_its_own_words() {
        let frame = |source: &str, channel: &str, sink: &str| {
            format!(
                "a1.sources = r1\na1.channels = c1\na1.sinks = k1\na1.sources.r1.channels = c1\na1.sinks.k1.channel = c1\n\
                 a1.sources.r1.type = {source}\na1.channels.c1.type = {channel}\na1.sinks.k1.type = {sink}\n"
            )
        };
        let interceptor = |class: &str| {
            frame("seq", "memory", "null")
                + &format!("a1.sources.r1.interceptors = i1\na1.sources.r1.interceptors.i1.type = {class}\n")
        };
        let mut components: Vec<(&str, String, &str, Specs)> = Vec::new();
        for entry in registry::SOURCES {
            components.push((
                entry.class,
                frame(entry.class, "memory", "null"),
                "sources.r1.",
                entry.properties,
            ));
        }
        for entry in registry::CHANNELS {
            components.push((
                entry.class,
                frame("seq", entry.class, "null"),
                "channels.c1.",
                entry.properties,
            ));
        }
        for entry in registry::SINKS {
            components.push((
                entry.class,
                frame("seq", "memory", entry.class),
                "sinks.k1.",
                entry.properties,
            ));
        }
        for entry in registry::INTERCEPTORS {
            components.push((
                entry.class,
                interceptor(entry.class),
                "sources.r1.interceptors.i1.",
                entry.properties,
            ));
        }
        let mut said = String::new();
        for (class, flow, prefix, properties) in components {
            let bare = complaints(&flow);
            said += &format!("==== {class}\n{bare}");
            for property in properties {
                let key =
                    format!("a1.{prefix}{}{}", property.name(), if property.is_family() { "x" } else { "" });
                let text = complaints(&format!("{flow}{key} = ?!\n"));
                let about_it = text.split("\n\n").filter(|one| one.contains(&key) && !bare.contains(one));
                about_it.for_each(|one| said += &format!("-- {one}\n"));
            }
        }
        insta::assert_snapshot!(said);
    }
}
