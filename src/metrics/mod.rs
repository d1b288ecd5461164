//! Counters under Flume's names, shared by the shards of a component and added to once per batch.
//!
//! Flume: `org.apache.flume.instrumentation.{SourceCounter,ChannelCounter,SinkCounter}`.

use std::sync::atomic::{AtomicU64, Ordering};

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
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident = $key:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub struct $name { $($(#[$field_doc])* pub $field: Counter),* }
        impl $name {
            /// Flume's key and the counter, in the order of the declaration.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Counter)> {
                [$(($key, &self.$field)),*].into_iter()
            }
        }
    };
}

counters! {
    /// Counters of a source.
    SourceCounters {
        /// Events that arrived.
        event_received = "EventReceivedCount",
        /// Events the channels took.
        event_accepted = "EventAcceptedCount",
        /// Single-event appends that arrived.
        append_received = "AppendReceivedCount",
        /// Single-event appends the channels took.
        append_accepted = "AppendAcceptedCount",
        /// Batches that arrived.
        append_batch_received = "AppendBatchReceivedCount",
        /// Batches the channels took.
        append_batch_accepted = "AppendBatchAcceptedCount",
        /// Connections open now.
        open_connection = "OpenConnectionCount",
        /// Events that could not be read.
        event_read_fail = "EventReadFail",
        /// Batches a channel refused.
        channel_write_fail = "ChannelWriteFail",
        /// Other failures.
        generic_processing_fail = "GenericProcessingFail",
    }
}

counters! {
    /// Counters of a channel.
    ChannelCounters {
        /// Events waiting now.
        channel_size = "ChannelSize",
        /// Most events that may wait.
        channel_capacity = "ChannelCapacity",
        /// Events tried to put.
        event_put_attempt = "EventPutAttemptCount",
        /// Events tried to take.
        event_take_attempt = "EventTakeAttemptCount",
        /// Events put.
        event_put_success = "EventPutSuccessCount",
        /// Events taken.
        event_take_success = "EventTakeSuccessCount",
    }
}

counters! {
    /// Counters of a sink.
    SinkCounters {
        /// Connections or files opened.
        connection_created = "ConnectionCreatedCount",
        /// Connections or files closed.
        connection_closed = "ConnectionClosedCount",
        /// Connections or files that could not be opened.
        connection_failed = "ConnectionFailedCount",
        /// Batches without an event.
        batch_empty = "BatchEmptyCount",
        /// Batches smaller than the batch size.
        batch_underflow = "BatchUnderflowCount",
        /// Full batches.
        batch_complete = "BatchCompleteCount",
        /// Events tried to deliver.
        event_drain_attempt = "EventDrainAttemptCount",
        /// Events delivered and committed.
        event_drain_success = "EventDrainSuccessCount",
        /// Failed deliveries.
        event_write_fail = "EventWriteFail",
        /// Failed takes.
        channel_read_fail = "ChannelReadFail",
    }
}
