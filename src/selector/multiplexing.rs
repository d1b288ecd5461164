//! `multiplexing` selector: the value of one header says which channels an event goes to.
//!
//! Flume: `org.apache.flume.channel.MultiplexingChannelSelector`. A header that is common to the batch, or
//! a batch whose events all take the same way, costs no copy; otherwise the events are divided into one
//! batch per channel, in order.

use std::collections::HashMap;
use std::sync::Arc;

use super::{ChannelSelector, Routes, SelectorConfig, SelectorEntry, channels_named};
use crate::config::{ParseContext, Property, PropertySpec, Words};
use crate::event::EventBatch;
use crate::io::Io;

const HEADER: Property<String> =
    Property::optional("header", "flume.selector.header", "Header whose value decides.");
const DEFAULT: Property<Words> = Property::absent(
    "default",
    "Channels for events whose header is absent, blank or not mapped. Not set: such events go to no required channel and, \
     unless an optional one is mapped, are dropped.",
);
const MAPPING: Property<Words> =
    Property::family("mapping.", "`mapping.<value>`: required channels for this value of the header.");
const OPTIONAL: Property<Words> = Property::family(
    "optional.",
    "`optional.<value>`: channels for this value that need not succeed. Channels that are required for it anyway do not \
     count.",
);

/// Row of the registry.
pub const ENTRY: SelectorEntry = SelectorEntry {
    name: "multiplexing",
    class: "org.apache.flume.channel.MultiplexingChannelSelector",
    summary: "The value of a header decides which channels an event goes to.",
    properties: PROPERTIES,
    parse,
};

/// Every property the multiplexing selector reads.
pub const PROPERTIES: &[&dyn PropertySpec] = &[&HEADER, &DEFAULT, &MAPPING, &OPTIONAL];

/// Text to config.
pub fn parse(cx: &mut ParseContext<'_>, channels: &[String]) -> Option<Arc<dyn SelectorConfig>> {
    Some(Arc::new(read(cx, channels)?))
}

fn read(cx: &mut ParseContext<'_>, channels: &[String]) -> Option<Config> {
    let header = cx.get(&HEADER);
    let default = cx.get_opt(&DEFAULT);
    let mapping = cx.family(&MAPPING);
    let optional = cx.family(&OPTIONAL);

    let default = match default? {
        Some(words) => channels_named(cx, "default", &words.0, channels),
        None => Some(Vec::new()),
    };
    let mut complete = true;
    let mut lookup = |cx: &mut ParseContext<'_>, prefix: &str, value: &str, names: &Words| {
        let found = channels_named(cx, &format!("{prefix}{value}"), &names.0, channels);
        complete &= found.is_some();
        found.unwrap_or_default()
    };
    let mut ways: HashMap<String, Way> = HashMap::new();
    for (value, names) in &mapping {
        let required = lookup(cx, "mapping.", value, names);
        ways.insert(value.clone(), Way { required, optional: Vec::new() });
    }
    let mut optionals = Vec::new();
    for (value, names) in &optional {
        optionals.push((value.clone(), lookup(cx, "optional.", value, names)));
    }
    let default = default?;
    if !complete {
        return None;
    }
    for (value, mut channels) in optionals {
        let way =
            ways.entry(value).or_insert_with(|| Way { required: default.clone(), optional: Vec::new() });
        channels.retain(|c| !way.required.contains(c));
        way.optional = channels;
    }
    let header = header?;
    if default.is_empty() {
        complain_about_losses(cx, &header, mapping.is_empty() && optional.is_empty());
        if mapping.is_empty() && optional.is_empty() {
            return None;
        }
    }
    let mut may_require = vec![false; channels.len()];
    for &channel in default.iter().chain(ways.values().flat_map(|w| &w.required)) {
        may_require[channel] = true;
    }
    let default = Way { required: default, optional: Vec::new() };
    Some(Config { table: Arc::new(Table { header, ways, default, may_require }) })
}

/// Events without a way are dropped: said once, before it happens.
fn complain_about_losses(cx: &mut ParseContext<'_>, header: &str, all: bool) {
    let channel = cx.raw("default").map_or("c1", |s| s.value.as_str());
    if all {
        let hint = format!(
            "add: {} = {channel}, or {} = {channel}",
            cx.full_key("mapping.<value>"),
            cx.full_key("default")
        );
        cx.error(
            "default",
            "no value is mapped and there is no default, so every event would be dropped",
            Some(hint),
        );
    } else {
        let message = format!("not set: events whose header {header:?} is absent or not mapped are dropped");
        let hint = format!("add: {} = {channel}", cx.full_key("default"));
        cx.warning("default", message, Some(hint));
    }
}

/// Where events with one value go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Way {
    required: Vec<usize>,
    optional: Vec<usize>,
}

#[derive(Debug)]
struct Table {
    header: String,
    ways: HashMap<String, Way>,
    default: Way,
    may_require: Vec<bool>,
}

impl Table {
    fn way(&self, value: Option<&str>) -> &Way {
        value.filter(|v| !v.trim_ascii().is_empty()).and_then(|v| self.ways.get(v)).unwrap_or(&self.default)
    }
}

struct Config {
    table: Arc<Table>,
}

impl SelectorConfig for Config {
    fn build(&self, _io: &Io) -> Box<dyn ChannelSelector> {
        Box::new(self.selector())
    }
}

impl Config {
    fn selector(&self) -> Multiplexing {
        let empty = || vec![Vec::new(); self.table.may_require.len()];
        Multiplexing { table: Arc::clone(&self.table), required: empty(), optional: empty() }
    }
}

struct Multiplexing {
    table: Arc<Table>,
    /// Indices of the current batch's events per channel; kept to allocate nothing.
    required: Vec<Vec<usize>>,
    optional: Vec<Vec<usize>>,
}

impl ChannelSelector for Multiplexing {
    fn select(&mut self, mut batch: EventBatch) -> Routes {
        let marks = batch.take_marks();
        let table = &self.table;
        let mut routes = Routes::default();
        if batch.is_empty() {
            routes.spread_marks(marks, &table.may_require);
            return routes;
        }
        if batch.each().is_none() {
            let way = table.way(batch.common().get(&table.header));
            copy_to(&mut routes.required, &way.required, &batch);
            copy_to(&mut routes.optional, &way.optional, &batch);
        } else {
            for index in 0..batch.len() {
                let way = table.way(batch.header(index, &table.header));
                way.required.iter().for_each(|&c| self.required[c].push(index));
                way.optional.iter().for_each(|&c| self.optional[c].push(index));
            }
            divide(&mut routes.required, &mut self.required, &batch);
            divide(&mut routes.optional, &mut self.optional, &batch);
        }
        routes.spread_marks(marks, &table.may_require);
        routes
    }
    fn may_require(&self, channel: usize) -> bool {
        self.table.may_require[channel]
    }
}

fn copy_to(routes: &mut Vec<(usize, EventBatch)>, channels: &[usize], batch: &EventBatch) {
    routes.extend(channels.iter().map(|&channel| (channel, batch.clone())));
}

/// One part per channel that has events. A part that is one run of the batch shares its bodies.
fn divide(routes: &mut Vec<(usize, EventBatch)>, parts: &mut [Vec<usize>], batch: &EventBatch) {
    for (channel, indices) in parts.iter_mut().enumerate() {
        if let (Some(&first), Some(&last)) = (indices.first(), indices.last()) {
            // Indices rise, so as many as the span is long are a run.
            let part = match last - first + 1 == indices.len() {
                true => batch.slice(first, last + 1),
                false => batch.select(indices),
            };
            routes.push((channel, part));
            indices.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::mark;
    use super::*;
    use crate::config::Kind;
    use crate::event::{BatchBuilder, Headers, Separator};
    use crate::testing;

    fn config(lines: &str) -> (Option<Config>, Vec<String>) {
        let channels = ["c1", "c2", "c3"].map(str::to_owned);
        testing::parse(Kind::Source, lines, |cx| read(&mut cx.below("selector."), &channels))
    }

    /// Events with these values of `state`; `-` for none.
    fn batch(values: &[&str]) -> EventBatch {
        let mut builder = BatchBuilder::new(Separator::None);
        for (index, value) in values.iter().enumerate() {
            builder.push(index.to_string().as_bytes());
            if *value != "-" {
                builder.header("state", value);
            }
        }
        builder.finish()
    }

    /// `channel:bodies` for each part.
    fn shown(parts: &[(usize, EventBatch)]) -> Vec<String> {
        let body = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        parts.iter().map(|(c, b)| format!("{c}:{}", b.bodies().map(body).collect::<String>())).collect()
    }

    const FLOW: &str = "selector.header = state\nselector.mapping.READ = c1\nselector.mapping.WRITE = c2  c1\n\
                        selector.default = c3\nselector.optional.READ = c1 c2\nselector.optional.OTHER = c3\tc1";

    #[test]
    fn values_take_their_ways() {
        let table: [(&[&str], &[&str], &[&str]); 7] = [
            (&["READ", "READ"], &["0:01"], &["1:01"]),
            (&["WRITE"], &["0:0", "1:0"], &[]),
            (&["-", "", " ", "read"], &["2:0123"], &[]),
            (&["OTHER"], &["2:0"], &["0:0"]),
            (&["READ", "WRITE", "READ", "-"], &["0:012", "1:1", "2:3"], &["1:02"]),
            (&["WRITE", "READ", "WRITE"], &["0:012", "1:02"], &["1:1"]),
            (&[], &[], &[]),
        ];
        let (config, complaints) = config(FLOW);
        assert_eq!(complaints, Vec::<String>::new());
        let mut selector = config.unwrap().selector();
        for (values, required, optional) in table {
            let routes = selector.select(batch(values));
            assert_eq!(shown(&routes.required), required, "{values:?}");
            assert_eq!(shown(&routes.optional), optional, "{values:?}");
        }
    }

    #[test]
    fn a_common_header_decides_for_the_whole_batch() {
        let mut selector = config(FLOW).0.unwrap().selector();
        let headers: Headers = [("state", "WRITE")].into_iter().collect();
        let batch = EventBatch::single(headers, "x");
        let body = batch.body(0).as_ptr();
        let routes = selector.select(batch);
        assert_eq!(shown(&routes.required), ["1:x", "0:x"]);
        assert!(routes.required.iter().all(|(_, b)| b.body(0).as_ptr() == body), "shared, not copied");
    }

    #[test]
    fn marks_move_on_in_channels_that_get_nothing() {
        let mut selector = config(FLOW).0.unwrap().selector();
        for values in [&["READ"] as &[&str], &[]] {
            let mut batch = batch(values);
            batch.set_mark(mark("1"));
            let routes = selector.select(batch);
            assert_eq!(routes.required.len(), 3, "{routes:?}");
            assert!(routes.required.iter().all(|(_, b)| b.marks() == [mark("1")]));
        }
        let mut selector = config("selector.mapping.A = c1\nselector.optional.A = c2").0.unwrap().selector();
        assert_eq!([0, 1, 2].map(|c| selector.may_require(c)), [true, false, false]);
        let mut batch = batch(&["B"]);
        batch.set_mark(mark("1"));
        let routes = selector.select(batch);
        assert_eq!(shown(&routes.required), ["0:"], "dropped, but the position moves on");
    }

    #[test]
    fn unknown_channels_are_refused() {
        let (config, complaints) =
            config("selector.default = c\nselector.mapping.READ = c1 c9\nselector.optional.X = c8");
        assert!(config.is_none());
        assert_eq!(complaints.len(), 3, "{complaints:?}");
        assert!(complaints[0].contains("selector.default = \"c\": the source has no channel \"c\""));
        assert!(
            complaints[1].contains("selector.mapping.READ = \"c1 c9\": the source has no channel \"c9\"")
        );
        assert!(complaints[2].contains("selector.optional.X = \"c8\""));
    }

    #[test]
    fn losses_are_announced() {
        let (config_, complaints) = config("selector.mapping.READ = c1");
        assert!(config_.is_some());
        assert!(
            complaints[0].starts_with("warning: a1.sources.x1.selector.default: not set: events whose"),
            "{complaints:?}"
        );
        let (config_, complaints) = config("selector.header = state");
        assert!(config_.is_none());
        assert!(
            complaints[0].starts_with("error: a1.sources.x1.selector.default: no value is mapped"),
            "{complaints:?}"
        );
    }
}
