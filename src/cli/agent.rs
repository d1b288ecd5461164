//! The command `agent`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::{BAD_CONFIG, FAILED, load, log, reload, report};
use crate::agent::{self, AgentError, Options, plan};
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
    /// Do not watch the flow for changes
    #[arg(long = "no-reload-conf")]
    no_reload: bool,
    /// Seconds between looks at the flow's files
    #[arg(short = 'i', long = "poll-interval", value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    poll_interval: u64,
    /// Only say what is wrong, as `check` does
    #[arg(short = 'd', long = "dryrun")]
    dry_run: bool,
    /// Of the Java program; no effect
    #[arg(short = 'C', long = "classpath", value_name = "PATH")]
    classpath: Option<String>,
    /// Of the Java program; no effect
    #[arg(long = "plugins-path", value_name = "PATHS")]
    plugins_path: Option<PathBuf>,
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
    if args.dry_run {
        return load::check(&args.flow, properties);
    }
    let flow = args.flow.flow(properties);
    if let Err(problem) = log::start(&flow.system) {
        report::diagnostics(&[crate::config::Diagnostic::error("log", problem)]);
        return ExitCode::from(FAILED);
    }
    for (option, given) in
        [("--classpath", args.classpath.is_some()), ("--plugins-path", args.plugins_path.is_some())]
    {
        if given {
            tracing::warn!("{option} has no effect: nothing here is loaded from Java archives");
        }
    }
    let seen = reload::look(&flow.files);
    let mut diagnostics = Vec::new();
    let config = load::load(&flow, &mut diagnostics).filter(|config| {
        // Compiled here as well for its warnings: the agent says only what refuses the start.
        plan::compile(config, &mut diagnostics).is_some()
    });
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
        system_properties: flow.system.clone(),
    };
    for warning in &diagnostics {
        tracing::warn!("{warning}");
    }
    let interval = Duration::from_secs(args.poll_interval);
    let reload = (!args.no_reload).then(|| reload::watch(flow, seen, interval));
    match agent::run(config, options, reload) {
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
