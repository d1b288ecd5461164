//! `channel cat` and `channel export`: the events themselves.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use super::events::{Events, Item};
use super::keys::KeyArgs;
use super::progress::Progress;
use super::{Outcome, ShardLog, Stopped, count, fail, find_logs, log_failed, open_view, refuse};
use crate::cli::{FAILED, report};
use crate::event::EventBatch;
use crate::io::Io;

/// Options of `channel cat`.
#[derive(clap::Args, Debug)]
pub struct CatArgs {
    /// One JSON object per event; a body that is not UTF-8 stands in `bodyHex`
    #[arg(long)]
    json: bool,
    /// Events on disk that were delivered already, too
    #[arg(long)]
    all: bool,
    /// Stop after this many events
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// A dataDir of the channel, or the directory of one shard
    #[arg(required = true, value_name = "DIR")]
    dirs: Vec<PathBuf>,
    #[command(flatten)]
    keys: KeyArgs,
}

/// Options of `channel export`.
#[derive(clap::Args, Debug)]
pub struct ExportArgs {
    /// A dataDir of the channel, or the directory of one shard
    #[arg(required = true, value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// The file to write; must not exist. `-` = standard output
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Events on disk that were delivered already, too
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    keys: KeyArgs,
}

/// Prints events.
pub async fn run(io: &Io, args: &CatArgs) -> Outcome {
    let mut out = BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut damaged = false;
    let mut text = String::new();
    let keys = args.keys.load(io).await?;
    for log in find_logs(&args.dirs)? {
        let view = open_view(io, &log, &keys).await?;
        let mut events = Events::new(&view, io, args.all);
        while left > 0
            && let Some(item) = events.next().await.map_err(|error| log_failed(&log.directory, error))?
        {
            let Item::Events { first_seq, frame, batch } = item else {
                damaged |= complain(&log, &item);
                continue;
            };
            for index in 0..batch.len().min(usize::try_from(left).unwrap_or(usize::MAX)) {
                left -= 1;
                text.clear();
                let place = Place {
                    shard: &log.name,
                    seq: first_seq + index as u64,
                    position: frame.header.position,
                    time_ms: frame.header.time_ms,
                };
                if args.json {
                    json(&mut text, &place, &batch, index)
                } else {
                    plain(&mut text, &place, &batch, index)
                }
                if out.write_all(text.as_bytes()).is_err() {
                    // Whoever read this has seen enough.
                    return Ok(());
                }
            }
        }
    }
    let _ = out.flush();
    if damaged { Err(Stopped(FAILED)) } else { Ok(()) }
}

/// Says what cannot be read. False if that is in order.
fn complain(log: &ShardLog, item: &Item) -> bool {
    let Item::Damage(damage) = item else { return false };
    let hint = format!("stop the agent and run: millrace channel fsck {}", log.directory.display());
    fail(&log.name, damage.to_string(), hint);
    true
}

struct Place<'a> {
    shard: &'a str,
    seq: u64,
    position: u64,
    time_ms: u64,
}

fn time(ms: u64) -> String {
    i64::try_from(ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| ms.to_string(), |time| time.to_string())
}

/// `2026-01-02T03:04:05.678Z shard-0 #17 {host=web1} body`, without control characters.
fn plain(out: &mut String, place: &Place<'_>, batch: &EventBatch, index: usize) {
    let _ = write!(out, "{} {} #{} {{", time(place.time_ms), place.shard, place.seq);
    for (i, (key, value)) in batch.headers(index).enumerate() {
        out.push_str(if i == 0 { "" } else { ", " });
        visible(out, key);
        out.push('=');
        visible(out, value);
    }
    out.push_str("} ");
    visible(out, &String::from_utf8_lossy(batch.body(index)));
    out.push('\n');
}

fn visible(out: &mut String, text: &str) {
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
}

fn json(out: &mut String, place: &Place<'_>, batch: &EventBatch, index: usize) {
    let headers: serde_json::Map<String, serde_json::Value> =
        batch.headers(index).map(|(k, v)| (k.to_owned(), v.into())).collect();
    let mut event = serde_json::json!({
        "shard": place.shard,
        "seq": place.seq,
        "position": place.position,
        "time": time(place.time_ms),
        "headers": headers,
    });
    match std::str::from_utf8(batch.body(index)) {
        Ok(body) => event["body"] = body.into(),
        Err(_) => {
            let hex = batch.body(index).iter().fold(String::new(), |mut hex, byte| {
                let _ = write!(hex, "{byte:02x}");
                hex
            });
            event["bodyHex"] = hex.into();
        }
    }
    let _ = writeln!(out, "{event}");
}

/// Writes bodies to a file.
pub async fn export(io: &Io, args: &ExportArgs) -> Outcome {
    let logs = find_logs(&args.dirs)?;
    let keys = args.keys.load(io).await?;
    let shown = args.to.display().to_string();
    let mut out: Box<dyn Write> = if shown == "-" {
        Box::new(BufWriter::with_capacity(1 << 16, std::io::stdout().lock()))
    } else {
        let file = OpenOptions::new().write(true).create_new(true).open(&args.to);
        let file = file.map_err(|error| {
            let hint = match error.kind() {
                std::io::ErrorKind::AlreadyExists => "name a file that does not exist",
                _ => "name a file in a directory this user may write to",
            };
            refuse(format!("--to {shown}"), format!("cannot be created: {error}"), hint)
        })?;
        Box::new(BufWriter::with_capacity(1 << 20, file))
    };
    let mut written = 0;
    let mut damaged = false;
    for log in logs {
        let view = open_view(io, &log, &keys).await?;
        let start = if args.all { 0 } else { view.low_position };
        let mut progress = Progress::new(view.bytes_between(start, u64::MAX));
        let mut events = Events::new(&view, io, args.all);
        while let Some(item) = events.next().await.map_err(|error| log_failed(&log.directory, error))? {
            let Item::Events { batch, .. } = item else {
                damaged |= complain(&log, &item);
                continue;
            };
            written += batch.len() as u64;
            let result = match batch.as_lines() {
                Some(lines) => out.write_all(lines),
                None => batch
                    .bodies()
                    .try_for_each(|body| out.write_all(body).and_then(|()| out.write_all(b"\n"))),
            };
            result.map_err(|error| fail(&shown, format!("cannot be written: {error}"), "free some space"))?;
            progress.at(view.bytes_between(start, events.position()));
        }
    }
    out.flush().map_err(|error| fail(&shown, format!("cannot be written: {error}"), "free some space"))?;
    if shown != "-" {
        report::line(&format!("{} written to {shown}", count(written, "event")));
    }
    if damaged { Err(Stopped(FAILED)) } else { Ok(()) }
}
