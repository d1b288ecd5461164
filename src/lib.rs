//! Millrace: a log collector that runs Apache Flume's `.properties` flows on io_uring, one shard per core.
//!
//! Modules are declared in layer order; each may use the ones above it (`ARCHITECTURE.md`).

// 0  ground: values, no I/O
pub mod component;
pub mod event;
// 1  platform and formats
pub mod codec;
pub mod config;
pub mod io;
pub mod metrics;
// 2  storage: the log, then transactions over it
pub mod wal;

pub mod channel;
// 3  between the ends
pub mod channel_processor;
pub mod client;
pub mod config_filter;
pub mod interceptor;
pub mod selector;
pub mod serializer;
// 4  the ends
pub mod sink;
pub mod sink_processor;
pub mod source;
// 5  assembly
pub mod agent;
pub mod registry;
// 6  edge
pub mod cli;
#[doc(hidden)]
pub mod fuzzing;
#[cfg(test)]
pub(crate) mod testing;
