//! From a configuration to running shards.
