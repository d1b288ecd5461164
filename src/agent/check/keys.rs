//! Keys that no component reads, with the key that was probably meant.

use crate::agent::plan::{
    GROUP_PROPERTIES, INTERCEPTOR_PROPERTIES, INTERCEPTORS, PROCESSOR_PROPERTIES, PROCESSOR_TYPE,
    SELECTOR_PROPERTIES, SELECTOR_TYPE, SINK_PROPERTIES, SOURCE_PROPERTIES, TYPE, find,
};
use crate::config::model::AgentConfig;
use crate::config::nearest::{distance, nearest};
use crate::config::{ComponentSettings, Diagnostic, Kind, PropertySpec, Specs};
use crate::{config_filter, registry};

/// Key of every kind of component that only custom Java classes use.
const JAVA_ONLY: &str = "config";

/// Warns about every key of every listed component that nothing reads.
pub fn keys(config: &AgentConfig, diagnostics: &mut Vec<Diagnostic>) {
    let all = config.channels.iter().chain(&config.sources).chain(&config.sinks);
    let all = all.chain(&config.sink_groups).chain(&config.config_filters);
    for component in all {
        let known = Known::of(component);
        for (key, setting) in &component.settings {
            if key == JAVA_ONLY || known.has(key) {
                continue;
            }
            let mut warning =
                Diagnostic::warning(component.full_key(key), "no such property; the line is ignored")
                    .value(setting.shown())
                    .at(Some(setting.location.clone()));
            warning.hint = match known.unlisted_interceptor(key) {
                Some(name) => Some(format!("to use it: {} = … {name}", component.full_key("interceptors"))),
                None => match known.meant(key) {
                    Some(meant) => Some(format!("did you mean {} ?", component.full_key(&meant))),
                    None => known.name.map(|name| format!("millrace describe {name} lists its properties")),
                },
            };
            diagnostics.push(warning);
        }
    }
}

/// What a component may be told.
struct Known {
    /// Type as an operator writes it.
    name: Option<&'static str>,
    /// Declarations and the prefix they stand under.
    parts: Vec<(String, Specs)>,
    /// Prefixes below which anything may stand, because the type there is unknown: said already.
    opaque: Vec<String>,
    /// Families whose members are among the parts.
    closed: Vec<String>,
    /// Interceptors listed, for a source.
    interceptors: Option<Vec<String>>,
}

impl Known {
    fn of(component: &ComponentSettings) -> Self {
        let mut known = Self {
            name: None,
            parts: Vec::new(),
            opaque: Vec::new(),
            closed: Vec::new(),
            interceptors: None,
        };
        match component.kind {
            Kind::Source => {
                known.add("", SOURCE_PROPERTIES);
                known.typed(component, "", TYPE.name(), None, |text| {
                    let entry = find(registry::SOURCES, |e| (e.name, e.class), text)?;
                    Some((entry.name, entry.class, entry.properties))
                });
                known.add("selector.", SELECTOR_PROPERTIES);
                known.typed(component, "selector.", SELECTOR_TYPE.name(), SELECTOR_TYPE.default(), |text| {
                    let entry = find(registry::SELECTORS, |e| (e.name, e.class), text)?;
                    Some((entry.name, entry.class, entry.properties))
                });
                let listed = component.settings.get(INTERCEPTORS.name());
                let names: Vec<String> = listed
                    .map(|s| s.value.split_whitespace().map(str::to_owned).collect())
                    .unwrap_or_default();
                for name in &names {
                    let prefix = format!("interceptors.{name}.");
                    known.add(&prefix, INTERCEPTOR_PROPERTIES);
                    known.typed(component, &prefix, TYPE.name(), None, |text| {
                        let entry = find(registry::INTERCEPTORS, |e| (e.name, e.class), text)?;
                        Some((entry.name, entry.class, entry.properties))
                    });
                }
                known.interceptors = Some(names);
            }
            Kind::Channel => {
                known.add("", INTERCEPTOR_PROPERTIES);
                known.typed(component, "", TYPE.name(), None, |text| {
                    let entry = find(registry::CHANNELS, |e| (e.name, e.class), text)?;
                    Some((entry.name, entry.class, entry.properties))
                });
            }
            Kind::Sink => {
                known.add("", SINK_PROPERTIES);
                known.typed(component, "", TYPE.name(), None, |text| {
                    let entry = find(registry::SINKS, |e| (e.name, e.class), text)?;
                    Some((entry.name, entry.class, entry.properties))
                });
            }
            Kind::SinkGroup => {
                known.add("", GROUP_PROPERTIES);
                known.add("processor.", PROCESSOR_PROPERTIES);
                let (key, default) = (PROCESSOR_TYPE.name(), PROCESSOR_TYPE.default());
                known.typed(component, "processor.", key, default, |text| {
                    let entry = find(registry::SINK_PROCESSORS, |e| (e.name, e.class), text)?;
                    Some((entry.name, entry.class, entry.properties))
                });
            }
            Kind::ConfigFilter => {
                known.add("", config_filter::COMMON);
                known.typed(component, "", TYPE.name(), None, |text| {
                    let entry = find(registry::CONFIG_FILTERS, |e| (e.name, e.class), text)?;
                    Some((entry.name, entry.class, entry.properties))
                });
            }
        }
        known.close(component);
        known
    }

    /// Finds out what may stand below the families that do not take anything.
    fn close(&mut self, component: &ComponentSettings) {
        let mut found = Vec::new();
        for (prefix, spec) in self.specs().filter(|(_, spec)| spec.is_family()) {
            let get = |key: &str| component.settings.get(&format!("{prefix}{key}")).map(|s| s.value.clone());
            let Some(members) = spec.members(&get) else { continue };
            let members = members.into_iter().map(|(below, specs)| (format!("{prefix}{below}"), specs));
            found.push((format!("{prefix}{}", spec.name()), members.collect::<Vec<_>>()));
        }
        for (family, members) in found {
            self.closed.push(family);
            self.parts.extend(members);
        }
    }

    fn add(&mut self, prefix: &str, specs: Specs) {
        self.parts.push((prefix.to_owned(), specs));
    }

    /// Adds the declarations of the type set under a prefix.
    fn typed(
        &mut self,
        component: &ComponentSettings,
        prefix: &str,
        key: &str,
        default: Option<&'static str>,
        look_up: impl Fn(&str) -> Option<(&'static str, &'static str, Specs)>,
    ) {
        let written = component.settings.get(&format!("{prefix}{key}")).map(|s| s.value.as_str());
        match written.or(default).and_then(&look_up) {
            Some((name, class, specs)) => {
                self.add(prefix, specs);
                if prefix.is_empty() {
                    self.name = Some(if name.is_empty() { class } else { name });
                }
            }
            None => self.opaque.push(prefix.to_owned()),
        }
    }

    fn specs(&self) -> impl Iterator<Item = (&str, &'static dyn PropertySpec)> {
        self.parts.iter().flat_map(|(prefix, specs)| specs.iter().map(move |s| (prefix.as_str(), *s)))
    }

    fn has(&self, key: &str) -> bool {
        let own = |prefix: &str| match prefix {
            // An unknown type of the component itself leaves `selector.` and `interceptors.` to their own.
            "" => !key.starts_with("selector.") && !key.starts_with("interceptors."),
            prefix => key.starts_with(prefix),
        };
        self.opaque.iter().any(|prefix| own(prefix))
            || self.specs().any(|(prefix, spec)| match key.strip_prefix(prefix) {
                Some(rest) if spec.is_family() => {
                    !self.is_closed(prefix, spec)
                        && rest.len() > spec.name().len()
                        && rest.starts_with(spec.name())
                }
                Some(rest) => rest == spec.name(),
                None => false,
            })
    }

    fn is_closed(&self, prefix: &str, spec: &dyn PropertySpec) -> bool {
        self.closed.iter().any(|c| c.strip_prefix(prefix) == Some(spec.name()))
    }

    fn unlisted_interceptor<'k>(&self, key: &'k str) -> Option<&'k str> {
        let listed = self.interceptors.as_ref()?;
        let (name, _) = key.strip_prefix("interceptors.")?.split_once('.')?;
        (!listed.iter().any(|l| l == name)).then_some(name)
    }

    /// The key that was probably meant.
    fn meant(&self, key: &str) -> Option<String> {
        // A prefix left out: `mapping.READ` for `selector.mapping.READ`, `path` for `hdfs.path`.
        let mut prefixes: Vec<String> = self.parts.iter().map(|(prefix, _)| prefix.clone()).collect();
        for (prefix, spec) in self.specs() {
            if let Some((first, _)) = spec.name().split_once('.') {
                prefixes.push(format!("{prefix}{first}."));
            }
        }
        for prefix in &prefixes {
            let meant = format!("{prefix}{key}");
            // A family takes anything behind its name, so its name must not be all that was added.
            let fits = self.specs().any(|(part, spec)| {
                let name = format!("{part}{}", spec.name());
                if spec.is_family() {
                    !self.is_closed(part, spec)
                        && name.len() > prefix.len()
                        && meant.len() > name.len()
                        && meant.starts_with(&name)
                } else {
                    meant == name
                }
            });
            if fits && !prefix.is_empty() {
                return Some(meant);
            }
        }
        // A prefix too many: `hdfs.type`, `selector.channels`.
        if let Some((_, rest)) = key.split_once('.')
            && !self.opaque.iter().any(String::is_empty)
            && self.has(rest)
        {
            return Some(rest.to_owned());
        }
        // A family's name mistyped: `selector.maping.READ`.
        let families = self.specs().filter(|(_, spec)| spec.is_family());
        let family = families.filter_map(|(prefix, spec)| {
            let name = format!("{prefix}{}", spec.name());
            let dots = name.matches('.').count();
            let end = key.match_indices('.').nth(dots.checked_sub(1)?)?.0 + 1;
            let written = key.get(..end)?;
            (written != name && distance(written, &name) <= 2)
                .then(|| format!("{name}{}", key.get(end..).unwrap_or_default()))
        });
        if let Some(meant) = family.into_iter().next() {
            return Some(meant);
        }
        // Mistyped behind the last dot; else anywhere; else with the prefix left out as well.
        let names: Vec<String> = self
            .specs()
            .filter(|(_, spec)| !spec.is_family())
            .map(|(prefix, spec)| format!("{prefix}{}", spec.name()))
            .collect();
        let (before, last) = match key.rsplit_once('.') {
            Some((before, last)) => (format!("{before}."), last),
            None => (String::new(), key),
        };
        let beside: Vec<&str> = names
            .iter()
            .filter_map(|name| name.strip_prefix(&before))
            .filter(|rest| !rest.contains('.') || before.is_empty())
            .collect();
        if let Some(found) = nearest(last, beside) {
            return Some(format!("{before}{found}"));
        }
        let anywhere = names.iter().filter(|name| distance(key, name) <= 2).map(String::as_str);
        if let Some(found) = nearest(key, anywhere) {
            return Some(found.to_owned());
        }
        let tail = |name: &str| name.rsplit('.').next().is_some_and(|t| distance(t, last) <= 2);
        names.into_iter().find(|name| last.len() > 4 && tail(name))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::complaints;

    const FLOW: &str = "a1.sources = r1\na1.channels = c1\na1.sinks = k1\n\
        a1.channels.c1.type = memory\n\
        a1.sinks.k1.type = logger\na1.sinks.k1.channel = c1\n\
        a1.sources.r1.type = netcat\na1.sources.r1.bind = h\na1.sources.r1.port = 1\na1.sources.r1.channels = c1\n";

    #[test]
    fn unknown_keys_and_what_was_meant() {
        assert_eq!(complaints(FLOW), "");
        let cases = [
            ("a1.sources.r1.max-line-lenght = 9", "did you mean a1.sources.r1.max-line-length ?"),
            ("a1.sources.r1.Port = 9", "did you mean a1.sources.r1.port ?"),
            ("a1.sources.r1.selector.typ = replicating", "did you mean a1.sources.r1.selector.type ?"),
            ("a1.sources.r1.optional = c1", "did you mean a1.sources.r1.selector.optional ?"),
            ("a1.sinks.k1.channels = c1", "did you mean a1.sinks.k1.channel ?"),
            ("a1.channels.c1.transactionCapactiy = 9", "did you mean a1.channels.c1.transactionCapacity ?"),
            ("a1.channels.c1.colour = red", "millrace describe memory lists its properties"),
            ("a1.sources.r1.interceptors.i1.type = host", "to use it: a1.sources.r1.interceptors = … i1"),
        ];
        for (line, hint) in cases {
            let found = complaints(&format!("{FLOW}{line}\n"));
            let expected = format!("  --> flow.properties:11\n  hint: {hint}\n\n");
            assert!(found.starts_with("warning: ") && found.ends_with(&expected), "{line}\n{found}");
        }
    }

    #[test]
    fn options_of_serializers() {
        let sink = |lines: &str| {
            let flow = FLOW.replace(
                "a1.sinks.k1.type = logger",
                &format!("a1.sinks.k1.{}", lines.replace('\n', "\na1.sinks.k1.")),
            );
            complaints(&flow)
        };
        let hdfs = "type = hdfs\nhdfs.path = /x\nhdfs.rollInterval = 3600\nhdfs.rollSize = 0\nhdfs.rollCount = 0\nhdfs.fileType = DataStream\n";
        let roll = "type = file_roll\nsink.directory = /x\n";
        assert_eq!(sink(&format!("{roll}sink.serializer.appendNewline = false")), "");
        let cases = [
            (
                format!("{hdfs}serializer.apendNewline = false"),
                "did you mean a1.sinks.k1.serializer.appendNewline ?",
            ),
            (
                format!("{roll}sink.serializer = avro_event\nsink.serializer.compresionCodec = snappy"),
                "did you mean a1.sinks.k1.sink.serializer.compressionCodec ?",
            ),
            (
                format!("{roll}sink.serializer.colour = red"),
                "millrace describe file_roll lists its properties",
            ),
        ];
        for (lines, hint) in cases {
            let found = sink(&lines);
            assert!(found.contains("no such property") && found.contains(hint), "{lines}\n{found}");
        }
        let extractor = "a1.sources.r1.interceptors = i1\na1.sources.r1.interceptors.i1.type = regex_extractor\n\
            a1.sources.r1.interceptors.i1.regex = (x)\na1.sources.r1.interceptors.i1.serializers = s1\n\
            a1.sources.r1.interceptors.i1.serializers.s1.name = n\n";
        for (line, hint) in [
            ("s1.nmae = x", "did you mean a1.sources.r1.interceptors.i1.serializers.s1.name ?"),
            ("s2.name = x", "did you mean a1.sources.r1.interceptors.i1.serializers.s1.name ?"),
        ] {
            let found =
                complaints(&format!("{FLOW}{extractor}a1.sources.r1.interceptors.i1.serializers.{line}\n"));
            assert!(found.contains("no such property") && found.contains(hint), "{line}\n{found}");
        }
    }

    #[test]
    fn the_published_multiplexing_mistakes() {
        let flow = FLOW.replace("a1.channels = c1", "a1.channels = c1 c2")
            + "a1.channels.c2.type = memory\n\
               a1.sources.r1.selector.type = multiplexing\n\
               a1.sources.r1.selector.head = state\n\
               a1.sources.r1.mapping.READ = c1\n\
               a1.sources.r1.mapping.WRITE = c2\n\
               a1.sources.r1.selector.default = c\n";
        let found = complaints(&flow);
        for expected in [
            "did you mean a1.sources.r1.selector.header ?",
            "did you mean a1.sources.r1.selector.mapping.READ ?",
            "did you mean a1.sources.r1.selector.mapping.WRITE ?",
            "a1.sources.r1.selector.default = \"c\"",
        ] {
            assert!(found.contains(expected), "{expected}\n{found}");
        }
    }

    #[test]
    fn below_an_unknown_type_only_the_type_is_at_fault() {
        let found = complaints(&FLOW.replace("= netcat", "= nocat"));
        assert_eq!(found.matches("error:").count() + found.matches("warning:").count(), 1, "{found}");
    }
}
