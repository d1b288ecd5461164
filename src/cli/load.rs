//! From files named on the command line to a checked configuration; the command `check`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;

use super::flume_env::FlumeEnv;
use super::{BAD_CONFIG, report};
use crate::agent::check::drop_what_flume_drops;
use crate::agent::plan;
use crate::config::model::AgentConfig;
use crate::config::properties;
use crate::config::resolve::Lookups;
use crate::config::{Diagnostic, Severity};

/// Where a flow is, as the command line says it.
#[derive(clap::Args, Clone, Debug)]
pub struct FlowArgs {
    /// Name of the agent in the file
    #[arg(short = 'n', long = "name", value_name = "NAME")]
    pub name: String,
    /// The flow; several are merged in order, later ones win
    #[arg(short = 'f', long = "conf-file", value_name = "FILE", required_unless_present = "uris")]
    pub files: Vec<PathBuf>,
    /// The flow as a URI (file:/path); read before the files of -f
    #[arg(short = 'u', long = "conf-uri", value_name = "URI", value_parser = local_path)]
    pub uris: Vec<PathBuf>,
    /// Flume's configuration directory; of its flume-env.sh the plain NAME=value lines count
    #[arg(short = 'c', long = "conf", value_name = "DIR")]
    pub conf: Option<PathBuf>,
    /// Start what Flume would start: leave out components that do not work, and say which
    #[arg(long)]
    pub compat: bool,
}

/// The path behind a `file:` URI, or a plain path.
fn local_path(uri: &str) -> Result<PathBuf, String> {
    match uri.split_once(':') {
        Some(("file", path)) => Ok(PathBuf::from(path.strip_prefix("//").unwrap_or(path))),
        Some((scheme, _)) if !scheme.contains('/') => {
            Err(format!("{scheme}: is not a scheme this program reads flows from; use file:/path"))
        }
        _ => Ok(PathBuf::from(uri)),
    }
}

/// Where a flow is and what its values may refer to.
#[derive(Clone, Debug)]
pub struct Flow {
    name: String,
    /// Files in the order they are read.
    pub files: Vec<PathBuf>,
    compat: bool,
    variables: HashMap<String, String>,
    /// `-D` properties: those of `flume-env.sh`, then those of the command line, which win.
    pub system: Vec<(String, String)>,
}

impl FlowArgs {
    /// Adds what `flume-env.sh` and the command line set.
    pub fn flow(&self, properties: Vec<(String, String)>) -> Flow {
        let mut env = FlumeEnv::read(self.conf.as_deref());
        env.properties.extend(properties);
        Flow {
            name: self.name.clone(),
            files: self.uris.iter().chain(&self.files).cloned().collect(),
            compat: self.compat,
            variables: env.variables,
            system: env.properties,
        }
    }
}

/// Reads, substitutes and validates. `None` after a complaint.
pub fn load(flow: &Flow, diagnostics: &mut Vec<Diagnostic>) -> Option<AgentConfig> {
    let mut entries = Vec::new();
    for file in &flow.files {
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
    let system: HashMap<String, String> = flow.system.iter().cloned().collect();
    let env = |name: &str| flow.variables.get(name).cloned().or_else(|| std::env::var(name).ok());
    let lookups = Lookups { keys: &keys, env: &env, system: &system };
    for entry in &mut entries {
        entry.value = lookups.resolve(&entry.value);
    }
    let config = AgentConfig::read(&flow.name, &entries, diagnostics)?;
    Some(if flow.compat { drop_what_flume_drops(config, diagnostics) } else { config })
}

/// The command `check`.
pub fn check(args: &FlowArgs, properties: Vec<(String, String)>) -> ExitCode {
    let mut diagnostics = Vec::new();
    let flow = args.flow(properties);
    let plan = load(&flow, &mut diagnostics).and_then(|config| plan::compile(&config, &mut diagnostics));
    let (errors, warnings) = report::diagnostics(&diagnostics);
    match plan {
        Some(plan) if errors == 0 => {
            report::line(&format!(
                "{}: {}, {}, {}{}",
                args.name,
                report::count(plan.sources.len(), "source"),
                report::count(plan.channels.len(), "channel"),
                report::count(plan.runners.iter().map(|r| r.sinks.len()).sum(), "sink"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_of_files() {
        for (uri, expected) in [
            ("file:///etc/a.conf", Ok("/etc/a.conf")),
            ("file:/etc/a.conf", Ok("/etc/a.conf")),
            ("a.conf", Ok("a.conf")),
            ("/x/a:b.conf", Ok("/x/a:b.conf")),
            ("ftp://h/a", Err(())),
        ] {
            assert_eq!(local_path(uri).map_err(drop), expected.map(PathBuf::from), "{uri}");
        }
    }
}
