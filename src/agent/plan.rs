//! The plan: an agent with every component parsed and every name resolved, and what its parts are told.
//!
//! Pure; nothing is opened. [`super::compile`] makes it from a configuration.

use std::sync::Arc;

use crate::channel::{ChannelConfig, ChannelEntry};
use crate::component::stable_hash;
use crate::config::{ComponentSettings, Positive, Property, PropertySpec, Words};
use crate::interceptor::InterceptorConfig;
use crate::metrics::{ChannelCounters, SinkCounters, SourceCounters};
use crate::selector::SelectorConfig;
use crate::sink::{SinkConfig, SinkEntry};
use crate::sink_processor::ProcessorConfig;
use crate::source::{Placement, SourceConfig, SourceEntry};

/// Channels a source puts into.
pub const CHANNELS: Property<Words> =
    Property::required("channels", "Channels to put into, separated by blanks.").example("c1");
/// Channel a sink takes from.
pub const CHANNEL: Property<String> =
    Property::required("channel", "Channel to take from (exactly one).").example("c1");
/// Type of a component.
pub const TYPE: Property<String> = Property::required("type", "Alias or Flume class name of the component.");
/// Interceptors of a source.
pub const INTERCEPTORS: Property<Words> = Property::optional(
    "interceptors",
    "",
    "Interceptors in the order they see a batch, separated by blanks.",
);
/// Sinks of a group.
pub const SINKS: Property<Words> =
    Property::required("sinks", "Sinks of the group, separated by blanks.").example("k1 k2");
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
