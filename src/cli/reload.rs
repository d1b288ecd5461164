//! Watches the flow's files and hands a changed flow to the running agent.
//!
//! Flume: `UriConfigurationProvider`, `PollingPropertiesFileConfigurationProvider`. A flow that does not read
//! is reported and the running one goes on; so it is when it does not compile or open.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;

use super::load;
use crate::agent::Reload;
use crate::config::Severity;

/// When a file was changed, and how long it is; `None` while it is not there.
type Seen = Vec<Option<(SystemTime, u64)>>;

/// How the files look now. Taken before they are read, so that no change falls between.
pub fn look(files: &[PathBuf]) -> Seen {
    let one = |file: &PathBuf| {
        let metadata = std::fs::metadata(file).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    files.iter().map(one).collect()
}

/// Starts looking at the files every `interval`. The thread ends with the agent. At most one flow an
/// interval waits in the channel.
pub fn watch(flow: load::Flow, mut seen: Seen, interval: Duration) -> Reload {
    let (sender, receiver) = mpsc::unbounded_channel();
    let thread = thread::Builder::new().name("reload".to_owned()).spawn(move || {
        while !sender.is_closed() {
            thread::sleep(interval);
            let now = look(&flow.files);
            if now == seen {
                continue;
            }
            seen = now;
            let mut diagnostics = Vec::new();
            let config = load::load(&flow, &mut diagnostics);
            for diagnostic in &diagnostics {
                match diagnostic.severity {
                    Severity::Error => tracing::error!("{diagnostic}"),
                    Severity::Warning => tracing::warn!("{diagnostic}"),
                }
            }
            match config.filter(|_| !load::has_errors(&diagnostics)) {
                Some(config) => {
                    let _ = sender.send(config);
                }
                None => tracing::error!("the changed flow is not usable; the old flow goes on"),
            }
        }
    });
    if let Err(error) = thread {
        tracing::error!(%error, "changes of the flow will not be seen: no thread to watch it");
    }
    receiver
}
