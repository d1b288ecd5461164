//! Follows header names through a flow: a path, a file prefix or a selector that asks for a header no
//! event can have, or for a time nobody sets.

use crate::agent::plan::{Plan, PlannedSink, PlannedSource};
use crate::codec::escape::{TIMESTAMP, Template};
use crate::config::nearest::nearest;
use crate::config::{Diagnostic, Setting};
use crate::serializer::avro_body::{LITERAL_HEADER, URL_HEADER};

/// Properties of sinks whose value may hold escapes, under Flume's names, and the switch that makes the
/// sink take its own clock instead of the events' `timestamp`.
const ESCAPED: [(&str, Option<&str>); 5] = [
    ("hdfs.path", Some("hdfs.useLocalTimeStamp")),
    ("hdfs.filePrefix", Some("hdfs.useLocalTimeStamp")),
    ("hive.partition", Some("useLocalTimeStamp")),
    ("kafka.topic", None),
    ("topic", None),
];

/// See the module's doc.
pub fn check(plan: &Plan, diagnostics: &mut Vec<Diagnostic>) {
    for source in &plan.sources {
        selector(source, diagnostics);
    }
    for sink in plan.runners.iter().flat_map(|r| &r.sinks) {
        escapes(plan, sink, diagnostics);
    }
}

/// Headers an event may have when it leaves the source's interceptors; `None` if its client decides.
fn headers(source: &PlannedSource) -> Option<Vec<String>> {
    let mut names = source.config.headers_set().or_else(|| file_headers(source))?;
    for interceptor in &source.interceptors {
        names.retain(|name| !interceptor.removes_header(name));
        names.extend(interceptor.headers_set());
    }
    names.sort();
    names.dedup();
    Some(names)
}

/// Headers of sources that read files, which all name them in the same way.
fn file_headers(source: &PlannedSource) -> Option<Vec<String>> {
    let declares = |name: &str| source.entry.properties.iter().any(|p| p.name() == name);
    if !declares("fileHeader") {
        return None;
    }
    let settings = &source.settings.settings;
    let text = |key: &str| settings.get(key).map(|s| s.value.as_str());
    // Other deserializers give events headers of their own.
    if text("deserializer").is_some_and(|d| !d.eq_ignore_ascii_case("line")) {
        return None;
    }
    let is_on = |key: &str| text(key).is_some_and(|v| v.eq_ignore_ascii_case("true"));
    let mut names = Vec::new();
    for (switch, key, default) in
        [("fileHeader", "fileHeaderKey", "file"), ("basenameHeader", "basenameHeaderKey", "basename")]
    {
        if is_on(switch) {
            names.push(text(key).unwrap_or(default).to_owned());
        }
    }
    if is_on("byteOffsetHeader") {
        names.push("byteoffset".to_owned());
    }
    let members = settings.keys().filter_map(|k| k.strip_prefix("headers.")?.split_once('.'));
    names.extend(members.map(|(_, header)| header.to_owned()));
    Some(names)
}

fn selector(source: &PlannedSource, diagnostics: &mut Vec<Diagnostic>) {
    let Some(header) = source.settings.settings.get("selector.header") else { return };
    let Some(names) = headers(source) else { return };
    if !names.contains(&header.value) {
        let key = source.settings.full_key("selector.header");
        let message = format!("no event of this source has a header {:?}", header.value);
        let how = how_to_set(source, &header.value);
        diagnostics.push(missing(key, message, header, &header.value, &names, how, |name| name.to_owned()));
    }
}

fn escapes(plan: &Plan, sink: &PlannedSink, diagnostics: &mut Vec<Diagnostic>) {
    let feeding: Vec<&PlannedSource> =
        plan.sources.iter().filter(|s| s.channels.contains(&sink.channel)).collect();
    let each: Vec<(&PlannedSource, Option<Vec<String>>)> =
        feeding.into_iter().map(|source| (source, headers(source))).collect();
    // Where clients decide, any header may come.
    let known: Vec<(&PlannedSource, Vec<String>)> =
        each.iter().filter_map(|(source, names)| Some((*source, names.clone()?))).collect();
    if known.is_empty() {
        return;
    }
    let all_known = known.len() == each.len();
    let (feeding, sets): (Vec<&PlannedSource>, Vec<Vec<String>>) = known.into_iter().unzip();
    schema(sink, &feeding, &sets, diagnostics);
    for (key, clock) in ESCAPED {
        let declared = sink.entry.properties.iter().any(|p| p.name() == key);
        let Some(setting) = sink.settings.settings.get(key).filter(|_| declared) else { continue };
        let Ok(template) = Template::new(&setting.value) else { continue };
        for header in template.headers() {
            if all_known && !sets.iter().any(|names| names.iter().any(|n| n == header)) {
                let message = format!("no event has a header {header:?}, so %{{{header}}} is always empty");
                let mut names: Vec<String> = sets.concat();
                names.sort();
                names.dedup();
                let full = sink.settings.full_key(key);
                let how = feeding.first().map_or_else(String::new, |source| how_to_set(source, header));
                diagnostics.push(missing(full, message, setting, header, &names, how, |name| {
                    setting.value.replace(&format!("%{{{header}}}"), &format!("%{{{name}}}"))
                }));
            }
        }
        if template.needs_time() {
            let own_clock = clock.is_some_and(|switch| {
                sink.settings.settings.get(switch).is_some_and(|s| s.value.eq_ignore_ascii_case("true"))
            });
            let without: Vec<&str> = feeding
                .iter()
                .zip(&sets)
                .filter(|(_, names)| !names.iter().any(|n| n == TIMESTAMP))
                .map(|(source, _)| &*source.name)
                .collect();
            if !own_clock && let Some(first) = without.first() {
                let message = format!(
                    "needs the time of an event, and events of {} have no header \"timestamp\"",
                    without.join(", ")
                );
                let source = feeding.iter().find(|source| *source.name == **first);
                let mut hint = source.map_or_else(String::new, |source| how_to_set(source, TIMESTAMP));
                if let Some(switch) = clock {
                    hint = format!(
                        "add: {} = true  or  {}",
                        sink.settings.full_key(switch),
                        hint.trim_start_matches("add: ")
                    );
                }
                diagnostics.push(
                    Diagnostic::warning(sink.settings.full_key(key), message)
                        .value(&setting.value)
                        .at(Some(setting.location.clone()))
                        .hint(hint),
                );
            }
        }
    }
}

/// A serializer for Avro bodies cannot write an event that names no schema.
fn schema(
    sink: &PlannedSink,
    feeding: &[&PlannedSource],
    sets: &[Vec<String>],
    diagnostics: &mut Vec<Diagnostic>,
) {
    let settings = &sink.settings.settings;
    let serializer = ["serializer", "sink.serializer"]
        .into_iter()
        .find_map(|key| Some((key, settings.get(key).filter(|s| s.value.contains("AvroEventSerializer$"))?)))
        .filter(|(key, _)| !settings.contains_key(&format!("{key}.schemaURL")));
    let Some((key, setting)) = serializer else { return };
    let named = |names: &&Vec<String>| names.iter().any(|n| n == URL_HEADER || n == LITERAL_HEADER);
    let without =
        feeding.iter().zip(sets).filter(|(_, names)| !named(names)).map(|(source, _)| &*source.name);
    let without: Vec<&str> = without.collect();
    if without.is_empty() {
        return;
    }
    let message = format!(
        "writes nothing but Avro data of a known schema, and events of {} have neither the header {URL_HEADER:?} nor \
         {LITERAL_HEADER:?}; they will stay in the channel",
        without.join(", ")
    );
    let hint = format!(
        "add: {} = hdfs://namenode:8020/schemas/event.avsc  or, if bodies are text, write: {} = avro_event",
        sink.settings.full_key(&format!("{key}.schemaURL")),
        sink.settings.full_key(key)
    );
    diagnostics.push(
        Diagnostic::warning(sink.settings.full_key(key), message)
            .value(&setting.value)
            .at(Some(setting.location.clone()))
            .hint(hint),
    );
}

/// The lines that make a source's events have a header.
fn how_to_set(source: &PlannedSource, header: &str) -> String {
    let declares = |name: &str| source.entry.properties.iter().any(|p| p.name() == name);
    let lower = header.to_ascii_lowercase();
    let own = match lower.as_str() {
        "basename" | "filename" | "file_name" if declares("basenameHeader") => {
            Some(("basenameHeader", "basenameHeaderKey", "basename"))
        }
        "file" | "path" | "filepath" if declares("fileHeader") => {
            Some(("fileHeader", "fileHeaderKey", "file"))
        }
        _ => None,
    };
    let full = |key: &str| source.settings.full_key(key);
    if let Some((switch, key, usual)) = own {
        let named = if header == usual { String::new() } else { format!("  and  {} = {header}", full(key)) };
        return format!("add: {} = true{named}", full(switch));
    }
    // Behind those the source has, under a name that is free.
    let list = source.settings.settings.get("interceptors").map_or("", |s| s.value.as_str());
    let taken: Vec<&str> = list.split_whitespace().collect();
    let name = (1..).map(|n| format!("i{n}")).find(|n| !taken.contains(&n.as_str())).unwrap_or_default();
    let list = taken.into_iter().chain([name.as_str()]).collect::<Vec<_>>().join(" ");
    let kind = match header {
        "host" => "host".to_owned(),
        TIMESTAMP => "timestamp".to_owned(),
        _ => format!(
            "static  and  {0}.key = {header}  and  {0}.value = …, or a regex_extractor",
            full(&format!("interceptors.{name}"))
        ),
    };
    format!(
        "add: {} = {list}  and  {} = {kind}",
        full("interceptors"),
        full(&format!("interceptors.{name}.type"))
    )
}

/// The warning for a header nobody sets, with the one that was probably meant.
fn missing(
    key: String,
    message: String,
    setting: &Setting,
    header: &str,
    names: &[String],
    how: String,
    corrected: impl Fn(&str) -> String,
) -> Diagnostic {
    // What interceptors add for everybody is seldom what was meant.
    let own: Vec<&str> =
        names.iter().map(String::as_str).filter(|n| *n != TIMESTAMP && *n != "host").collect();
    let only = match own.as_slice() {
        [only] => Some(*only),
        _ => None,
    };
    let hint = match nearest(header, own.iter().copied()).or(only) {
        Some(name) => format!("did you mean {key} = {} ?", corrected(name)),
        None if names.is_empty() => format!("no header is set on the way; {how}"),
        None => format!("headers set on the way: {}; {how}", names.join(", ")),
    };
    Diagnostic::warning(key, message).value(&setting.value).at(Some(setting.location.clone())).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::super::tests::complaints;

    #[test]
    fn a_selector_on_a_header_nobody_sets() {
        let flow = |interceptor: &str| {
            format!(
                "a1.sources = r1\na1.channels = c1\na1.sinks = k1\n\
                 a1.channels.c1.type = memory\na1.sinks.k1.type = logger\na1.sinks.k1.channel = c1\n\
                 a1.sources.r1.type = netcat\na1.sources.r1.bind = h\na1.sources.r1.port = 1\na1.sources.r1.channels = c1\n\
                 a1.sources.r1.selector.type = multiplexing\na1.sources.r1.selector.header = stat\n\
                 a1.sources.r1.selector.mapping.a = c1\na1.sources.r1.selector.default = c1\n{interceptor}"
            )
        };
        let fixed = "a1.sources.r1.interceptors = i1\na1.sources.r1.interceptors.i1.type = static\n\
             a1.sources.r1.interceptors.i1.value = a\na1.sources.r1.interceptors.i1.key = ";
        insta::assert_snapshot!(complaints(&flow("")) + &complaints(&flow(&format!("{fixed}state\n"))));
        assert_eq!(complaints(&flow(&format!("{fixed}stat\n"))), "");
        assert_eq!(complaints(&flow("").replace("netcat", "http")), "", "an http client may set any header");
    }
    #[test]
    fn avro_bodies_without_a_schema() {
        let flow = |source: &str, more: &str| {
            format!(
                "a1.sources = r1\na1.channels = c1\na1.sinks = k1\na1.channels.c1.type = memory\n\
                 a1.sources.r1.type = {source}\na1.sources.r1.channels = c1\na1.sinks.k1.channel = c1\n\
                 a1.sinks.k1.type = file_roll\na1.sinks.k1.sink.directory = /x\n\
                 a1.sinks.k1.sink.serializer = org.apache.flume.sink.hdfs.AvroEventSerializer$Builder\n{more}"
            )
        };
        let netcat = "netcat\na1.sources.r1.bind = h\na1.sources.r1.port = 1";
        insta::assert_snapshot!(complaints(&flow(netcat, "")));
        let url = "a1.sinks.k1.sink.serializer.schemaURL = file:///s.avsc\n";
        assert_eq!(complaints(&flow(netcat, url)), "");
        let header = "a1.sources.r1.interceptors = i1\na1.sources.r1.interceptors.i1.type = static\n\
            a1.sources.r1.interceptors.i1.key = flume.avro.schema.literal\na1.sources.r1.interceptors.i1.value = \"long\"\n";
        assert_eq!(complaints(&flow(netcat, header)), "");
        let client = "http\na1.sources.r1.port = 1";
        assert_eq!(complaints(&flow(client, "")), "", "an http client may set any header");
    }
}
