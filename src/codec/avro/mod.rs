//! Avro: datums, and the remote procedure calls Flume's agents speak to each other.
//!
//! Specification: Apache Avro 1.11. Everything here is pure: slices in, values out.

pub mod datum;
pub mod events;
pub mod frame;
pub mod legacy;
pub mod packing;
pub mod protocol;
pub mod schema;
pub mod session;
