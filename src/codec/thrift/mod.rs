//! Thrift: the two encodings Flume uses, and the services it speaks over them.

pub mod message;
pub mod sasl;
pub mod scribe;
pub mod value;
