//! From files named on the command line to a checked configuration; the command `check`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;

use super::{BAD_CONFIG, report};
use crate::agent::plan;
use crate::config::model::AgentConfig;
use crate::config::properties;
use crate::config::resolve::Lookups;
use crate::config::{Diagnostic, Severity};

/// Where a flow is.
#[derive(clap::Args, Clone, Debug)]
pub struct FlowArgs {
    /// Name of the agent in the file
    #[arg(short = 'n', long = "name", value_name = "NAME")]
    pub name: String,
    /// The flow; several are merged in order, later ones win
    #[arg(short = 'f', long = "conf-file", value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
}

/// Reads, substitutes and validates. `None` after a complaint.
pub fn load(
    args: &FlowArgs,
    system: &[(String, String)],
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<AgentConfig> {
    let mut entries = Vec::new();
    for file in &args.files {
        let shown = file.display().to_string();
        let bytes = match std::fs::read(file) {
            Ok(bytes) => bytes,
            Err(error) => {
                let hint = match error.kind() {
                    std::io::ErrorKind::NotFound => "check the path behind -f",
                    std::io::ErrorKind::IsADirectory => "name a file, not a directory",
                    _ => "check the permissions",
                };
                let complaint = Diagnostic::error(format!("-f {shown}"), format!("cannot be read: {error}"));
                diagnostics.push(complaint.hint(hint));
                return None;
            }
        };
        match properties::parse(&shown, &bytes) {
            Ok(found) => entries.extend(found),
            Err((location, problem)) => {
                diagnostics.push(
                    Diagnostic::error(shown, problem)
                        .at(Some(location))
                        .hint("write \\\\u for a backslash and a u"),
                );
                return None;
            }
        }
    }
    let keys: HashMap<String, String> =
        entries.iter().map(|e| (e.key.clone(), e.value.trim().to_owned())).collect();
    let system: HashMap<String, String> = system.iter().cloned().collect();
    let env = |name: &str| std::env::var(name).ok();
    let lookups = Lookups { keys: &keys, env: &env, system: &system };
    for entry in &mut entries {
        entry.value = lookups.resolve(&entry.value);
    }
    AgentConfig::read(&args.name, &entries, diagnostics)
}

/// The command `check`.
pub fn check(args: &FlowArgs, system: &[(String, String)]) -> ExitCode {
    let mut diagnostics = Vec::new();
    let plan =
        load(args, system, &mut diagnostics).and_then(|config| plan::compile(&config, &mut diagnostics));
    let (errors, warnings) = report::diagnostics(&diagnostics);
    match plan {
        Some(plan) if errors == 0 => {
            report::line(&format!(
                "{}: {} sources, {} channels, {} sinks{}",
                args.name,
                plan.sources.len(),
                plan.channels.len(),
                plan.runners.iter().map(|r| r.sinks.len()).sum::<usize>(),
                if warnings == 0 {
                    ": nothing to complain about"
                } else {
                    ": it starts, with the warnings above"
                },
            ));
            ExitCode::SUCCESS
        }
        _ => ExitCode::from(BAD_CONFIG),
    }
}

/// True if any of them refuses the start.
pub fn has_errors(diagnostics: &[Diagnostic]) -> bool {
    diagnostics.iter().any(|d| d.severity == Severity::Error)
}
