//! Speakers of other systems' protocols.

pub mod rpc;
