//! The tables: every type name an operator may write.
//!
//! A new component is one file, one `mod` line, one row here, one example flow and one changelog line.

use crate::channel::{ChannelEntry, file, memory, pseudo_txn, spillable};
use crate::config_filter::{FilterEntry, env, external, hadoop};
use crate::interceptor::{
    InterceptorEntry, fixed, host, regex_extractor, regex_filter, remove_header, search_replace, timestamp,
    uuid,
};
use crate::selector::{SelectorEntry, load_balancing, multiplexing, replicating};
use crate::sink::{SinkEntry, avro as avro_sink, file_roll, hdfs, logger, null, thrift as thrift_sink};
use crate::sink_processor::{self, ProcessorEntry, failover, load_balance};
use crate::source::{
    SourceEntry, avro, exec, http, legacy, netcat, netcat_udp, scribe, seq, spool_dir, stress, taildir,
    thrift,
};

/// Every source.
pub const SOURCES: &[SourceEntry] = &[
    avro::ENTRY,
    thrift::ENTRY,
    scribe::ENTRY,
    legacy::AVRO_ENTRY,
    legacy::THRIFT_ENTRY,
    exec::ENTRY,
    http::ENTRY,
    netcat::ENTRY,
    netcat_udp::ENTRY,
    seq::ENTRY,
    spool_dir::ENTRY,
    stress::ENTRY,
    crate::source::syslog::tcp::ENTRY,
    crate::source::syslog::multiport::ENTRY,
    crate::source::syslog::udp::ENTRY,
    taildir::ENTRY,
];

/// Every channel.
pub const CHANNELS: &[ChannelEntry] = &[memory::ENTRY, file::ENTRY, spillable::ENTRY, pseudo_txn::ENTRY];

/// Every sink.
pub const SINKS: &[SinkEntry] = &[
    crate::sink::http::ENTRY,
    avro_sink::ENTRY,
    thrift_sink::ENTRY,
    file_roll::ENTRY,
    hdfs::ENTRY,
    logger::ENTRY,
    null::ENTRY,
];

/// Every interceptor.
pub const INTERCEPTORS: &[InterceptorEntry] = &[
    timestamp::ENTRY,
    host::ENTRY,
    fixed::ENTRY,
    remove_header::ENTRY,
    search_replace::ENTRY,
    regex_filter::ENTRY,
    regex_extractor::ENTRY,
    uuid::ENTRY,
];

/// Every sink processor.
pub const SINK_PROCESSORS: &[ProcessorEntry] =
    &[sink_processor::default::ENTRY, failover::ENTRY, load_balance::ENTRY];

/// Every channel selector.
pub const SELECTORS: &[SelectorEntry] = &[replicating::ENTRY, multiplexing::ENTRY, load_balancing::ENTRY];

/// Every config filter.
pub const CONFIG_FILTERS: &[FilterEntry] = &[env::ENTRY, external::ENTRY, hadoop::ENTRY];
