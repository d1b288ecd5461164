//! `channel status`: what waits, at once.

use std::path::PathBuf;

use super::{Outcome, Stopped, bytes, count, find_logs, log_failed, view};
use crate::cli::{FAILED, report};
use crate::io::Io;

/// Options of `channel status`.
#[derive(clap::Args, Debug)]
pub struct StatusArgs {
    /// One JSON object per shard
    #[arg(long)]
    json: bool,
    /// A dataDir of the channel, or the directory of one shard
    #[arg(required = true, value_name = "DIR")]
    dirs: Vec<PathBuf>,
}

/// What is said of one shard.
struct Row {
    name: String,
    directory: PathBuf,
    events: u64,
    waiting_bytes: u64,
    files: usize,
    file_bytes: u64,
    oldest_ms: Option<u64>,
    unreadable: usize,
}

pub async fn run(io: &Io, args: &StatusArgs) -> Outcome {
    let mut rows = Vec::new();
    for log in find_logs(&args.dirs)? {
        let view = view(io, &log).await?;
        let oldest_ms = view.oldest_ms(io).await.map_err(|error| log_failed(&log.directory, error))?;
        rows.push(Row {
            events: view.waiting(),
            waiting_bytes: if view.waiting() == 0 { 0 } else { view.waiting_bytes() },
            files: view.segments.len(),
            file_bytes: view.segments.iter().map(|s| s.header.size).sum(),
            oldest_ms,
            unreadable: view.lost.len()
                + view.aside.len()
                + view.segments.iter().filter(|s| s.rebuilt).count(),
            name: log.name,
            directory: log.directory,
        });
    }
    let now_ms = io.unix_time().as_millis() as u64;
    if args.json {
        for row in &rows {
            let json = serde_json::json!({
                "shard": row.name,
                "directory": row.directory.display().to_string(),
                "events": row.events,
                "bytes": row.waiting_bytes,
                "files": row.files,
                "fileBytes": row.file_bytes,
                "oldestAgeSeconds": row.oldest_ms.map(|ms| now_ms.saturating_sub(ms) / 1000),
                "damagedFiles": row.unreadable,
            });
            report::line(&json.to_string());
        }
    } else {
        report::line("shard        events      waiting     oldest  on disk");
        for row in &rows {
            let oldest = row.oldest_ms.map_or("-".to_owned(), |ms| age(now_ms.saturating_sub(ms)));
            let waiting = bytes(row.waiting_bytes);
            report::line(&format!(
                "{:<8} {:>10} {:>12} {:>10}  {} in {}",
                row.name,
                row.events,
                waiting,
                oldest,
                bytes(row.file_bytes),
                count(row.files as u64, "file"),
            ));
        }
        if rows.len() > 1 {
            let (events, waiting) = rows.iter().fold((0, 0), |(e, b), r| (e + r.events, b + r.waiting_bytes));
            report::line(&format!("{:<8} {events:>10} {:>12}", "total", bytes(waiting)));
        }
    }
    let damaged: Vec<&Row> = rows.iter().filter(|r| r.unreadable > 0).collect();
    for row in &damaged {
        let shown = row.directory.display();
        let found = count(row.unreadable as u64, "damaged file");
        super::fail(
            shown.to_string(),
            found,
            format!("stop the agent and run: millrace channel fsck {shown}"),
        );
    }
    if damaged.is_empty() { Ok(()) } else { Err(Stopped(FAILED)) }
}

/// A duration in its largest unit.
fn age(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms} ms"),
        1..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn ages_for_people() {
        let table =
            [(5, "5 ms"), (119_000, "119 s"), (120_000, "2 min"), (7_200_000, "2 h"), (864_000_000, "10 d")];
        table.iter().for_each(|(ms, text)| assert_eq!(super::age(*ms), *text));
    }
}
