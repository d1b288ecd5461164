//! Completes files beside the lane: close, rename; after a failure or a crash lease recovery first.
//!
//! Flume: `BucketWriter.close`, `doRenameBucket`. Here an existing file is never overwritten, a failed close is
//! followed by lease recovery and never by a second close, and tries are 0.2 to 5 s apart.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::journal::{Entry, Journal};
use crate::client::hdfs::{FileSystem, FileWriter, FsErrorKind};
use crate::io::{Io, spawn};
use crate::metrics::SinkCounters;

/// Files being completed at once before the lane waits: each holds at most the client's queue of 13 MB, in
/// practice nothing, since its data is synced.
pub(super) const CLOSING_MAX: usize = 256;
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Names tried at once if others stand in the way.
const NAMES_MAX: u64 = 1000;

/// What happens to a file.
pub(super) enum Ending {
    /// All its data is written: close and rename.
    Close(Box<dyn FileWriter>),
    /// Its writer failed or is gone: recover the lease, then keep what was committed.
    Recover,
}

/// Completes the files of one lane.
#[derive(Clone)]
pub(super) struct Finisher(Rc<Shared>);

struct Shared {
    sink: Arc<str>,
    io: Io,
    journal: Rc<Journal>,
    counters: Arc<SinkCounters>,
    within: Option<Duration>,
    pending: Cell<usize>,
    changed: Notify,
    /// Files completed since last asked, and whether their data is in them.
    reports: RefCell<Vec<(u64, bool)>>,
}

impl Finisher {
    pub fn new(
        sink: Arc<str>,
        io: Io,
        journal: Rc<Journal>,
        counters: Arc<SinkCounters>,
        within: Option<Duration>,
    ) -> Self {
        let (pending, changed, reports) = (Cell::new(0), Notify::new(), RefCell::default());
        Self(Rc::new(Shared { sink, io, journal, counters, within, pending, changed, reports }))
    }
    /// Files not yet complete.
    pub fn pending(&self) -> usize {
        self.0.pending.get()
    }
    /// Resolves when a file was completed.
    pub async fn changed(&self) {
        self.0.changed.notified().await;
    }
    /// Files completed since the last call, and whether their data is in them.
    pub fn take_reports(&self) -> Vec<(u64, bool)> {
        self.0.reports.take()
    }

    /// Completes a file in the background.
    pub fn finish(&self, fs: Rc<dyn FileSystem>, id: u64, entry: Entry, ending: Ending) {
        let shared = self.0.clone();
        shared.pending.set(shared.pending.get() + 1);
        spawn(async move {
            let whole = shared.complete(&*fs, id, entry, ending).await;
            shared.pending.set(shared.pending.get() - 1);
            shared.reports.borrow_mut().push((id, whole));
            shared.changed.notify_waiters();
        });
    }
}

impl Shared {
    /// True if the file is there under its final name with all its data.
    async fn complete(&self, fs: &dyn FileSystem, id: u64, entry: Entry, ending: Ending) -> bool {
        let mut recover = true;
        if let Ending::Close(writer) = ending {
            match writer.close().await {
                Ok(()) => recover = false,
                Err(error) => {
                    tracing::warn!(sink = %self.sink, file = %entry.in_use, %error, "cannot close; recovering its lease");
                }
            }
            self.counters.connection_closed.add(1);
        }
        let whole = !recover;
        let deadline = self.within.map(|within| self.io.now() + within);
        let mut pause = PAUSE_MIN;
        let mut told = false;
        loop {
            let problem = match self.attempt(fs, &entry, &mut recover).await {
                Ok(()) => break,
                Err(problem) => problem,
            };
            if deadline.is_some_and(|deadline| self.io.now() >= deadline) {
                tracing::error!(sink = %self.sink, file = %entry.in_use, %problem, "given up; the next start tries again to complete this file");
                return false;
            }
            if !told && pause >= PAUSE_MAX {
                told = true;
                tracing::warn!(sink = %self.sink, file = %entry.in_use, %problem, "not yet completed; trying on");
            }
            self.io.sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        if let Err(error) = self.journal.done(id).await {
            tracing::warn!(sink = %self.sink, %error, "cannot note in the journal that a file is complete");
        }
        whole
    }

    async fn attempt(&self, fs: &dyn FileSystem, entry: &Entry, recover: &mut bool) -> Result<(), String> {
        if *recover {
            match fs.recover(&entry.in_use).await {
                Ok(true) => {}
                Ok(false) => return Err("the NameNode still recovers its lease".to_owned()),
                Err(error) if error.kind == FsErrorKind::Missing => return Ok(()),
                Err(error) => return Err(error.message),
            }
            let Some(size) = fs.size(&entry.in_use).await.map_err(|e| e.message)? else {
                // Renamed, or never created, before its maker went away.
                return Ok(());
            };
            if size < entry.committed {
                tracing::error!(sink = %self.sink, file = %entry.in_use, size_bytes = size, committed_bytes = entry.committed,
                    "the file is shorter than what was committed: data was lost below this program");
            }
            if size == 0 || (entry.exact && entry.committed == 0) {
                // Nothing in it was acknowledged: its events are delivered again.
                return match fs.remove(&entry.in_use).await {
                    Err(error) if error.kind != FsErrorKind::Missing => Err(error.message),
                    _ => Ok(()),
                };
            }
            if size > entry.committed && entry.exact && fs.can_truncate() {
                fs.truncate(&entry.in_use, entry.committed).await.map_err(|e| e.message)?;
            }
            *recover = false;
        }
        let mut name = entry.name.clone();
        for _ in 0..NAMES_MAX {
            let path = name.path();
            if path == entry.in_use {
                return Ok(());
            }
            match fs.rename(&entry.in_use, &path).await {
                Ok(()) => {
                    tracing::info!(sink = %self.sink, file = %path, "completed");
                    return Ok(());
                }
                Err(error) if error.kind == FsErrorKind::Exists => name.counter += 1,
                Err(error) if error.kind == FsErrorKind::Missing => {
                    // The answer to an earlier rename may have got lost.
                    return match fs.size(&path).await {
                        Ok(Some(_)) => Ok(()),
                        _ => Err(error.message),
                    };
                }
                Err(error) => return Err(error.message),
            }
        }
        Err(format!("{NAMES_MAX} names from {} on are taken", entry.name.path()))
    }
}
