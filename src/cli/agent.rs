//! The command `agent`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::origin::{self, Origin, Text};
use super::{BAD_CONFIG, FAILED, load, log, reload, report};
use crate::agent::{self, AgentError, Options, compile::compile};
use crate::config::Diagnostic;
use crate::io::{EngineKind, probe};

/// Shown below the options.
pub const HELP: &str = "\
Examples:
  millrace agent -n a1 -c conf -f flow.properties
  millrace agent -n a1 -f flow.properties -Dflume.monitoring.type=http -Dflume.monitoring.port=41414

SIGHUP reads the flow again at once. SIGTERM or SIGINT stops sources, then sinks drain, then channels close; a second signal stops at once. Nothing that
was acknowledged is lost either way.";

/// Options of `agent`: Flume's, and ours.
#[derive(clap::Args, Debug)]
pub struct AgentArgs {
    #[command(flatten)]
    flow: load::FlowArgs,
    /// Do not watch the flow for changes; SIGHUP still has it read again
    #[arg(long = "no-reload-conf")]
    no_reload: bool,
    /// Seconds between looks at the flow; 30 for files and 300 over HTTP unless given. ZooKeeper is watched
    #[arg(short = 'i', long = "poll-interval", value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    poll_interval: Option<u64>,
    /// Keep the last good flow here, and start it if the flow cannot be read
    #[arg(short = 'b', long = "backup-directory", value_name = "DIR")]
    backup: Option<PathBuf>,
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
    /// Files through io_uring (tokio-uring); the default
    Uring,
    /// Files by helper threads, where io_uring is forbidden
    Portable,
    /// Files through a storage executor per shard (glommio); in builds with `--features glommio`
    Glommio,
}

/// Runs an agent to its end.
pub fn run(args: AgentArgs, properties: Vec<(String, String)>) -> ExitCode {
    if args.dry_run {
        return load::check(&args.flow, properties);
    }
    if matches!(args.engine, Some(Engine::Glommio)) && !probe::has(EngineKind::Glommio) {
        let complaint = Diagnostic::error("--engine", "this program was built without glommio");
        let hint = "build it in: cargo build --release --features glommio; or leave --engine out";
        report::diagnostics(&[complaint.value("glommio").hint(hint)]);
        return ExitCode::from(BAD_CONFIG);
    }
    let flow = args.flow.flow(properties);
    if let Err(problem) = log::start(&flow.system) {
        report::diagnostics(&[Diagnostic::error("log", problem)]);
        return ExitCode::from(FAILED);
    }
    for (option, given) in
        [("--classpath", args.classpath.is_some()), ("--plugins-path", args.plugins_path.is_some())]
    {
        if given {
            tracing::warn!("{option} has no effect: nothing here is loaded from Java archives");
        }
    }
    if let Some((taken, ignored)) = &flow.env_summary {
        tracing::info!(taken = %taken, ignored = %ignored, "read flume-env.sh");
    }
    for option in &flow.ignored {
        tracing::warn!("{option} has no effect: nothing here is loaded from Java archives");
    }
    let mut reader = flow.reader();
    let kept = args.backup.as_deref().map(|directory| origin::backup_file(directory, &flow.name));
    if !args.no_reload && !kept.as_ref().is_some_and(|file| file.exists()) {
        reader.wait_for_node();
    }
    let texts = match reader.texts() {
        Ok(texts) => texts,
        Err(problem) => match kept.and_then(|file| Some((std::fs::read(&file).ok()?, file))) {
            Some((bytes, file)) => {
                tracing::error!("{problem}");
                tracing::warn!("starting the last good flow instead: {}", file.display());
                vec![Text { shown: file.display().to_string(), bytes }]
            }
            None => {
                report::diagnostics(&[problem]);
                return ExitCode::from(BAD_CONFIG);
            }
        },
    };
    let mut diagnostics = Vec::new();
    let config = load::load(&flow, &texts, &mut diagnostics).filter(|config| {
        // Compiled here as well for its warnings: the agent says only what refuses the start.
        compile(config, &mut diagnostics).is_some()
    });
    let (Some(config), false) = (config, load::has_errors(&diagnostics)) else {
        report::diagnostics(&diagnostics);
        return ExitCode::from(BAD_CONFIG);
    };
    let options = Options {
        engine: args.engine.map(|e| match e {
            Engine::Uring => EngineKind::Uring,
            Engine::Portable => EngineKind::Portable,
            Engine::Glommio => EngineKind::Glommio,
        }),
        shards: args.shards.map(usize::from),
        stop_timeout: Duration::from_secs(args.stop_timeout),
        system_properties: flow.system.clone(),
    };
    diagnostics.sort_by(|a, b| (&a.location, &a.subject).cmp(&(&b.location, &b.subject)));
    for warning in &diagnostics {
        tracing::warn!("{warning}");
    }
    reload::keep(args.backup.as_deref(), &flow.name, &texts);
    let is_http = flow.origins.iter().any(|o| matches!(o, Origin::Http(_)));
    let interval = Duration::from_secs(args.poll_interval.unwrap_or(if is_http { 300 } else { 30 }));
    let watcher = reload::Watcher { flow, reader, texts, backup: args.backup };
    let reload = watcher.start((!args.no_reload).then_some(interval));
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
