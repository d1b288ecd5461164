//! Child processes, for sources that read what a command prints.
//!
//! A child leads a process group of its own, so that it can be ended with everything it started. Its
//! pipes belong to the tokio half of the shard's runtime.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncRead;
use tokio::process::{Child as Process, Command};

/// A running command. Dropping it kills its process group.
#[derive(Debug)]
pub struct Child {
    process: Process,
    /// The group's number; the kernel cannot give it away while any member lives or the leader has not
    /// been waited for.
    group: Option<Pid>,
}

/// Starts a command without input, its output and errors in pipes.
///
/// # Errors
/// What the kernel says, for example `NotFound`.
pub fn spawn_process(program: &str, arguments: &[String]) -> io::Result<Child> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let process = command.process_group(0).kill_on_drop(true).spawn()?;
    let group = process.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    Ok(Child { process, group })
}

impl Child {
    /// What it prints; once.
    pub fn stdout(&mut self) -> Option<impl AsyncRead + Unpin + use<>> {
        self.process.stdout.take()
    }
    /// What it prints as errors; once.
    pub fn stderr(&mut self) -> Option<impl AsyncRead + Unpin + use<>> {
        self.process.stderr.take()
    }
    /// Waits for its end. Cancel-safe.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.process.wait().await
    }
    /// Asks the whole group to end, and kills it after `patience`.
    pub async fn end(mut self, patience: Duration) {
        self.signal(Signal::TERM);
        let _ = tokio::time::timeout(patience, self.process.wait()).await;
        // Members that outlived the leader, too: the drop signals the group.
    }
    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            // Fails if nobody is left, which is what is wanted.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}
