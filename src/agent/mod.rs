//! From a checked configuration to running shards.
//!
//! [`mod@compile`] makes a [`plan`] of the configuration, `shard` is one core with all it owns, the supervisor starts,
//! reloads and stops the shards. Only this module knows how many cores there are.

use std::time::Duration;

use crate::config::Diagnostic;
use crate::io::EngineKind;

pub mod check;
pub mod compat;
pub mod compile;
pub mod lane;
mod monitor;
pub mod plan;
mod reload;
pub mod runner;
mod shard;
mod supervisor;

pub use supervisor::{Reload, run};

/// How to run an agent; from the command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// Engine asked for; `None` = uring where the kernel allows it.
    pub engine: Option<EngineKind>,
    /// Number of shards; `None` = one per core.
    pub shards: Option<usize>,
    /// How long sources, and then sinks, may take to finish after the request to stop.
    pub stop_timeout: Duration,
    /// `-D` properties, for example `flume.monitoring.type`.
    pub system_properties: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            engine: None,
            shards: None,
            stop_timeout: Duration::from_secs(10),
            system_properties: Vec::new(),
        }
    }
}

/// Why an agent did not start or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The configuration is at fault: exit code 2.
    #[error("bad configuration")]
    Config(Vec<Diagnostic>),
    /// The world is at fault (port in use, disk full, no permission): exit code 1. One complaint per
    /// component that could not be opened.
    #[error("could not start")]
    Open(Vec<Diagnostic>),
    /// A failure while running: exit code 1.
    #[error("{0}")]
    Run(String),
}
