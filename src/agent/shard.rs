//! One core and all it owns: channels, sinks and sources of every component that runs here.
//!
//! A shard does what the supervisor commands, one command at a time: open channels, sinks, sources; stop
//! them again. Starting is opening everything, stopping is stopping everything, a reload is a bit of both.
//! Between commands the components' own tasks work.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::lane::{self, Handed, LaneChannel};
use super::plan::{Plan, PlannedSource};
use super::runner::Runner;
use crate::channel::{Channel, ChannelContext};
use crate::channel_processor::ChannelProcessor;
use crate::component::{OpenError, Shard};
use crate::config::model::SECRET_CHARS_MIN;
use crate::config::{ComponentSettings, Diagnostic};
use crate::io::stop::{Phase, Stop, StopHandle};
use crate::io::{self, Io};
use crate::sink::SinkContext;
use crate::sink_processor::NamedSink;
use crate::source::SourceContext;

/// Flume's supervisor looks at every component this often and starts again what has ended.
const RESTART_PAUSE: Duration = Duration::from_secs(3);

/// What a shard has to do for one lane of a runner.
pub enum Seat {
    /// The lane lives here.
    Host {
        /// Index of the runner in the plan.
        runner: usize,
        /// Index of the lane.
        lane: usize,
        /// The shard's own channels feed it too.
        own: bool,
        /// Other shards' batches: channel index in the plan, and the receiving end.
        others: Vec<(usize, mpsc::Receiver<Handed>)>,
    },
    /// The lane lives elsewhere and takes from a channel here.
    Feed {
        /// Index of the runner in the plan.
        runner: usize,
        /// Index of the channel in the plan.
        channel: usize,
        /// The sending end.
        lane: mpsc::Sender<Handed>,
    },
}

/// What the supervisor asks for. Indices are into the plan given with the command.
pub enum Command {
    /// Open these channels.
    OpenChannels(Arc<Plan>, Vec<usize>),
    /// Open the sinks of these lanes and run them.
    OpenSinks(Arc<Plan>, Vec<Seat>),
    /// Open these sources and run them.
    OpenSources(Arc<Plan>, Vec<usize>),
    /// Stop these sources, by name, within the time.
    StopSources(Vec<Arc<str>>, Duration),
    /// Let these sinks or groups, by name, drain their channels for at most this long, and stop them.
    StopSinks(Vec<Arc<str>>, Duration),
    /// Close these channels, by name.
    CloseChannels(Vec<Arc<str>>),
    /// Answer: the shard still works.
    Ping,
    /// Drop everything and end the thread.
    Quit,
}

/// Answer to a command: what could not be opened, and report lines of what could.
#[derive(Debug, Default)]
pub struct Report {
    /// One complaint per component that failed.
    pub failed: Vec<Diagnostic>,
    /// Component and what it does, for the log.
    pub opened: Vec<(String, String)>,
}

/// A command with the place for its answer.
pub type Order = (Command, oneshot::Sender<Report>);

struct Running {
    stop: StopHandle,
    tasks: Vec<JoinHandle<()>>,
}

/// State of one shard.
pub struct ShardState {
    shard: Shard,
    io: Io,
    /// Reaches [`Phase::Now`] at the second signal.
    now: Stop,
    channels: HashMap<Arc<str>, Rc<dyn Channel>>,
    sources: HashMap<Arc<str>, Running>,
    sinks: HashMap<Arc<str>, Running>,
}

impl ShardState {
    /// A shard without components.
    pub fn new(shard: Shard, io: Io, now: Stop) -> Self {
        Self { shard, io, now, channels: HashMap::new(), sources: HashMap::new(), sinks: HashMap::new() }
    }

    /// Obeys until told to quit or the supervisor is gone.
    pub async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        while let Some((command, answer)) = orders.recv().await {
            let report = match command {
                Command::OpenChannels(plan, channels) => self.open_channels(&plan, channels).await,
                Command::OpenSinks(plan, seats) => self.open_sinks(&plan, seats).await,
                Command::OpenSources(plan, sources) => self.open_sources(&plan, sources).await,
                Command::StopSources(names, limit) => {
                    stop(&mut self.sources, &names, limit, Duration::ZERO, &self.now, &self.io).await
                }
                Command::StopSinks(names, limit) => {
                    // The runner itself honours the limit while draining; some more for closing files.
                    let grace = limit.max(Duration::from_secs(1));
                    stop(&mut self.sinks, &names, limit, grace, &self.now, &self.io).await
                }
                Command::CloseChannels(names) => {
                    for name in names {
                        if let Some(channel) = self.channels.remove(&name) {
                            channel.close().await;
                        }
                    }
                    Report::default()
                }
                Command::Ping => Report::default(),
                Command::Quit => return,
            };
            let _ = answer.send(report);
        }
    }

    async fn open_channels(&mut self, plan: &Plan, channels: Vec<usize>) -> Report {
        let mut report = Report::default();
        for planned in channels.into_iter().map(|index| &plan.channels[index]) {
            let cx = ChannelContext {
                name: planned.name.clone(),
                agent: plan.agent.clone(),
                shard: self.shard,
                io: self.io.clone(),
                counters: planned.counters.clone(),
            };
            match planned.config.clone().open(cx).await {
                Ok(channel) => {
                    report.opened.push((planned.settings.subject(), planned.config.durability()));
                    self.channels.insert(planned.name.clone(), channel);
                }
                Err(error) => report.failed.push(complaint(&planned.settings, error)),
            }
        }
        report
    }

    async fn open_sinks(&mut self, plan: &Plan, seats: Vec<Seat>) -> Report {
        let mut report = Report::default();
        for seat in seats {
            match seat {
                Seat::Host { runner, lane, own, others } => {
                    self.host(plan, runner, lane, own, others, &mut report).await;
                }
                Seat::Feed { runner, channel, lane } => {
                    let channel = &plan.channels[channel].name;
                    let Some(channel) = self.channels.get(channel).cloned() else { continue };
                    let (running, stop) = running(&mut self.sinks, &plan.runners[runner].name);
                    // Ends when the lane does: the lane closes its receiver once it has drained.
                    running.tasks.push(io::spawn(lane::feed(channel, lane, stop)));
                }
            }
        }
        report
    }

    async fn host(
        &mut self,
        plan: &Plan,
        runner: usize,
        lane: usize,
        own: bool,
        others: Vec<(usize, mpsc::Receiver<Handed>)>,
        report: &mut Report,
    ) {
        let planned = &plan.runners[runner];
        let mut others: HashMap<usize, Vec<mpsc::Receiver<Handed>>> =
            others.into_iter().fold(HashMap::new(), |mut map, (channel, receiver)| {
                map.entry(channel).or_default().push(receiver);
                map
            });
        let mut views: HashMap<usize, Rc<dyn Channel>> = HashMap::new();
        for index in planned.channels() {
            let channel = &plan.channels[index];
            let own = own.then(|| self.channels.get(&channel.name).cloned()).flatten();
            let others = others.remove(&index).unwrap_or_default();
            let view = LaneChannel::view(&channel.name, channel.config.transaction_capacity(), own, others);
            views.insert(index, view);
        }
        let lanes = planned.lane_count(self.shard.count);
        let mut sinks = Vec::new();
        for sink in &planned.sinks {
            let cx = SinkContext {
                name: sink.name.clone(),
                agent: plan.agent.clone(),
                lane,
                lanes,
                io: self.io.clone(),
                channel: views[&sink.channel].clone(),
                counters: sink.counters.clone(),
            };
            match sink.config.clone().open(cx).await {
                Ok(opened) => {
                    let lanes =
                        if lanes == 1 { String::new() } else { format!(" (lane {} of {lanes})", lane + 1) };
                    report.opened.push((sink.settings.subject(), format!("{}{lanes}", opened.describe())));
                    sinks.push(NamedSink { name: sink.name.clone(), sink: opened });
                }
                Err(error) => report.failed.push(complaint(&sink.settings, error)),
            }
        }
        if sinks.len() != planned.sinks.len() {
            return;
        }
        let task = Runner {
            name: planned.name.to_string(),
            processor: planned.processor.build(self.io.clone(), sinks),
            channels: views.into_values().collect(),
            io: self.io.clone(),
        };
        let (running, stop) = running(&mut self.sinks, &planned.name);
        running.tasks.push(io::spawn(task.run(stop)));
    }

    async fn open_sources(&mut self, plan: &Arc<Plan>, sources: Vec<usize>) -> Report {
        let mut report = Report::default();
        for index in sources {
            let planned = &plan.sources[index];
            if !planned.runs_on(self.shard.index, self.shard.count) {
                continue;
            }
            let channels: Vec<Rc<dyn Channel>> = planned
                .channels
                .iter()
                .filter_map(|c| self.channels.get(&plan.channels[*c].name).cloned())
                .collect();
            if channels.len() != planned.channels.len() {
                continue; // a channel failed to open and was complained about
            }
            let open = {
                let (plan, io, shard) = (plan.clone(), self.io.clone(), self.shard);
                move || {
                    let (plan, io, channels) = (plan.clone(), io.clone(), channels.clone());
                    async move {
                        let planned = &plan.sources[index];
                        let cx = source_context(planned, &plan.agent, shard, &io, channels).await?;
                        planned.config.clone().open(cx).await
                    }
                }
            };
            match open().await {
                Ok(source) => {
                    report.opened.push((planned.settings.subject(), source.describe()));
                    let (running, stop) = running(&mut self.sources, &planned.name);
                    let (io, settings) = (self.io.clone(), planned.settings.clone());
                    running.tasks.push(io::spawn(async move {
                        let mut next = Some(source);
                        while !stop.is_requested() {
                            let source = match next.take() {
                                Some(source) => source,
                                None => match open().await {
                                    Ok(source) => source,
                                    Err(error) => {
                                        tracing::error!("{}", complaint(&settings, error));
                                        stop.or(io.sleep(RESTART_PAUSE)).await;
                                        continue;
                                    }
                                },
                            };
                            match source.run(stop.clone()).await {
                                Ok(()) => return,
                                Err(error) => {
                                    let pause = RESTART_PAUSE.as_secs();
                                    tracing::error!(source = settings.subject(), %error, "source ended; starting it again in {pause} s");
                                    stop.or(io.sleep(RESTART_PAUSE)).await;
                                }
                            }
                        }
                    }));
                }
                Err(error) => report.failed.push(complaint(&planned.settings, error)),
            }
        }
        report
    }
}

async fn source_context(
    planned: &PlannedSource,
    agent: &Arc<str>,
    shard: Shard,
    io: &Io,
    channels: Vec<Rc<dyn Channel>>,
) -> Result<SourceContext, OpenError> {
    let mut interceptors = Vec::with_capacity(planned.interceptors.len());
    for interceptor in &planned.interceptors {
        interceptors.push(interceptor.clone().open(io.clone()).await?);
    }
    Ok(SourceContext {
        name: planned.name.clone(),
        agent: agent.clone(),
        shard,
        io: io.clone(),
        channels: Rc::new(ChannelProcessor::new(interceptors, planned.selector.build(io), channels)),
        counters: planned.counters.clone(),
    })
}

/// The entry of a component that is about to run, made if this is its first task here.
fn running<'a>(map: &'a mut HashMap<Arc<str>, Running>, name: &Arc<str>) -> (&'a mut Running, Stop) {
    let running = map.entry(name.clone()).or_insert_with(|| {
        let (stop, _) = io::stop::channel();
        Running { stop, tasks: Vec::new() }
    });
    let stop = running.stop.subscribe();
    (running, stop)
}

/// Asks the components to stop within `limit` and waits for their tasks, at most that and `grace`, and not
/// beyond a second signal.
async fn stop(
    map: &mut HashMap<Arc<str>, Running>,
    names: &[Arc<str>],
    limit: Duration,
    grace: Duration,
    now: &Stop,
    io: &Io,
) -> Report {
    let stopping: Vec<(Arc<str>, Running)> = names.iter().filter_map(|name| map.remove_entry(name)).collect();
    for (_, running) in &stopping {
        running.stop.request_within(limit);
    }
    let deadline = io.now() + limit + grace;
    for (name, running) in stopping {
        for mut task in running.tasks {
            let left = deadline.saturating_sub(io.now());
            let finished = tokio::select! {
                biased;
                _ = &mut task => true,
                () = now.reached(Phase::Now) => false,
                () = io.sleep(left) => false,
            };
            if !finished {
                running.stop.request(Phase::Now);
                tracing::warn!(component = %name, "did not stop in time; what it has not acknowledged stays where it is");
                task.abort();
            }
        }
    }
    Report::default()
}

fn complaint(settings: &ComponentSettings, error: OpenError) -> Diagnostic {
    let setting = settings.settings.get(error.property);
    let subject =
        if error.property.is_empty() { settings.subject() } else { settings.full_key(error.property) };
    let secrets = || settings.settings.values().filter(|s| s.is_secret && s.value.len() >= SECRET_CHARS_MIN);
    // A library's message, say, may repeat the value it was given.
    let hidden =
        |text: String| secrets().fold(text, |text, secret| text.replace(&secret.value, secret.shown()));
    let mut diagnostic = Diagnostic::error(subject, hidden(error.message));
    diagnostic.value = (!error.value.is_empty()).then(|| hidden(error.value));
    diagnostic.location = setting.map(|s| s.location.clone()).or_else(|| settings.listed.clone());
    diagnostic.hint = error.hint.map(hidden);
    diagnostic
}
