//! Event bodies to and from files.

pub mod avro_body;
pub mod avro_event;
pub mod config;
pub mod container;
pub mod deserializer;
pub mod header_and_text;
pub mod output;
pub mod text;
