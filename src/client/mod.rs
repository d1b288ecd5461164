//! Speakers of other systems' protocols.

pub mod hdfs;
pub mod rpc;
