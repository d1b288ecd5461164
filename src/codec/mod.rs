//! Bytes to values and back, without I/O.

pub mod avro;
pub mod big_endian;
pub mod charset;
pub mod charset_lines;
pub mod columns;
pub mod date_pattern;
pub mod escape;
pub mod flume_file_channel;
pub mod flume_json;
pub mod hadoop_codec;
pub mod headers;
pub mod java_map;
pub mod java_object;
pub mod java_regex;
pub mod jceks;
pub mod keystore;
pub mod rpc;
pub mod syslog;
pub mod thrift;
