//! Watches the flow's places and hands a changed flow to the running agent.
//!
//! Flume: `UriConfigurationProvider`, `PollingPropertiesFileConfigurationProvider`,
//! `PollingZooKeeperConfigurationProvider`. A flow that does not read is reported and the running one goes on; so
//! it is when it does not compile or open, and when its ZooKeeper node is emptied or removed, where Flume stops
//! everything.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;

use super::load::{self, Flow};
use super::origin::{self, RETRY_PAUSE, Reader, Text};
use crate::agent::{Reload, compile::compile};
use crate::client::zookeeper::Session;
use crate::config::Severity;
use crate::config::model::AgentConfig;
use crate::io::{EngineKind, run_local};

/// What the watching thread holds.
pub struct Watcher {
    /// Where the flow is.
    pub flow: Flow,
    /// Its places, as they were read.
    pub reader: Reader,
    /// What was read, to tell a real change of a node.
    pub texts: Vec<Text>,
    /// Where a good flow is kept.
    pub backup: Option<PathBuf>,
}

impl Watcher {
    /// Starts looking: at files and pages every `interval` if there is one and whenever woken, at a ZooKeeper
    /// node by a watch. The thread ends with the agent. At most one flow per change waits in the channel.
    pub fn start(self, interval: Option<Duration>) -> Reload {
        let (sender, configs) = mpsc::unbounded_channel();
        let (wake, woken) = channel();
        let thread =
            thread::Builder::new().name("reload".to_owned()).spawn(move || match self.reader.node() {
                Some(_) if interval.is_none() => {}
                Some((servers, path)) => {
                    let (servers, path) = (servers.to_owned(), path.to_owned());
                    drop(woken);
                    self.follow(&servers, &path, &sender);
                }
                None => self.poll(interval, &woken, &sender),
            });
        if let Err(error) = thread {
            tracing::error!(%error, "changes of the flow will not be seen: no thread to watch it");
        }
        let wake = Box::new(move || {
            if wake.send(()).is_err() {
                tracing::warn!("a flow in ZooKeeper is followed by a watch, not by SIGHUP");
            }
        });
        Reload { configs, wake }
    }

    fn poll(
        mut self,
        interval: Option<Duration>,
        woken: &Receiver<()>,
        sender: &mpsc::UnboundedSender<AgentConfig>,
    ) {
        while !sender.is_closed() {
            let is_asked = match interval {
                Some(interval) => woken.recv_timeout(interval),
                None => woken.recv().map_err(RecvTimeoutError::from),
            };
            match is_asked {
                Ok(()) => {
                    self.reader.changed();
                }
                Err(RecvTimeoutError::Timeout) if self.reader.changed() => {}
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            }
            match self.reader.texts() {
                Ok(texts) => self.hand_over(&texts, sender),
                Err(problem) => {
                    tracing::error!("{problem}");
                    tracing::error!("the changed flow is not usable; the old flow goes on");
                }
            }
        }
    }

    fn follow(mut self, servers: &str, path: &str, sender: &mpsc::UnboundedSender<AgentConfig>) {
        let ended = run_local(EngineKind::Portable, |io| async move {
            let mut is_lost = false;
            while !sender.is_closed() {
                let lost = async {
                    let mut session = Session::connect(&io, servers).await?;
                    if std::mem::take(&mut is_lost) {
                        tracing::info!("-z {servers}: connected again");
                    }
                    loop {
                        self.node_is(session.read(path, true).await?, sender);
                        tokio::select! {
                            changed = session.changed() => changed?,
                            () = sender.closed() => {
                                session.close().await;
                                return Ok(());
                            }
                        }
                    }
                };
                let lost: std::io::Result<()> = lost.await;
                let Err(error) = lost else { return };
                if !std::mem::replace(&mut is_lost, true) {
                    tracing::warn!("-z {servers}: {error}; the running flow goes on, trying again");
                }
                io.sleep(RETRY_PAUSE).await;
            }
        });
        if let Err(error) = ended {
            tracing::error!(%error, "changes of the flow will not be seen: no runtime to watch it on");
        }
    }

    /// Takes over what a node holds, if it is something else than before.
    fn node_is(&mut self, content: Option<Vec<u8>>, sender: &mpsc::UnboundedSender<AgentConfig>) {
        let before = self.texts.first().map(|t| t.bytes.as_slice()).unwrap_or_default();
        let now = content.as_deref().unwrap_or_default();
        if now == before {
            return;
        }
        let shown = self.flow.origins.first().map(ToString::to_string).unwrap_or_default();
        let is_empty = now.is_empty();
        self.texts = vec![Text { shown: shown.clone(), bytes: now.to_vec() }];
        if is_empty {
            tracing::error!("{shown}: the node is empty or was removed; the old flow goes on");
            return;
        }
        let texts = self.texts.clone();
        // Loading has a runtime of its own.
        thread::scope(|scope| {
            let _ = scope.spawn(|| self.hand_over(&texts, sender)).join();
        });
    }

    fn hand_over(&self, texts: &[Text], sender: &mpsc::UnboundedSender<AgentConfig>) {
        let mut diagnostics = Vec::new();
        let config = load::load(&self.flow, texts, &mut diagnostics);
        for diagnostic in &diagnostics {
            match diagnostic.severity {
                Severity::Error => tracing::error!("{diagnostic}"),
                Severity::Warning => tracing::warn!("{diagnostic}"),
            }
        }
        let Some(config) = config.filter(|_| !load::has_errors(&diagnostics)) else {
            tracing::error!("the changed flow is not usable; the old flow goes on");
            return;
        };
        let mut further = Vec::new();
        if compile(&config, &mut further).is_some() && !load::has_errors(&further) {
            keep(self.backup.as_deref(), &self.flow.name, texts);
        }
        let _ = sender.send(config);
    }
}

/// Keeps a good flow where `-b` says.
pub fn keep(directory: Option<&std::path::Path>, agent: &str, texts: &[Text]) {
    let Some(directory) = directory else { return };
    if let Err(error) = origin::keep(directory, agent, texts) {
        tracing::error!("--backup-directory {}: the flow cannot be kept there: {error}", directory.display());
    }
}
