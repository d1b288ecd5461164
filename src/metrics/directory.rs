//! The process-wide list of components and their counters, from which every monitoring page is drawn.
//!
//! The control thread registers a component when it starts it and marks it when it stops it; pages read it
//! from any thread. The lock is held for the copy of a few numbers, never by a shard.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{ChannelCounters, SinkCounters, SourceCounters, ValueInfo};

/// Flume's monitored component groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    /// `CHANNEL`
    Channel,
    /// `SINK`
    Sink,
    /// `SOURCE`
    Source,
}

impl Group {
    /// Flume's word: `SOURCE`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Channel => "CHANNEL",
            Self::Sink => "SINK",
            Self::Source => "SOURCE",
        }
    }
}

#[derive(Debug)]
enum Counters {
    Channel(Arc<ChannelCounters>),
    Sink(Arc<SinkCounters>),
    Source(Arc<SourceCounters>),
}

#[derive(Debug)]
struct Entry {
    counters: Counters,
    started: Duration,
    stopped: Option<Duration>,
}

/// One component at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Source, channel or sink.
    pub group: Group,
    /// The component's name.
    pub name: String,
    /// Wall-clock time of its start.
    pub started: Duration,
    /// Wall-clock time of its stop, if it was stopped.
    pub stopped: Option<Duration>,
    /// Its values.
    pub values: Vec<(ValueInfo, u64)>,
}

/// See the module's doc.
#[derive(Debug, Default)]
pub struct Directory(Mutex<BTreeMap<(Group, String), Entry>>);

impl Directory {
    /// A source that starts now (`io.unix_time()`). Replaces one of the same name.
    pub fn register_source(&self, name: &str, counters: Arc<SourceCounters>, now: Duration) {
        self.register(Group::Source, name, Counters::Source(counters), now);
    }
    /// A channel that starts now.
    pub fn register_channel(&self, name: &str, counters: Arc<ChannelCounters>, now: Duration) {
        self.register(Group::Channel, name, Counters::Channel(counters), now);
    }
    /// A sink that starts now.
    pub fn register_sink(&self, name: &str, counters: Arc<SinkCounters>, now: Duration) {
        self.register(Group::Sink, name, Counters::Sink(counters), now);
    }
    fn register(&self, group: Group, name: &str, counters: Counters, started: Duration) {
        let entry = Entry { counters, started, stopped: None };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert((group, name.to_owned()), entry);
    }
    /// The component stops now; it stays on the pages.
    pub fn stopped(&self, group: Group, name: &str, now: Duration) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get_mut(&(group, name.to_owned())) {
            entry.stopped = Some(now);
        }
    }
    /// Forgets a component (a reload removed it from the flow).
    pub fn remove(&self, group: Group, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&(group, name.to_owned()));
    }
    /// All components with their values: channels, sinks, sources, each by name.
    pub fn snapshot(&self) -> Vec<Snapshot> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let snapshot = |((group, name), entry): (&(Group, String), &Entry)| Snapshot {
            group: *group,
            name: name.clone(),
            started: entry.started,
            stopped: entry.stopped,
            values: match &entry.counters {
                Counters::Channel(counters) => counters.snapshot(),
                Counters::Sink(counters) => counters.snapshot(),
                Counters::Source(counters) => counters.snapshot(),
            },
        };
        entries.iter().map(snapshot).collect()
    }
}
