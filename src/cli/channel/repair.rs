//! `channel salvage` and `channel truncate-to`.

use std::path::PathBuf;

use super::events::{Events, Item};
use super::keys::KeyArgs;
use super::output::NewLog;
use super::progress::Progress;
use super::{Outcome, bytes, count, cut_failed, fail, find_logs, log_failed, open_view, refuse, view};
use crate::cli::report;
use crate::io::Io;
use crate::wal::MarkTable;
use crate::wal::inspect::{Step, Walk};
use crate::wal::repair::{self, Raw};

/// Options of `channel salvage`.
#[derive(clap::Args, Debug)]
pub struct SalvageArgs {
    /// A dataDir of the damaged channel, or the directory of one shard
    #[arg(required = true, value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// The new dataDir
    #[arg(long, value_name = "NEW_DIR")]
    to: PathBuf,
    /// Events that were delivered already, too
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    keys: KeyArgs,
}

/// Options of `channel truncate-to`.
#[derive(clap::Args, Debug)]
pub struct TruncateArgs {
    /// Directory of one shard
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Position in the log where it shall end, as `fsck` and `cat --json` print them
    #[arg(long, value_name = "POSITION")]
    position: u64,
    /// Where to keep what is cut off; by default beside the shard's directory
    #[arg(long, value_name = "BACKUP_DIR")]
    backup: Option<PathBuf>,
}

/// Copies what can be read.
pub async fn salvage(io: &Io, args: &SalvageArgs) -> Outcome {
    let logs = find_logs(&args.dirs)?;
    let keys = args.keys.load(io).await?;
    let mut seen = std::collections::HashSet::new();
    if let Some(log) = logs.iter().find(|log| !seen.insert(&log.name)) {
        return Err(refuse(
            log.directory.display().to_string(),
            format!("there are two directories named {}", log.name),
            "salvage them into two new directories, one after the other",
        ));
    }
    for log in &logs {
        let _lock = repair::lock(io, &log.directory).map_err(|error| log_failed(&log.directory, error))?;
        let view = open_view(io, log, &keys).await?;
        let mut new = NewLog::create(io, &args.to, &log.name, &keys).await?;
        // The marks of everything on disk; a delivered event's mark counts as much as a waiting one's.
        let mut marks = MarkTable::default();
        let mut walk = Walk::all(&view, io);
        while let Some(step) = walk.next().await.map_err(|error| log_failed(&log.directory, error))? {
            if let Step::Frame(frame) = step {
                marks.read(&frame.marks(), frame.header.time_ms);
            }
        }
        let start = if args.all { 0 } else { view.low_position };
        let mut progress = Progress::new(view.bytes_between(start, u64::MAX));
        let mut events = Events::new(&view, io, args.all);
        let (mut lost, mut places) = (0, 0);
        while let Some(item) = events.next().await.map_err(|error| log_failed(&log.directory, error))? {
            match item {
                Item::Events { frame, batch, .. } if batch.len() == frame.header.events as usize => {
                    new.raw(Raw { events: frame.header.events, record: frame.record() }).await?;
                }
                Item::Events { batch, .. } => new.events(&batch).await?,
                Item::Damage(damage) => {
                    places += 1;
                    lost += damage.events.unwrap_or(0);
                    report::line(&format!("{}: left out: {damage}", log.name));
                }
                Item::Gone => {}
            }
            progress.at(view.bytes_between(start, events.position()));
        }
        drop(progress);
        new.marks(&marks).await?;
        let copied = new.finish().await?;
        report::line(&format!(
            "{}: {} copied to {}{}",
            log.name,
            count(copied, "event"),
            args.to.join(&log.name).display(),
            match places {
                0 => String::new(),
                places =>
                    format!("; {} with {} could not be read", count(places, "place"), count(lost, "event")),
            }
        ));
    }
    report::line(&format!("now point dataDirs of the flow to {}", args.to.display()));
    Ok(())
}

/// Cuts a log.
pub async fn truncate(io: &Io, args: &TruncateArgs) -> Outcome {
    let logs = find_logs(std::slice::from_ref(&args.dir))?;
    let [log] = logs.as_slice() else {
        let first = logs.first().map_or_else(|| args.dir.clone(), |log| log.directory.clone());
        return Err(refuse(
            args.dir.display().to_string(),
            format!("holds {}, each with positions of its own", count(logs.len() as u64, "shard")),
            format!(
                "name one of them: millrace channel truncate-to {} --position {}",
                first.display(),
                args.position
            ),
        ));
    };
    let backup = args.backup.clone().unwrap_or_else(|| {
        let name = format!("{}.cut-{}", log.name, io.unix_time().as_secs());
        log.directory.parent().unwrap_or(&log.directory).join(name)
    });
    if io.metadata(&backup).await.is_ok() {
        return Err(refuse(
            backup.display().to_string(),
            "exists already",
            "name a new directory behind --backup",
        ));
    }
    let cut = repair::truncate(io, &log.directory, args.position, &backup)
        .await
        .map_err(|error| cut_failed(&log.directory, error))?;
    report::line(&format!(
        "{}: cut at position {}: {} and {} removed; kept in {}",
        log.name,
        args.position,
        count(cut.events, "event"),
        bytes(cut.bytes),
        cut.backup.display()
    ));
    let view = view(io, log).await?;
    let end = view.end_position();
    if end > args.position {
        let hint = format!("restore the files from {} and try again", backup.display());
        return Err(fail(log.directory.display().to_string(), format!("the log still ends at {end}"), hint));
    }
    Ok(())
}
