//! From the places named on the command line to a checked configuration; the command `check`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;

use super::flume_env::FlumeEnv;
use super::origin::{Origin, Reader, Text};
use super::{BAD_CONFIG, report};
use crate::agent::compat::drop_what_flume_drops;
use crate::agent::compile::compile;
use crate::client::fetch::Login;
use crate::client::zookeeper;
use crate::codec::date_pattern::{DatePattern, Dialect};
use crate::config::model::AgentConfig;
use crate::config::properties;
use crate::config::resolve::Lookups;
use crate::config::{Diagnostic, Globals, Severity};
use crate::config_filter::{self, World};
use crate::io::{EngineKind, machine, run_local};
use crate::registry;

/// Where a flow is, as the command line says it.
#[derive(clap::Args, Clone, Debug)]
pub struct FlowArgs {
    /// Name of the agent in the file
    #[arg(short = 'n', long = "name", value_name = "NAME")]
    pub name: String,
    /// The flow; several are merged in order, later ones win
    #[arg(short = 'f', long = "conf-file", value_name = "FILE", required_unless_present_any = ["uris", "zookeeper"])]
    files: Vec<PathBuf>,
    /// The flow as a URI (file:, classpath:, http:, https:); read before the files of -f
    #[arg(short = 'u', long = "conf-uri", value_name = "URI", value_parser = Origin::parse)]
    uris: Vec<Origin>,
    /// The flow is in ZooKeeper, in the node <base path>/<agent>
    #[arg(short = 'z', long = "zkConnString", value_name = "HOST:PORT,…", conflicts_with_all = ["files", "uris"], value_parser = zookeeper_servers)]
    zookeeper: Option<String>,
    /// Base path in ZooKeeper
    #[arg(short = 'p', long = "zkBasePath", value_name = "PATH", default_value = "/flume")]
    base_path: String,
    /// Flume's configuration directory; of its flume-env.sh the plain NAME=value lines count
    #[arg(short = 'c', long = "conf", value_name = "DIR")]
    pub conf: Option<PathBuf>,
    /// User for flows over HTTP (also -user)
    #[arg(long = "conf-user", value_name = "USER", requires = "password")]
    user: Option<String>,
    /// Password for flows over HTTP (also -pwd)
    #[arg(long = "conf-password", value_name = "PASSWORD", requires = "user")]
    password: Option<String>,
    /// A class of the Java program; flows are read by what -f, -u and -z say (also -prov)
    #[arg(long = "conf-provider", value_name = "CLASS")]
    provider: Option<String>,
    /// A class of the Java program; HTTP authentication is basic
    #[arg(short = 'a', long = "auth-provider", value_name = "CLASS")]
    auth: Option<String>,
    /// Start what Flume would start: leave out components that do not work, and say which
    #[arg(long)]
    pub compat: bool,
}

fn zookeeper_servers(text: &str) -> Result<String, String> {
    zookeeper::servers(text).map(|_| text.to_owned())
}

/// Where a flow is and what its values may refer to.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Name of the agent.
    pub name: String,
    /// Places in the order they are read.
    pub origins: Vec<Origin>,
    /// For places on HTTP servers.
    pub login: Option<Login>,
    /// Options that name Java classes other than Flume's own, which have no effect.
    pub ignored: Vec<String>,
    conf: Option<PathBuf>,
    compat: bool,
    variables: HashMap<String, String>,
    /// What `flume-env.sh` has that counts, and what does not, for the log; no values.
    pub env_summary: Option<(String, String)>,
    /// `-D` properties: those of `flume-env.sh`, then those of the command line, which win.
    pub system: Vec<(String, String)>,
}

impl FlowArgs {
    /// Adds what `flume-env.sh` and the command line set.
    pub fn flow(&self, properties: Vec<(String, String)>) -> Flow {
        let mut env = FlumeEnv::read(self.conf.as_deref());
        let env_summary = env.summary();
        env.properties.extend(properties);
        let origins = match &self.zookeeper {
            Some(servers) => {
                let path = format!("{}/{}", self.base_path.trim_end_matches('/'), self.name);
                vec![Origin::Node(servers.clone(), path)]
            }
            None => {
                let uris = self.uris.iter().map(|uri| match (uri, &self.conf) {
                    (Origin::ClassPath(path), Some(conf)) => Origin::ClassPath(conf.join(path)),
                    (other, _) => other.clone(),
                });
                uris.chain(self.files.iter().cloned().map(Origin::File)).collect()
            }
        };
        let classes = [("--conf-provider", &self.provider), ("--auth-provider", &self.auth)];
        let ignored = classes.into_iter().filter_map(|(option, class)| {
            let class = class.as_ref().filter(|c| !c.starts_with("org.apache.flume."))?;
            Some(format!("{option} {class}"))
        });
        let login = self.user.clone().zip(self.password.clone());
        Flow {
            name: self.name.clone(),
            origins,
            login: login.map(|(user, password)| Login { user, password }),
            ignored: ignored.collect(),
            conf: self.conf.clone(),
            compat: self.compat,
            variables: env.variables,
            env_summary,
            system: env.properties,
        }
    }
}

impl Flow {
    /// One file, without `flume-env.sh` and options.
    pub fn file(agent: &str, path: PathBuf) -> Self {
        Self {
            name: agent.to_owned(),
            origins: vec![Origin::File(path)],
            login: None,
            ignored: Vec::new(),
            conf: None,
            compat: false,
            variables: HashMap::new(),
            env_summary: None,
            system: Vec::new(),
        }
    }
    /// What its components fall back on.
    fn globals(&self) -> Globals {
        Globals::new(self.system.iter().cloned().collect(), self.variables.clone())
    }
    /// A reader of its places.
    pub fn reader(&self) -> Reader {
        Reader::new(&self.origins, self.login.clone(), self.globals())
    }
}

/// Substitutes and validates. `None` after a complaint.
pub fn load(flow: &Flow, texts: &[Text], diagnostics: &mut Vec<Diagnostic>) -> Option<AgentConfig> {
    let mut entries = Vec::new();
    for Text { shown, bytes } in texts {
        match properties::parse(shown, bytes) {
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
    let config = run_local(EngineKind::Portable, |io| async move {
        let now = jiff::Timestamp::from_second(io.unix_time().as_secs() as i64).unwrap_or_default();
        let now = now.to_zoned(machine::time_zone());
        let date =
            |pattern: &str| Some(DatePattern::new(pattern, Dialect::SimpleDateFormat).ok()?.format(&now));
        let lookups = Lookups { keys: &keys, env: &env, system: &system, date: &date };
        for entry in &mut entries {
            entry.value = lookups.resolve(&entry.value);
        }
        let mut config = AgentConfig::read(&flow.name, &entries, diagnostics)?;
        let world = World { io, env: &env, conf: flow.conf.as_deref() };
        config.set_globals(&flow.globals());
        let said = diagnostics.len();
        config_filter::apply(&mut config, registry::CONFIG_FILTERS, &world, diagnostics).await;
        if flow.compat {
            for diagnostic in &mut diagnostics[said..] {
                diagnostic.severity = Severity::Warning;
            }
            config = drop_what_flume_drops(config, diagnostics);
        }
        Some(config)
    });
    config.unwrap_or_else(|error| {
        tracing::error!(%error, "no runtime to read the flow on");
        None
    })
}

/// The command `check`.
pub fn check(args: &FlowArgs, properties: Vec<(String, String)>) -> ExitCode {
    let mut diagnostics = Vec::new();
    let flow = args.flow(properties);
    let plan = match flow.reader().texts() {
        Ok(texts) => {
            load(&flow, &texts, &mut diagnostics).and_then(|config| compile(&config, &mut diagnostics))
        }
        Err(problem) => {
            diagnostics.push(problem);
            None
        }
    };
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
