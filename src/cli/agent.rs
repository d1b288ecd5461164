//! The command `agent`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::{BAD_CONFIG, FAILED, load, log, report};
use crate::agent::{self, AgentError, Options};
use crate::io::EngineKind;

/// Shown below the options.
pub const HELP: &str = "\
Examples:
  millrace agent -n a1 -c conf -f flow.properties
  millrace agent -n a1 -f flow.properties -Dflume.monitoring.type=http -Dflume.monitoring.port=41414

SIGTERM or SIGINT stops sources, then sinks drain, then channels close; a second signal stops at once. Nothing that
was acknowledged is lost either way.";

/// Options of `agent`: Flume's, and ours.
#[derive(clap::Args, Debug)]
pub struct AgentArgs {
    #[command(flatten)]
    flow: load::FlowArgs,
    /// Flume's configuration directory
    #[arg(short = 'c', long = "conf", value_name = "DIR")]
    conf: Option<PathBuf>,
    /// Do not watch the flow for changes
    #[arg(long = "no-reload-conf")]
    no_reload: bool,
    /// Engine behind files and sockets; uring where the kernel allows it
    #[arg(long, value_enum, value_name = "ENGINE")]
    engine: Option<Engine>,
    /// Number of shards; one per core unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    shards: Option<u16>,
    /// Seconds sources, and then sinks, may take to finish
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    stop_timeout: u64,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Engine {
    Uring,
    Portable,
}

/// Runs an agent to its end.
pub fn run(args: AgentArgs, properties: Vec<(String, String)>) -> ExitCode {
    if let Err(problem) = log::start(&properties) {
        report::diagnostics(&[crate::config::Diagnostic::error("log", problem)]);
        return ExitCode::from(FAILED);
    }
    let mut diagnostics = Vec::new();
    let config = load::load(&args.flow, &properties, &mut diagnostics);
    let (Some(config), false) = (config, load::has_errors(&diagnostics)) else {
        report::diagnostics(&diagnostics);
        return ExitCode::from(BAD_CONFIG);
    };
    let options = Options {
        engine: args.engine.map(|e| match e {
            Engine::Uring => EngineKind::Uring,
            Engine::Portable => EngineKind::Portable,
        }),
        shards: args.shards.map(usize::from),
        stop_timeout: Duration::from_secs(args.stop_timeout),
        system_properties: properties,
    };
    for warning in &diagnostics {
        tracing::warn!("{warning}");
    }
    match agent::run(config, options, None) {
        Ok(()) => ExitCode::SUCCESS,
        Err(AgentError::Config(found)) => {
            report::diagnostics(&found);
            ExitCode::from(BAD_CONFIG)
        }
        Err(AgentError::Open(found)) => {
            report::diagnostics(&found);
            ExitCode::from(FAILED)
        }
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(FAILED)
        }
    }
}
