//! Speakers of other systems' protocols.

pub mod fetch;
pub mod hdfs;
pub mod rpc;
pub mod zookeeper;
