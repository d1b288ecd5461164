//! The command `channel`: looking at file channels, checking, repairing and importing them.
//!
//! Exit codes: 0 all well, 1 something is wrong with the data, 2 the command cannot be carried out as typed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{BAD_CONFIG, FAILED, report};
use crate::config::Diagnostic;
use crate::io::{EngineKind, Io, run_local};
use crate::wal::cipher::Keys;
use crate::wal::inspect::View;
use crate::wal::repair::CutError;
use crate::wal::{STATE_FILE, WalError, segment};

mod cat;
mod events;
mod fsck;
mod import;
mod keys;
mod output;
mod progress;
mod repair;
mod status;

/// Shown below the options.
pub const HELP: &str = "\
DIR is one of the channel's dataDirs, or the directory of one shard below it.

Examples:
  millrace channel status /var/lib/flume/data              what waits, beside a running agent too
  millrace channel cat --json --limit 10 /var/lib/flume/data
  millrace channel fsck /data1/flume /data2/flume          reads and verifies every byte; the agent must be stopped
  millrace channel salvage /data1/flume --to /data1/new    every readable event of a damaged channel, into a new one
  millrace channel truncate-to /data1/flume/shard-0 --position 20480
  millrace channel import ~/.flume/file-channel --to /data1/millrace     a channel written by Apache Flume

Exit code 0: all well; 1: something is wrong with the data; 2: the command cannot be carried out as typed.";

/// Commands about file channels.
#[derive(clap::Subcommand, Debug)]
pub enum ChannelCommand {
    /// Events, bytes and age of the oldest event of each shard; beside a running agent too
    Status(status::StatusArgs),
    /// Read and verify everything
    Fsck(DirsArgs),
    /// Print the events that wait; beside a running agent too
    Cat(cat::CatArgs),
    /// Write the bodies of the events that wait to a file, one a line
    Export(cat::ExportArgs),
    /// Copy every readable event of a damaged channel, and the sources' positions, into a new directory
    Salvage(repair::SalvageArgs),
    /// Cut a log at a position; what is cut off is kept in a backup directory
    TruncateTo(repair::TruncateArgs),
    /// Bring the events of a file channel written by Apache Flume into a new directory
    Import(import::ImportArgs),
}

/// Which channels.
#[derive(clap::Args, Debug)]
pub struct DirsArgs {
    /// A dataDir of the channel, or the directory of one shard
    #[arg(required = true, value_name = "DIR")]
    dirs: Vec<PathBuf>,
    #[command(flatten)]
    keys: keys::KeyArgs,
}

/// Flume's tools.
#[derive(clap::Subcommand, Debug)]
pub enum ToolCommand {
    /// Read and verify a file channel, as `millrace channel fsck`
    Fcintegritytool(fsck::IntegrityArgs),
}

/// Why a command stopped; it was said already.
pub struct Stopped(u8);

type Outcome = Result<(), Stopped>;

/// Runs a command.
pub fn run(command: ChannelCommand) -> ExitCode {
    finish(run_local(EngineKind::Portable, |io| async move {
        match command {
            ChannelCommand::Status(args) => status::run(&io, &args).await,
            ChannelCommand::Fsck(args) => fsck::run(&io, &args.dirs, &args.keys).await,
            ChannelCommand::Cat(args) => cat::run(&io, &args).await,
            ChannelCommand::Export(args) => cat::export(&io, &args).await,
            ChannelCommand::Salvage(args) => repair::salvage(&io, &args).await,
            ChannelCommand::TruncateTo(args) => repair::truncate(&io, &args).await,
            ChannelCommand::Import(args) => import::run(&io, &args).await,
        }
    }))
}

/// Runs one of Flume's tools.
pub fn tool(command: ToolCommand) -> ExitCode {
    let ToolCommand::Fcintegritytool(args) = command;
    finish(run_local(EngineKind::Portable, |io| async move { fsck::integrity_tool(&io, &args).await }))
}

fn finish(result: std::io::Result<Outcome>) -> ExitCode {
    match result {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(Stopped(code))) => ExitCode::from(code),
        Err(error) => {
            report::diagnostics(&[Diagnostic::error("millrace", format!("cannot start: {error}"))]);
            ExitCode::from(FAILED)
        }
    }
}

/// Complains; the command was typed wrongly.
fn refuse(subject: impl Into<String>, message: impl Into<String>, hint: impl Into<String>) -> Stopped {
    report::diagnostics(&[Diagnostic::error(subject, message).hint(hint)]);
    Stopped(BAD_CONFIG)
}

/// Complains; the data or the disk is at fault.
fn fail(subject: impl Into<String>, message: impl Into<String>, hint: impl Into<String>) -> Stopped {
    report::diagnostics(&[Diagnostic::error(subject, message).hint(hint)]);
    Stopped(FAILED)
}

/// Complains about an error of a log.
fn log_failed(directory: &Path, error: WalError) -> Stopped {
    let subject = directory.display().to_string();
    match error {
        WalError::Locked(_) => refuse(
            &subject,
            "is in use by a running agent",
            format!("stop the agent first; `millrace channel status {subject}` and `cat` work beside it"),
        ),
        WalError::Newer { .. } => refuse(&subject, error.to_string(), "use the version that wrote it"),
        WalError::NoKey { .. } => refuse(
            &subject,
            error.to_string(),
            "name the key: --key-file FILE, or --keys-of a1.c1 --flow flow.properties",
        ),
        error => fail(subject, error.to_string(), "check the permissions and the disk"),
    }
}

fn cut_failed(directory: &Path, error: CutError) -> Stopped {
    let subject = directory.display().to_string();
    match error {
        CutError::Log(error) => log_failed(directory, error),
        CutError::Between { before, after, .. } => {
            let after = after.map_or(String::new(), |p| format!(" or --position {p}"));
            refuse(&subject, error.to_string(), format!("use --position {before}{after}"))
        }
        CutError::Beyond(end) => {
            let hint = format!(
                "use a position below {end}; `millrace channel cat --json {subject}` prints those of the events"
            );
            refuse(&subject, error.to_string(), hint)
        }
    }
}

/// The log of one shard.
struct ShardLog {
    directory: PathBuf,
    /// Its name in messages: `shard-0`.
    name: String,
}

/// The logs in some directories, by shard.
fn find_logs(directories: &[PathBuf]) -> Result<Vec<ShardLog>, Stopped> {
    let mut logs = Vec::new();
    for directory in directories {
        logs.extend(logs_in(directory)?);
    }
    Ok(logs)
}

fn logs_in(directory: &Path) -> Result<Vec<ShardLog>, Stopped> {
    let shown = directory.display().to_string();
    let entries = std::fs::read_dir(directory).map_err(|error| {
        refuse(&shown, format!("cannot be read: {error}"), "name one of the channel's dataDirs")
    })?;
    let names: Vec<String> = entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
    let last = |path: &Path| path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    if names.iter().any(|n| n == STATE_FILE || segment::file_number(n).is_some()) {
        let name = std::fs::canonicalize(directory).map_or_else(|_| last(directory), |path| last(&path));
        return Ok(vec![ShardLog { directory: directory.to_owned(), name }]);
    }
    let mut shards: Vec<(u32, &String)> =
        names.iter().filter_map(|name| Some((name.strip_prefix("shard-")?.parse().ok()?, name))).collect();
    shards.sort();
    if shards.is_empty() {
        let theirs = names.iter().any(|n| n.strip_prefix("log-").is_some_and(|n| n.parse::<u32>().is_ok()));
        let hint = match theirs {
            true => format!(
                "this is a file channel of Apache Flume: millrace channel import {shown} --to NEW_DIR"
            ),
            false => "name one of the channel's dataDirs, as the flow has them".to_owned(),
        };
        return Err(refuse(shown, "holds no file channel", hint));
    }
    Ok(shards
        .into_iter()
        .map(|(_, name)| ShardLog { directory: directory.join(name), name: name.clone() })
        .collect())
}

/// The same with keys for its payloads.
async fn open_view(io: &Io, log: &ShardLog, keys: &Keys) -> Result<View, Stopped> {
    let mut view = view(io, log).await?;
    view.set_keys(keys);
    Ok(view)
}

async fn view(io: &Io, log: &ShardLog) -> Result<View, Stopped> {
    View::open(io, &log.directory).await.map_err(|error| log_failed(&log.directory, error))
}

/// A number of bytes for people.
fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (count as f64, 0);
    while value >= 1024.0 && unit + 1 < units.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// A number of things: `1 event`, `2 events`.
fn count(number: u64, word: &str) -> String {
    format!("{number} {word}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_for_people() {
        let table = [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1 << 31, "2.0 GiB")];
        table.iter().for_each(|(n, text)| assert_eq!(bytes(*n), *text));
        assert_eq!((count(1, "event"), count(2, "event")), ("1 event".into(), "2 events".into()));
    }
}
