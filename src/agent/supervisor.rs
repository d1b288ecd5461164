//! Starts the shards, opens everything in Flume's order, reloads, and stops it all again.
//!
//! Runs on the control thread: signals, reload and metrics live here, events never pass through.
//! Flume: `org.apache.flume.node.Application`. Order at the start: channels, sinks, sources; at the stop:
//! sources, sinks (draining for a bounded time), channels.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use super::compile::compile;
use super::lane;
use super::monitor::Monitor;
use super::plan::Plan;
use super::reload::{Parts, keep_unchanged};
use super::shard::{Command, Order, Report, Seat, ShardState};
use super::{AgentError, Options};
use crate::component::{Claim, Shard};
use crate::config::model::AgentConfig;
use crate::config::{ComponentSettings, Diagnostic, Severity};
use crate::io::probe::choose;
use crate::io::stop::{self, Phase, StopHandle};
use crate::io::{self, EngineKind, Io, Lock, Transport, machine, pin_to_core, run_local, service};

/// Where new configurations come from while the agent runs.
pub struct Reload {
    /// Each is one to change to.
    pub configs: mpsc::UnboundedReceiver<AgentConfig>,
    /// Asks for the configuration to be read again at once, changed or not.
    pub wake: Box<dyn Fn()>,
}

/// Runs an agent until a signal stops it. Blocks the calling thread, which becomes the control thread.
/// Warnings about the configuration were said by whoever read it.
///
/// # Errors
/// See [`AgentError`]. What was opened before the failure is closed again.
pub fn run(config: AgentConfig, options: Options, reload: Reload) -> Result<(), AgentError> {
    let mut diagnostics = Vec::new();
    let plan = compile(&config, &mut diagnostics);
    let (Some(plan), false) = (plan, diagnostics.iter().any(|d| d.severity == Severity::Error)) else {
        return Err(AgentError::Config(diagnostics));
    };
    machine::keep_freed_memory();
    machine::allow_open_files();
    let (engine, why) = choose(options.engine);
    if let Some(why) = why {
        tracing::warn!("{why}");
    }
    let shards = options.shards.unwrap_or_else(machine::cores).max(1);
    run_local(EngineKind::Portable, |io| async move {
        let monitor = Monitor::start(&io, &options.system_properties).await?;
        let mut supervisor = Supervisor::start_shards(io, monitor, engine, shards, options.stop_timeout)?;
        let result = supervisor.live(Arc::new(plan), reload, &options).await;
        supervisor.quit().await;
        result
    })
    .map_err(|error| AgentError::Run(format!("the control thread's runtime does not start: {error}")))?
}

struct ShardHandle {
    orders: mpsc::UnboundedSender<Order>,
    thread: Option<thread::JoinHandle<()>>,
}

struct Supervisor {
    io: Io,
    shards: Vec<ShardHandle>,
    stop_timeout: Duration,
    now: StopHandle,
    monitor: Monitor,
    /// Ports this process has claimed.
    ports: HashMap<Claim, Box<dyn Lock>>,
}

impl Supervisor {
    fn start_shards(
        io: Io,
        monitor: Monitor,
        engine: EngineKind,
        count: usize,
        stop_timeout: Duration,
    ) -> Result<Self, AgentError> {
        let (now, now_view) = stop::channel();
        let cores = machine::cores();
        tracing::info!(
            shards = count,
            cores,
            %engine,
            "millrace {}: {} on engine {engine}",
            env!("CARGO_PKG_VERSION"),
            if count == 1 { "one shard".to_owned() } else { format!("{count} shards") },
        );
        let mut shards = Vec::with_capacity(count);
        for index in 0..count {
            let (orders, receiver) = mpsc::unbounded_channel();
            let now = now_view.clone();
            let thread = thread::Builder::new()
                .name(format!("shard-{index}"))
                .spawn(move || {
                    // More shards than cores: leave placement to the kernel.
                    if count <= cores
                        && count > 1
                        && let Err(error) = pin_to_core(index)
                    {
                        tracing::debug!(shard = index, %error, "not pinned to its core");
                    }
                    let shard = Shard { index, count };
                    let ended = run_local(engine, |io| ShardState::new(shard, io, now).run(receiver));
                    if let Err(error) = ended {
                        tracing::error!(shard = index, %error, "the shard's {engine} engine does not start; try --engine portable");
                    }
                })
                .map_err(|e| AgentError::Run(format!("cannot start the thread of shard {index}: {e}")))?;
            shards.push(ShardHandle { orders, thread: Some(thread) });
        }
        Ok(Self { io, shards, stop_timeout, now, monitor, ports: HashMap::new() })
    }

    /// Sends one command to every shard and waits for all answers.
    async fn all(&self, command: impl FnMut(usize) -> Command) -> Result<Report, AgentError> {
        let mut answers = Vec::new();
        let mut command = command;
        for (index, shard) in self.shards.iter().enumerate() {
            let (answer, receiver) = oneshot::channel();
            let sent = shard.orders.send((command(index), answer));
            sent.map_err(|_| AgentError::Run(format!("shard {index} has ended")))?;
            answers.push(receiver);
        }
        let mut report = Report::default();
        for (index, answer) in answers.into_iter().enumerate() {
            let part = answer.await.map_err(|_| AgentError::Run(format!("shard {index} has ended")))?;
            report.failed.extend(part.failed);
            report.opened.extend(part.opened);
        }
        // Every shard says the same of what runs on all of them.
        let mut seen = HashSet::new();
        report.opened.retain(|line| seen.insert(line.clone()));
        let mut seen = HashSet::new();
        report.failed.retain(|d| seen.insert(d.to_string()));
        Ok(report)
    }

    async fn live(
        &mut self,
        plan: Arc<Plan>,
        mut reload: Reload,
        options: &Options,
    ) -> Result<(), AgentError> {
        let unusable = |error| AgentError::Run(format!("cannot handle signals: {error}"));
        let mut terminate = signal(SignalKind::terminate()).map_err(unusable)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(unusable)?;
        let mut hangup = signal(SignalKind::hangup()).map_err(unusable)?;

        let all = Parts::all(&plan);
        if let Err(error) = self.open(&plan, &all).await {
            let _ = self.close(&plan, &all).await;
            return Err(error);
        }
        tracing::info!(agent = %plan.agent, "started");
        service::started(&format!("agent {} runs on {} shards", plan.agent, self.shards.len()));
        if let Some(every) = service::watch_interval() {
            let orders = self.shards.iter().map(|shard| shard.orders.clone()).collect();
            io::spawn(tell_alive(self.io.clone(), orders, every));
        }
        let mut plan = plan;
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => {
                    tracing::info!(agent = %plan.agent, "SIGHUP: reading the flow again");
                    (reload.wake)();
                }
                Some(config) = reload.configs.recv() => plan = self.change(plan, config).await?,
            }
        }
        service::stopping("sources stop, then sinks drain, then channels close");
        let limit = options.stop_timeout;
        tracing::info!(agent = %plan.agent, "stopping: sources, then sinks drain for at most {} s, then channels", limit.as_secs());
        let now = self.now.clone();
        let parts = Parts::all(&plan);
        let close = self.close(&plan, &parts);
        tokio::pin!(close);
        let forced = tokio::select! {
            closed = &mut close => { closed?; false }
            _ = terminate.recv() => true,
            _ = interrupt.recv() => true,
        };
        if forced {
            tracing::warn!(agent = %plan.agent, "second signal: stopping at once; what was acknowledged is safe");
            now.request(Phase::Now);
            close.await?;
        }
        tracing::info!(agent = %plan.agent, "stopped");
        Ok(())
    }

    /// Opens parts of a plan: ports claimed, then channels, sinks, sources.
    async fn open(&mut self, plan: &Arc<Plan>, parts: &Parts) -> Result<(), AgentError> {
        self.claim_ports(plan, parts).await?;
        let report = self.all(|_| Command::OpenChannels(plan.clone(), parts.channels.clone())).await?;
        self.opened(report)?;
        let mut seats = self.seats(plan, &parts.runners);
        let report =
            self.all(|shard| Command::OpenSinks(plan.clone(), std::mem::take(&mut seats[shard]))).await?;
        self.opened(report)?;
        let report = self.all(|_| Command::OpenSources(plan.clone(), parts.sources.clone())).await?;
        self.opened(report)?;
        self.monitor.opened(plan, parts);
        Ok(())
    }

    fn opened(&self, report: Report) -> Result<(), AgentError> {
        if !report.failed.is_empty() {
            return Err(AgentError::Open(report.failed));
        }
        for (subject, what) in report.opened {
            tracing::info!("{subject}: {what}");
        }
        Ok(())
    }

    /// Claims the TCP and UDP ports of sources, so that a second process on one is refused although the
    /// shards of this one share it.
    async fn claim_ports(&mut self, plan: &Plan, parts: &Parts) -> Result<(), AgentError> {
        let mut failed = Vec::new();
        for source in parts.sources.iter().map(|index| &plan.sources[*index]) {
            for claim in source.config.claims() {
                let (host, port, transport) = match &claim {
                    Claim::Tcp(host, port) => (host, *port, Transport::Tcp),
                    Claim::Udp(host, port) => (host, *port, Transport::Udp),
                    Claim::Path(_) => continue,
                };
                if port == 0 || self.ports.contains_key(&claim) {
                    continue;
                }
                let address = match self.io.resolve(host, port).await {
                    Ok(addresses) if !addresses.is_empty() => addresses[0],
                    // The source says what is wrong with the host name when it opens.
                    _ => continue,
                };
                match self.io.claim_port(address, transport) {
                    Ok(lock) => {
                        self.ports.insert(claim, lock);
                    }
                    Err(error) => {
                        failed.push(port_complaint(&source.settings, port, address, transport, &error))
                    }
                }
            }
        }
        if failed.is_empty() { Ok(()) } else { Err(AgentError::Open(failed)) }
    }

    /// Who hosts which lane and who feeds it.
    fn seats(&self, plan: &Plan, runners: &[usize]) -> Vec<Vec<Seat>> {
        let shards = self.shards.len();
        let mut seats: Vec<Vec<Seat>> = (0..shards).map(|_| Vec::new()).collect();
        for &runner in runners {
            let channels = plan.runners[runner].channels();
            for lane in 0..plan.runners[runner].lane_count(shards) {
                let home = plan.lane_home(runner, lane, shards);
                let mut others = Vec::new();
                let mut own = false;
                for (shard, seats) in seats.iter_mut().enumerate() {
                    if !plan.lane_of_shard(runner, shard, shards).contains(&lane) {
                        continue;
                    }
                    if shard == home {
                        own = true;
                        continue;
                    }
                    for &channel in &channels {
                        let (sender, receiver) = lane::handover();
                        seats.push(Seat::Feed { runner, channel, lane: sender });
                        others.push((channel, receiver));
                    }
                }
                seats[home].push(Seat::Host { runner, lane, own, others });
            }
        }
        seats
    }

    /// Stops parts of a plan: sources, sinks, channels; gives their ports back.
    async fn close(&mut self, plan: &Arc<Plan>, parts: &Parts) -> Result<(), AgentError> {
        let limit = self.stop_timeout;
        let names: Vec<_> = parts.sources.iter().map(|s| plan.sources[*s].name.clone()).collect();
        self.all(|_| Command::StopSources(names.clone(), limit)).await?;
        for source in parts.sources.iter().map(|s| &plan.sources[*s]) {
            for claim in source.config.claims() {
                self.ports.remove(&claim);
            }
        }
        let names: Vec<_> = parts.runners.iter().map(|r| plan.runners[*r].name.clone()).collect();
        self.all(|_| Command::StopSinks(names.clone(), limit)).await?;
        let names: Vec<_> = parts.channels.iter().map(|c| plan.channels[*c].name.clone()).collect();
        self.all(|_| Command::CloseChannels(names.clone())).await?;
        self.monitor.closed(plan, parts);
        Ok(())
    }

    /// Changes to a new configuration: only what changed, or is connected to a channel that changed, is
    /// stopped and started; other channels keep their events. A bad configuration leaves the old flow.
    async fn change(&mut self, old: Arc<Plan>, config: AgentConfig) -> Result<Arc<Plan>, AgentError> {
        let mut diagnostics = Vec::new();
        let new = compile(&config, &mut diagnostics);
        for diagnostic in &diagnostics {
            tracing::warn!("{diagnostic}");
        }
        let (Some(mut new), false) = (new, diagnostics.iter().any(|d| d.severity == Severity::Error)) else {
            tracing::error!(agent = %old.agent, "the new configuration is not usable; the old flow goes on");
            return Ok(old);
        };
        let kept = keep_unchanged(&old, &mut new);
        let new = Arc::new(new);
        let gone = kept.rest_of(&old);
        let fresh = kept.rest_of(&new);
        tracing::info!(
            agent = %new.agent,
            "configuration changed: {} components stop, {} start, the others go on",
            gone.len(),
            fresh.len(),
        );
        self.close(&old, &gone).await?;
        match self.open(&new, &fresh).await {
            Ok(()) => {
                self.monitor.removed(&old, &new);
                Ok(new)
            }
            Err(AgentError::Open(failed)) => {
                for diagnostic in failed {
                    tracing::error!("{diagnostic}");
                }
                tracing::error!(agent = %old.agent, "the new configuration cannot be opened; going back to the old one");
                self.close(&new, &fresh).await?;
                self.open(&old, &gone).await?;
                Ok(old)
            }
            Err(error) => Err(error),
        }
    }

    async fn quit(&mut self) {
        for shard in &self.shards {
            let _ = shard.orders.send((Command::Quit, oneshot::channel().0));
        }
        for thread in self.shards.iter_mut().filter_map(|s| s.thread.take()) {
            if thread.join().is_err() {
                tracing::error!("a shard ended with a panic; please report it");
            }
        }
    }
}

/// Tells the service manager that the agent is alive each time every shard has answered.
async fn tell_alive(io: Io, shards: Vec<mpsc::UnboundedSender<Order>>, every: Duration) {
    loop {
        io.sleep(every).await;
        for shard in &shards {
            let (answer, answered) = oneshot::channel();
            // A shard that has ended, or that never answers, leaves the decision to the service manager.
            if shard.send((Command::Ping, answer)).is_err() || answered.await.is_err() {
                return;
            }
        }
        service::alive();
    }
}

fn port_complaint(
    settings: &ComponentSettings,
    port: u16,
    address: std::net::SocketAddr,
    transport: Transport,
    error: &std::io::Error,
) -> Diagnostic {
    let (protocol, option) = match transport {
        Transport::Tcp => ("TCP", "-ltnp"),
        Transport::Udp => ("UDP", "-lunp"),
    };
    // Of several ports the list is at fault.
    let written = ["port", "ports"].into_iter().find(|key| settings.settings.contains_key(*key));
    let key = written.map_or_else(|| settings.subject(), |key| settings.full_key(key));
    let message = match error.kind() {
        std::io::ErrorKind::AddrInUse => format!("{protocol} port {port} on {} is in use", address.ip()),
        std::io::ErrorKind::AddrNotAvailable => format!("{} is not an address of this machine", address.ip()),
        std::io::ErrorKind::PermissionDenied => format!("no permission to listen on {protocol} port {port}"),
        _ => format!("cannot listen on {protocol} {address}: {error}"),
    };
    let hint = match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            format!(
                "see who has it: ss {option} 'sport = :{port}' ; stop that program or choose another port"
            )
        }
        std::io::ErrorKind::PermissionDenied => {
            "use a port above 1023, or give the program CAP_NET_BIND_SERVICE".to_owned()
        }
        _ => "check bind and port".to_owned(),
    };
    let setting = written.and_then(|key| settings.settings.get(key));
    let location = setting.map(|s| s.location.clone()).or_else(|| settings.listed.clone());
    Diagnostic::error(key, message).value(port.to_string()).at(location).hint(hint)
}
