//! Bytes to values and back, without I/O.

pub mod charset;
pub mod charset_lines;
pub mod date_pattern;
pub mod escape;
pub mod flume_json;
pub mod java_map;
pub mod java_regex;
