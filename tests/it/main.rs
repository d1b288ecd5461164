//! One integration binary: real processes, real sockets.

mod avro;
mod bad_input;
mod channel_tools;
mod cli;
mod counters;
mod crash;
mod crash_files;
mod flows;
mod flume_peer;
mod flume_properties;
mod fuzz_corpus;
mod guide;
mod hdfs;
mod hop;
mod hostile;
mod hostile_peers;
mod http;
mod layers;
mod open_errors;
mod origins;
mod peers;
mod registry;
mod secrets;
mod util;
