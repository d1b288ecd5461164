//! Counters under Flume's names, shared by the shards of a component and added to once per batch.
//!
//! Flume: `org.apache.flume.instrumentation.{SourceCounter,ChannelCounter,SinkCounter}`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub mod directory;
pub mod ganglia;
pub mod render;
pub mod server;

/// What a value means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    /// Only rises while the component runs.
    Count,
    /// Goes up and down.
    Gauge,
    /// 0 or 1; Flume writes `false` or `true`.
    Flag,
}

/// A value's name and meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueInfo {
    /// Flume's key, for example `EventReceivedCount`.
    pub key: &'static str,
    /// One sentence.
    pub doc: &'static str,
    /// Count, gauge or flag.
    pub kind: ValueKind,
}

/// Values that only some components of a kind have, for example a file channel's `Unhealthy`.
#[derive(Debug, Default)]
pub struct Extras(Mutex<Vec<(ValueInfo, Arc<Counter>)>>);

impl Extras {
    /// The value of this key, made when it is first asked for. Called when a component is opened, not per
    /// batch; the shards of a component get the same one.
    pub fn value(&self, info: ValueInfo) -> Arc<Counter> {
        let mut values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match values.iter().find(|(i, _)| i.key == info.key) {
            Some((_, counter)) => Arc::clone(counter),
            None => {
                let counter = Arc::<Counter>::default();
                values.push((info, Arc::clone(&counter)));
                counter
            }
        }
    }
    /// Shows the values of another component, too: those of a part it consists of.
    pub fn adopt(&self, other: &Self) {
        let others = other.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (info, counter) in others {
            if values.iter().all(|(i, _)| i.key != info.key) {
                values.push((info, counter));
            }
        }
    }
    /// All values, in the order they were first asked for.
    pub fn snapshot(&self) -> Vec<(ValueInfo, u64)> {
        let values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        values.iter().map(|(info, counter)| (*info, counter.value())).collect()
    }
}

/// One counter or gauge.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }
    /// Subtracts (gauges).
    pub fn subtract(&self, count: u64) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }
    /// Sets (gauges).
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
    /// Current value.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($(#[$doc:meta])* $name:ident { $(#[doc = $field_doc:literal] $kind:ident $field:ident = $key:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub struct $name {
            $(#[doc = $field_doc] pub $field: Counter,)*
            /// Values that only some components of this kind have.
            pub extras: Extras,
        }
        impl $name {
            /// Flume's key and the counter, in the order of the declaration, without the extras.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Counter)> {
                [$(($key, &self.$field)),*].into_iter()
            }
            /// Every value with its meaning, extras last.
            pub fn snapshot(&self) -> Vec<(ValueInfo, u64)> {
                let mut values = vec![$((
                    ValueInfo { key: $key, doc: $field_doc.trim_ascii(), kind: ValueKind::$kind },
                    self.$field.value(),
                )),*];
                values.extend(self.extras.snapshot());
                values
            }
        }
    };
}

counters! {
    /// Counters of a source.
    SourceCounters {
        /// Events that arrived.
        Count event_received = "EventReceivedCount",
        /// Events the channels took.
        Count event_accepted = "EventAcceptedCount",
        /// Single-event appends that arrived.
        Count append_received = "AppendReceivedCount",
        /// Single-event appends the channels took.
        Count append_accepted = "AppendAcceptedCount",
        /// Batches that arrived.
        Count append_batch_received = "AppendBatchReceivedCount",
        /// Batches the channels took.
        Count append_batch_accepted = "AppendBatchAcceptedCount",
        /// Connections open now.
        Gauge open_connection = "OpenConnectionCount",
        /// Events that could not be read.
        Count event_read_fail = "EventReadFail",
        /// Batches a channel refused.
        Count channel_write_fail = "ChannelWriteFail",
        /// Other failures.
        Count generic_processing_fail = "GenericProcessingFail",
    }
}

counters! {
    /// Counters of a channel.
    ChannelCounters {
        /// Events waiting now.
        Gauge channel_size = "ChannelSize",
        /// Most events that may wait.
        Gauge channel_capacity = "ChannelCapacity",
        /// Events tried to put.
        Count event_put_attempt = "EventPutAttemptCount",
        /// Events tried to take.
        Count event_take_attempt = "EventTakeAttemptCount",
        /// Events put.
        Count event_put_success = "EventPutSuccessCount",
        /// Events taken.
        Count event_take_success = "EventTakeSuccessCount",
    }
}

counters! {
    /// Counters of a sink.
    SinkCounters {
        /// Connections or files opened.
        Count connection_created = "ConnectionCreatedCount",
        /// Connections or files closed.
        Count connection_closed = "ConnectionClosedCount",
        /// Connections or files that could not be opened.
        Count connection_failed = "ConnectionFailedCount",
        /// Batches without an event.
        Count batch_empty = "BatchEmptyCount",
        /// Batches smaller than the batch size.
        Count batch_underflow = "BatchUnderflowCount",
        /// Full batches.
        Count batch_complete = "BatchCompleteCount",
        /// Events tried to deliver.
        Count event_drain_attempt = "EventDrainAttemptCount",
        /// Events delivered and committed.
        Count event_drain_success = "EventDrainSuccessCount",
        /// Failed deliveries.
        Count event_write_fail = "EventWriteFail",
        /// Failed takes.
        Count channel_read_fail = "ChannelReadFail",
    }
}

impl SinkCounters {
    /// A batch was taken: empty, smaller than asked for, or complete.
    pub fn took(&self, events: usize, batch_size: usize) {
        match events {
            0 => self.batch_empty.add(1),
            _ if events < batch_size => self.batch_underflow.add(1),
            _ => self.batch_complete.add(1),
        }
    }
}
