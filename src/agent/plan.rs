//! Compiles a configuration into a plan: every component parsed, every name resolved, all complaints
//! collected. Pure; nothing is opened.

use std::sync::Arc;

use super::check;
use crate::channel::{ChannelConfig, ChannelEntry};
use crate::component::stable_hash;
use crate::config::model::AgentConfig;
use crate::config::{
    ComponentSettings, Diagnostic, Kind, ParseContext, Positive, Property, PropertySpec, Words,
};
use crate::interceptor::InterceptorConfig;
use crate::metrics::{ChannelCounters, SinkCounters, SourceCounters};
use crate::registry;
use crate::selector::SelectorConfig;
use crate::sink::{Lanes, SinkConfig, SinkEntry};
use crate::sink_processor::ProcessorConfig;
use crate::source::{Placement, SourceConfig, SourceEntry};

/// Channels a source puts into.
pub const CHANNELS: Property<Words> =
    Property::required("channels", "Channels to put into, separated by blanks.");
/// Channel a sink takes from.
pub const CHANNEL: Property<String> = Property::required("channel", "Channel to take from (exactly one).");
/// Type of a component.
pub const TYPE: Property<String> = Property::required("type", "Alias or Flume class name of the component.");
/// Interceptors of a source.
pub const INTERCEPTORS: Property<Words> = Property::optional(
    "interceptors",
    "",
    "Interceptors in the order they see a batch, separated by blanks.",
);
/// Sinks of a group.
pub const SINKS: Property<Words> = Property::required("sinks", "Sinks of the group, separated by blanks.");
/// Lanes of a sink or group: our one addition to Flume's properties.
pub const LANES: Property<Positive> = Property::absent(
    "lanes",
    "How many copies of the sink work side by side, each on a core. Not set: one for sinks whose output is counted and \
     read in order (hdfs, file_roll, logger), one per core for the others. Not in Flume.",
);
/// Channel selector of a source.
pub const SELECTOR_TYPE: Property<String> =
    Property::optional("type", "replicating", "Which channel selector divides the events.");
/// Sink processor of a group.
pub const PROCESSOR_TYPE: Property<String> =
    Property::optional("type", "default", "Which sink processor calls the sinks.");

/// What every source has.
pub const SOURCE_PROPERTIES: &[&dyn PropertySpec] = &[&TYPE, &CHANNELS, &INTERCEPTORS];
/// What every sink has.
pub const SINK_PROPERTIES: &[&dyn PropertySpec] = &[&TYPE, &CHANNEL, &LANES];
/// What every sink group has.
pub const GROUP_PROPERTIES: &[&dyn PropertySpec] = &[&SINKS, &LANES];
/// What every interceptor and every channel has.
pub const INTERCEPTOR_PROPERTIES: &[&dyn PropertySpec] = &[&TYPE];
/// What every channel selector has, below `selector.`.
pub const SELECTOR_PROPERTIES: &[&dyn PropertySpec] = &[&SELECTOR_TYPE];
/// What every sink processor has, below `processor.`.
pub const PROCESSOR_PROPERTIES: &[&dyn PropertySpec] = &[&PROCESSOR_TYPE];

/// Most lanes of one sink: far above any machine's cores.
const LANES_MAX: usize = 1024;

/// A compiled agent. Shared by all shards.
pub struct Plan {
    /// Name of the agent.
    pub agent: Arc<str>,
    /// Sources in the order they are listed.
    pub sources: Vec<PlannedSource>,
    /// Channels in the order they are listed.
    pub channels: Vec<PlannedChannel>,
    /// Sinks outside groups, and groups.
    pub runners: Vec<PlannedRunner>,
}

/// A source and what stands between it and its channels.
pub struct PlannedSource {
    /// Name of the component.
    pub name: Arc<str>,
    /// Its settings, to tell at a reload whether it changed.
    pub settings: ComponentSettings,
    /// Its row in the registry.
    pub entry: &'static SourceEntry,
    /// Parsed.
    pub config: Arc<dyn SourceConfig>,
    /// Channel selector.
    pub selector: Arc<dyn SelectorConfig>,
    /// Interceptors in order.
    pub interceptors: Vec<Arc<dyn InterceptorConfig>>,
    /// Indices into [`Plan::channels`].
    pub channels: Vec<usize>,
    /// Shared by all shards.
    pub counters: Arc<SourceCounters>,
}

impl PlannedSource {
    /// True if the source runs on this shard.
    pub fn runs_on(&self, shard: usize, shards: usize) -> bool {
        match self.entry.placement {
            Placement::EveryShard => true,
            Placement::OneShard => stable_hash(self.name.as_bytes()) % shards as u64 == shard as u64,
        }
    }
}

/// A channel.
pub struct PlannedChannel {
    /// Name of the component.
    pub name: Arc<str>,
    /// Its settings.
    pub settings: ComponentSettings,
    /// Its row in the registry.
    pub entry: &'static ChannelEntry,
    /// Parsed; also holds what its shards share.
    pub config: Arc<dyn ChannelConfig>,
    /// Shared by all shards.
    pub counters: Arc<ChannelCounters>,
}

/// A sink, alone or as a member of a group.
pub struct PlannedSink {
    /// Name of the component.
    pub name: Arc<str>,
    /// Its settings.
    pub settings: ComponentSettings,
    /// Its row in the registry.
    pub entry: &'static SinkEntry,
    /// Parsed.
    pub config: Arc<dyn SinkConfig>,
    /// Index into [`Plan::channels`].
    pub channel: usize,
    /// Shared by all lanes.
    pub counters: Arc<SinkCounters>,
}

/// What one sink runner calls: a sink, or a group.
pub struct PlannedRunner {
    /// Name of the sink or group.
    pub name: Arc<str>,
    /// The group's settings, if it is a group.
    pub group: Option<ComponentSettings>,
    /// The sinks.
    pub sinks: Vec<PlannedSink>,
    /// Which of them delivers.
    pub processor: Arc<dyn ProcessorConfig>,
    /// Lanes asked for, or the default.
    pub lanes: LaneCount,
}

/// How many lanes a runner has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneCount {
    /// This many.
    Fixed(usize),
    /// One per shard.
    PerShard,
}

impl PlannedRunner {
    /// Number of lanes on this many shards.
    pub fn lane_count(&self, shards: usize) -> usize {
        match self.lanes {
            LaneCount::Fixed(lanes) => lanes,
            LaneCount::PerShard => shards,
        }
    }
    /// Channels its sinks take from, each once.
    pub fn channels(&self) -> Vec<usize> {
        let mut channels: Vec<usize> = self.sinks.iter().map(|s| s.channel).collect();
        channels.sort_unstable();
        channels.dedup();
        channels
    }
}

impl Plan {
    /// On which shard each lane of a runner lives.
    ///
    /// The single lane of a runner whose channels are fed by one single-shard source lives with that
    /// source; otherwise lanes are dealt round, beginning at another shard for each runner.
    pub fn lane_home(&self, runner: usize, lane: usize, shards: usize) -> usize {
        let planned = &self.runners[runner];
        if planned.lane_count(shards) == 1 {
            let channels = planned.channels();
            let mut feeding = self.sources.iter().filter(|s| s.channels.iter().any(|c| channels.contains(c)));
            if let (Some(source), None) = (feeding.next(), feeding.next())
                && source.entry.placement == Placement::OneShard
            {
                return (stable_hash(source.name.as_bytes()) % shards as u64) as usize;
            }
            return runner % shards;
        }
        lane % shards
    }
    /// Which lane of a runner takes from the channels of a shard.
    pub fn lane_of_shard(&self, runner: usize, shard: usize, shards: usize) -> Vec<usize> {
        let lanes = self.runners[runner].lane_count(shards);
        if lanes <= shards {
            return vec![shard % lanes];
        }
        // More lanes than shards: each shard feeds the lanes that live on it.
        (0..lanes).filter(|lane| lane % shards == shard).collect()
    }
}

/// Finds the row for a `type`: alias or class name, any case.
pub(super) fn find<E>(
    entries: &'static [E],
    name: impl Fn(&E) -> (&'static str, &'static str),
    text: &str,
) -> Option<&'static E> {
    entries.iter().find(|entry| {
        let (alias, class) = name(entry);
        (!alias.is_empty() && alias.eq_ignore_ascii_case(text)) || class.eq_ignore_ascii_case(text)
    })
}

fn unknown_type<E>(
    cx: &mut ParseContext<'_>,
    kind: &str,
    text: &str,
    entries: &'static [E],
    name: impl Fn(&E) -> (&'static str, &'static str),
) {
    let names = entries.iter().map(|e| match name(e) {
        ("", class) => class,
        (alias, _) => alias,
    });
    let names: Vec<&str> = names.collect();
    let nearest = crate::config::nearest::nearest(text, names.iter().copied());
    let hint = match nearest {
        Some(near) => format!("did you mean {} = {near} ?", cx.full_key("type")),
        None => format!("one of: {}", names.join(", ")),
    };
    cx.error("type", format!("unknown {kind} type"), Some(hint));
}

/// Compiles a configuration. `None` if there were errors; warnings may stand beside a plan.
pub fn compile(config: &AgentConfig, diagnostics: &mut Vec<Diagnostic>) -> Option<Plan> {
    check::keys(config, diagnostics);
    let plan = assemble(config, diagnostics)?;
    check::plan(&plan, diagnostics);
    Some(plan)
}

fn assemble(config: &AgentConfig, diagnostics: &mut Vec<Diagnostic>) -> Option<Plan> {
    let channels: Vec<Option<PlannedChannel>> =
        config.channels.iter().map(|c| channel(c, diagnostics)).collect();
    let channel_names: Vec<&str> = config.channels.iter().map(|c| c.name.as_str()).collect();
    let sources: Vec<_> = config.sources.iter().map(|s| source(s, &channel_names, diagnostics)).collect();
    let sinks: Vec<_> = config.sinks.iter().map(|s| (s, sink(s, &channel_names, diagnostics))).collect();

    let mut free: Vec<(&ComponentSettings, Option<PlannedSink>)> = sinks;
    let mut runners: Vec<Option<PlannedRunner>> = Vec::new();
    for group in &config.sink_groups {
        runners.push(sink_group(group, &mut free, diagnostics));
    }
    for (settings, sink) in free {
        runners.push(sink.and_then(|sink| single(settings, sink, diagnostics)));
    }
    Some(Plan {
        agent: config.name.as_str().into(),
        sources: sources.into_iter().collect::<Option<_>>()?,
        channels: channels.into_iter().collect::<Option<_>>()?,
        runners: runners.into_iter().collect::<Option<_>>()?,
    })
}

fn channel(settings: &ComponentSettings, diagnostics: &mut Vec<Diagnostic>) -> Option<PlannedChannel> {
    let mut cx = ParseContext::new(settings, diagnostics);
    let text = cx.get(&TYPE)?;
    let name = |e: &ChannelEntry| (e.name, e.class);
    let Some(entry) = find(registry::CHANNELS, name, &text) else {
        unknown_type(&mut cx, "channel", &text, registry::CHANNELS, name);
        return None;
    };
    let config = (entry.parse)(&mut cx)?;
    Some(PlannedChannel {
        name: settings.name.as_str().into(),
        settings: settings.clone(),
        entry,
        config,
        counters: Arc::default(),
    })
}

fn channel_index(cx: &mut ParseContext<'_>, key: &str, name: &str, channels: &[&str]) -> Option<usize> {
    let index = channels.iter().position(|c| *c == name);
    if index.is_none() {
        let near = crate::config::nearest::nearest(name, channels.iter().copied());
        let hint = match near.or(channels.first().copied()) {
            Some(near) => format!("did you mean {near}? {} = {near}", cx.full_key(key)),
            None => format!("add: {}.channels = {name}", cx.agent()),
        };
        cx.error(key, format!("there is no channel {name:?} in {}.channels", cx.agent()), Some(hint));
    }
    index
}

fn source(
    settings: &ComponentSettings,
    channels: &[&str],
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<PlannedSource> {
    let mut cx = ParseContext::new(settings, diagnostics);
    let text = cx.get(&TYPE);
    let names = cx.get(&CHANNELS);
    let indices = names.as_ref().and_then(|Words(names)| {
        let found: Vec<_> =
            names.iter().map(|n| channel_index(&mut cx, CHANNELS.name(), n, channels)).collect();
        found.into_iter().collect::<Option<Vec<_>>>()
    });
    let selector = names.as_ref().and_then(|Words(names)| selector(&mut cx, names));
    let interceptors = interceptors(&mut cx);
    let text = text?;
    let name = |e: &SourceEntry| (e.name, e.class);
    let Some(entry) = find(registry::SOURCES, name, &text) else {
        unknown_type(&mut cx, "source", &text, registry::SOURCES, name);
        return None;
    };
    let config = (entry.parse)(&mut cx);
    Some(PlannedSource {
        name: settings.name.as_str().into(),
        settings: settings.clone(),
        entry,
        config: config?,
        selector: selector?,
        interceptors: interceptors?,
        channels: indices?,
        counters: Arc::default(),
    })
}

fn selector(cx: &mut ParseContext<'_>, channels: &[String]) -> Option<Arc<dyn SelectorConfig>> {
    let mut cx = cx.below("selector.");
    let text = cx.get(&SELECTOR_TYPE)?;
    let name = |e: &crate::selector::SelectorEntry| (e.name, e.class);
    match find(registry::SELECTORS, name, &text) {
        Some(entry) => (entry.parse)(&mut cx, channels),
        None => {
            unknown_type(&mut cx, "channel selector", &text, registry::SELECTORS, name);
            None
        }
    }
}

fn interceptors(cx: &mut ParseContext<'_>) -> Option<Vec<Arc<dyn InterceptorConfig>>> {
    let Words(names) = cx.get(&INTERCEPTORS)?;
    let parsed: Vec<_> = names
        .iter()
        .map(|interceptor| {
            let mut cx = cx.below(&format!("interceptors.{interceptor}."));
            let text = cx.get(&TYPE)?;
            let name = |e: &crate::interceptor::InterceptorEntry| (e.name, e.class);
            match find(registry::INTERCEPTORS, name, &text) {
                Some(entry) => (entry.parse)(&mut cx),
                None => {
                    unknown_type(&mut cx, "interceptor", &text, registry::INTERCEPTORS, name);
                    None
                }
            }
        })
        .collect();
    parsed.into_iter().collect()
}

fn sink(
    settings: &ComponentSettings,
    channels: &[&str],
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<PlannedSink> {
    let mut cx = ParseContext::new(settings, diagnostics);
    let text = cx.get(&TYPE);
    let channel = cx.get(&CHANNEL).and_then(|n| channel_index(&mut cx, CHANNEL.name(), &n, channels));
    let text = text?;
    let name = |e: &SinkEntry| (e.name, e.class);
    let Some(entry) = find(registry::SINKS, name, &text) else {
        unknown_type(&mut cx, "sink", &text, registry::SINKS, name);
        return None;
    };
    let config = (entry.parse)(&mut cx);
    Some(PlannedSink {
        name: settings.name.as_str().into(),
        settings: settings.clone(),
        entry,
        config: config?,
        channel: channel?,
        counters: Arc::default(),
    })
}

fn lanes(cx: &mut ParseContext<'_>, default: Lanes) -> Option<LaneCount> {
    match cx.get_opt(&LANES)? {
        Some(Positive(lanes)) if lanes > LANES_MAX => {
            cx.error(
                LANES.name(),
                format!("more than {LANES_MAX} lanes"),
                Some("use at most a few per core".to_owned()),
            );
            None
        }
        Some(Positive(lanes)) => Some(LaneCount::Fixed(lanes)),
        None => Some(match default {
            Lanes::One => LaneCount::Fixed(1),
            Lanes::PerShard => LaneCount::PerShard,
        }),
    }
}

fn processor(cx: &mut ParseContext<'_>, sinks: &[String]) -> Option<Arc<dyn ProcessorConfig>> {
    let mut cx = cx.below("processor.");
    let text = cx.get(&PROCESSOR_TYPE)?;
    let name = |e: &crate::sink_processor::ProcessorEntry| (e.name, e.class);
    match find(registry::SINK_PROCESSORS, name, &text) {
        Some(entry) => (entry.parse)(&mut cx, sinks),
        None => {
            unknown_type(&mut cx, "sink processor", &text, registry::SINK_PROCESSORS, name);
            None
        }
    }
}

fn single(
    settings: &ComponentSettings,
    sink: PlannedSink,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<PlannedRunner> {
    let mut cx = ParseContext::new(settings, diagnostics);
    let lanes = lanes(&mut cx, sink.entry.lanes);
    // A sink outside any group has the default processor whatever its own `processor.*` keys say.
    let plain = ComponentSettings { settings: Default::default(), ..settings.clone() };
    let processor =
        processor(&mut ParseContext::new(&plain, diagnostics), std::slice::from_ref(&settings.name));
    Some(PlannedRunner {
        name: sink.name.clone(),
        group: None,
        sinks: vec![sink],
        processor: processor?,
        lanes: lanes?,
    })
}

fn sink_group(
    settings: &ComponentSettings,
    free: &mut Vec<(&ComponentSettings, Option<PlannedSink>)>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<PlannedRunner> {
    debug_assert_eq!(settings.kind, Kind::SinkGroup);
    let mut cx = ParseContext::new(settings, diagnostics);
    let Words(names) = cx.get(&SINKS)?;
    let mut members = Vec::new();
    for name in &names {
        match free.iter().position(|(s, _)| s.name == *name) {
            Some(index) => members.push(free.remove(index).1),
            None => {
                let message = format!("{name:?} is not a sink of the agent, or another group has it");
                cx.error(
                    SINKS.name(),
                    message,
                    Some(format!("list it once: {}.sinks = … {name}", settings.agent)),
                );
                members.push(None);
            }
        }
    }
    let processor = processor(&mut cx, &names);
    let members: Vec<PlannedSink> = members.into_iter().collect::<Option<_>>()?;
    let default =
        if members.iter().all(|m| m.entry.lanes == Lanes::PerShard) { Lanes::PerShard } else { Lanes::One };
    let lanes = lanes(&mut cx, default);
    Some(PlannedRunner {
        name: settings.name.as_str().into(),
        group: Some(settings.clone()),
        sinks: members,
        processor: processor?,
        lanes: lanes?,
    })
}
