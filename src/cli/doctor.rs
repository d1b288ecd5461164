//! The command `doctor`: what this machine allows, and what to change.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{FAILED, report};
use crate::io::{machine, probe};

/// Options of `doctor`.
#[derive(clap::Args, Debug)]
pub struct DoctorArgs {
    /// Directories file channels will live in; each is tried for direct writes
    directories: Vec<PathBuf>,
}

/// Prints what the engine would find. The exit code is 1 if a directory cannot be used.
pub fn run(args: &DoctorArgs) -> ExitCode {
    let mut out = Vec::new();
    // Writing to memory does not fail.
    let _ = probe::report(&mut out);
    report::line(String::from_utf8_lossy(&out).trim_end());
    report::line(&format!("cores                     {}", machine::cores()));
    report::line(&format!("memory                    {} MiB", machine::memory_bytes() >> 20));
    let (engine, _) = probe::choose(None);
    report::line(&format!("engine of agents          {engine}"));
    let mut code = ExitCode::SUCCESS;
    for directory in &args.directories {
        let verdict = match probe::direct_io(directory) {
            Ok(true) => "takes direct writes (O_DIRECT)".to_owned(),
            Ok(false) => "takes no direct writes; a file channel syncs after each write there".to_owned(),
            Err(error) => {
                code = ExitCode::from(FAILED);
                format!("cannot be written to: {error}")
            }
        };
        report::line(&format!("{:<25} {verdict}", directory.display().to_string()));
    }
    code
}
