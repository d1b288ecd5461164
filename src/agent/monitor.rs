//! Monitoring of a running agent: the list of components, and what `flume.monitoring.*` asks for.
//!
//! Flume: `org.apache.flume.node.Application.loadMonitoring`. Runs on the control thread.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::AgentError;
use super::plan::Plan;
use super::reload::Parts;
use crate::config::Diagnostic;
use crate::io::stop::StopHandle;
use crate::io::{self, Io};
use crate::metrics::directory::{Directory, Group};
use crate::metrics::ganglia::Version;
use crate::metrics::server::{GangliaOptions, PORT_DEFAULT, Server, run_ganglia};

/// Flume's default of `flume.monitoring.pollFrequency`.
const POLL_DEFAULT: Duration = Duration::from_secs(60);

/// The components' counters, and the task that shows them.
pub struct Monitor {
    io: Io,
    directory: Arc<Directory>,
    stop: StopHandle,
}

impl Monitor {
    /// Starts what the `-D` properties ask for.
    ///
    /// # Errors
    /// A monitoring port that is taken, or a value that cannot be read.
    pub async fn start(io: &Io, properties: &[(String, String)]) -> Result<Self, AgentError> {
        let get = |key: &str| {
            let key = format!("flume.monitoring.{key}");
            properties.iter().rev().find(|(k, _)| *k == key).map(|(_, v)| v.as_str())
        };
        let (stop, view) = io::stop::channel();
        let monitor = Self { io: io.clone(), directory: Arc::default(), stop };
        match get("type") {
            None => {}
            Some(kind) if kind.eq_ignore_ascii_case("http") => {
                let port: u16 = number("port", get("port"), PORT_DEFAULT)?;
                let address = SocketAddr::from(([0, 0, 0, 0], port));
                let server = Server::bind(io, address, monitor.directory.clone()).map_err(|error| {
                    complain(
                        "port",
                        &port.to_string(),
                        format!("cannot serve /metrics there: {error}"),
                        "choose another port: -Dflume.monitoring.port=41415",
                    )
                })?;
                let shown = server.local_addr().unwrap_or(address);
                tracing::info!(
                    "monitoring: http://{shown}/metrics (JSON), http://{shown}/metrics/prometheus"
                );
                io::spawn(server.run(view));
            }
            Some(kind) if kind.eq_ignore_ascii_case("ganglia") => {
                let text = get("hosts").unwrap_or_default();
                let mut hosts = Vec::new();
                for host in text.split(',').map(str::trim).filter(|h| !h.is_empty()) {
                    hosts.push(resolve(io, host).await?);
                }
                if hosts.is_empty() {
                    return Err(complain(
                        "hosts",
                        text,
                        "names no host".to_owned(),
                        "-Dflume.monitoring.hosts=gmond.example.org:8649",
                    ));
                }
                let seconds = number("pollFrequency", get("pollFrequency"), POLL_DEFAULT.as_secs())?;
                let old = get("isGanglia3").is_some_and(|v| v.eq_ignore_ascii_case("true"));
                let options = GangliaOptions {
                    hosts,
                    every: Duration::from_secs(seconds.max(1)),
                    version: if old { Version::V30 } else { Version::V31 },
                    host_name: io::machine::host_name(),
                };
                tracing::info!("monitoring: Ganglia at {text} every {seconds} s");
                io::spawn(run_ganglia(io.clone(), options, monitor.directory.clone(), view));
            }
            Some(kind) => {
                return Err(complain(
                    "type",
                    kind,
                    "is not a kind of monitoring this program has".to_owned(),
                    "use http or ganglia",
                ));
            }
        }
        Ok(monitor)
    }

    /// Parts of a plan start.
    pub fn opened(&self, plan: &Plan, parts: &Parts) {
        let now = self.io.unix_time();
        for channel in parts.channels.iter().map(|i| &plan.channels[*i]) {
            self.directory.register_channel(&channel.name, channel.counters.clone(), now);
        }
        for sink in parts.runners.iter().flat_map(|i| &plan.runners[*i].sinks) {
            self.directory.register_sink(&sink.name, sink.counters.clone(), now);
        }
        for source in parts.sources.iter().map(|i| &plan.sources[*i]) {
            self.directory.register_source(&source.name, source.counters.clone(), now);
        }
    }

    /// Parts of a plan have stopped.
    pub fn closed(&self, plan: &Plan, parts: &Parts) {
        let now = self.io.unix_time();
        for source in &parts.sources {
            self.directory.stopped(Group::Source, &plan.sources[*source].name, now);
        }
        for sink in parts.runners.iter().flat_map(|i| &plan.runners[*i].sinks) {
            self.directory.stopped(Group::Sink, &sink.name, now);
        }
        for channel in &parts.channels {
            self.directory.stopped(Group::Channel, &plan.channels[*channel].name, now);
        }
    }

    /// A reload took these components out of the flow.
    pub fn removed(&self, old: &Plan, new: &Plan) {
        for source in old.sources.iter().filter(|s| !new.sources.iter().any(|n| n.name == s.name)) {
            self.directory.remove(Group::Source, &source.name);
        }
        let sinks = |plan: &Plan| -> Vec<Arc<str>> {
            plan.runners.iter().flat_map(|r| &r.sinks).map(|s| s.name.clone()).collect()
        };
        let still = sinks(new);
        for sink in sinks(old).iter().filter(|s| !still.contains(s)) {
            self.directory.remove(Group::Sink, sink);
        }
        for channel in old.channels.iter().filter(|c| !new.channels.iter().any(|n| n.name == c.name)) {
            self.directory.remove(Group::Channel, &channel.name);
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.stop.request(io::stop::Phase::Now);
    }
}

fn number<N: std::str::FromStr>(key: &str, text: Option<&str>, default: N) -> Result<N, AgentError> {
    let Some(text) = text else { return Ok(default) };
    text.trim().parse().map_err(|_| {
        complain(
            key,
            text,
            "is not a number that fits".to_owned(),
            "for example: -Dflume.monitoring.port=41414",
        )
    })
}

async fn resolve(io: &Io, host: &str) -> Result<SocketAddr, AgentError> {
    let bad = |why: String| complain("hosts", host, why, "write host:port, separated by commas");
    let (name, port) = host.rsplit_once(':').ok_or_else(|| bad("has no port".to_owned()))?;
    let port = port.parse().map_err(|_| bad("has no port number behind the colon".to_owned()))?;
    let found = io.resolve(name, port).await.map_err(|e| bad(format!("cannot be found: {e}")))?;
    found.first().copied().ok_or_else(|| bad("has no address".to_owned()))
}

fn complain(key: &str, value: &str, message: String, hint: &str) -> AgentError {
    AgentError::Open(vec![
        Diagnostic::error(format!("-Dflume.monitoring.{key}"), message).value(value).hint(hint),
    ])
}
