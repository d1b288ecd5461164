//! `channel fsck`, and Flume's `tool fcintegritytool`: every byte read and verified.

use std::path::PathBuf;

use super::events::undecodable;
use super::keys::KeyArgs;
use super::progress::Progress;
use super::{Outcome, ShardLog, Stopped, bytes, count, fail, find_logs, log_failed, view};
use crate::channel::file::payload;
use crate::cli::{FAILED, report};
use crate::io::Io;
use crate::wal::MarkTable;
use crate::wal::frame::FrameKind;
use crate::wal::inspect::{FooterSums, Frame, Step, View, Walk};
use crate::wal::repair;

/// Options of Flume's `fcintegritytool`.
#[derive(clap::Args, Debug)]
pub struct IntegrityArgs {
    /// dataDirs of the channel, separated by commas
    #[arg(short = 'l', long = "dataDirs", value_name = "DIRS", required = true, value_delimiter = ',')]
    dirs: Vec<PathBuf>,
    /// Class name of an event validator: Java, so not available
    #[arg(short = 'e', long = "eventValidator", value_name = "CLASS")]
    validator: Option<String>,
    /// Flume's configuration directory; not needed
    #[arg(short = 'c', long = "conf", value_name = "DIR")]
    conf: Option<PathBuf>,
    #[command(flatten)]
    keys: KeyArgs,
}

/// Runs Flume's tool.
pub async fn integrity_tool(io: &Io, args: &IntegrityArgs) -> Outcome {
    if let Some(class) = &args.validator {
        return Err(super::refuse(
            format!("-e {class}"),
            "an event validator is a Java class and cannot be run",
            "leave -e away to verify the checksum of every event",
        ));
    }
    run(io, &args.dirs, &args.keys).await
}

/// What was found in one log.
#[derive(Default)]
struct Findings {
    frames: u64,
    events: u64,
    problems: Vec<String>,
    /// Events that wait and cannot be read.
    lost: u64,
    /// Files in which nothing can be read.
    lost_files: u64,
    /// Encrypted frames of which only the checksum was verified.
    locked: u64,
}

/// Verifies.
pub async fn run(io: &Io, dirs: &[PathBuf], keys: &KeyArgs) -> Outcome {
    let keys = keys.load(io).await?;
    let mut bad = false;
    for log in find_logs(dirs)? {
        let _lock = repair::lock(io, &log.directory).map_err(|error| log_failed(&log.directory, error))?;
        let mut view = view(io, &log).await?;
        // Without keys the checksums of encrypted frames are verified all the same.
        if !keys.0.is_empty() {
            view.set_keys(&keys);
        }
        let findings = verify(io, &log, &view).await?;
        let Findings { frames, events, problems, lost, lost_files, locked } = &findings;
        let torn = match view.torn_bytes {
            0 => String::new(),
            torn => format!("; {} at the end were never acknowledged and do not count", bytes(torn)),
        };
        let verdict = if problems.is_empty() { "clean" } else { "DAMAGED" };
        report::line(&format!(
            "{}: {verdict}: {} in {} and {}, {} waiting{torn}",
            log.name,
            count(*events, "event"),
            count(*frames, "frame"),
            count(view.segments.len() as u64, "file"),
            view.waiting(),
        ));
        if *locked > 0 {
            let frames = count(*locked, "frame");
            report::line(&format!(
                "  {frames} encrypted: only the checksums were verified; add --key-file to verify the events"
            ));
        }
        for problem in problems {
            report::line(&format!("  {problem}"));
        }
        if !problems.is_empty() {
            bad = true;
            let shown = log.directory.display();
            let hint = format!(
                "restore the files from a copy; or set onDamage = skip in the flow; or: millrace channel salvage {shown} --to NEW_DIR"
            );
            let message = match lost {
                0 if *lost_files > 0 => format!("{} cannot be read at all", count(*lost_files, "file")),
                0 => {
                    format!("{}; every event that waits can be read", count(problems.len() as u64, "problem"))
                }
                lost => format!("{} cannot be read", count(*lost, "waiting event")),
            };
            fail(shown.to_string(), message, hint);
        }
    }
    if bad { Err(Stopped(FAILED)) } else { Ok(()) }
}

async fn verify(io: &Io, log: &ShardLog, view: &View) -> Result<Findings, Stopped> {
    let mut found = Findings::default();
    found.problems.extend(view.problems().iter().map(ToString::to_string));
    let mut progress = Progress::new(view.bytes_between(0, u64::MAX));
    let mut walk = Walk::all(view, io);
    let mut sums = FooterSums::new(view);
    let mut expected = None;
    let mut marks = MarkTable::default();
    while let Some(step) = walk.next().await.map_err(|error| log_failed(&log.directory, error))? {
        sums.step(&step);
        match step {
            Step::Frame(frame) => {
                found.frames += 1;
                found.events += u64::from(frame.header.events);
                check_frame(view, &frame, &mut marks, &mut expected, &mut found);
            }
            Step::Damage(damage) => {
                let position = walk.position() - damage.size;
                let delivered = damage.size > 0 && walk.position() <= view.low_position;
                if !delivered {
                    found.lost += damage.events.unwrap_or(0);
                }
                let note = if delivered { " (delivered already)" } else { "" };
                found.problems.push(format!("position {position}: {}{note}", place(&damage)));
                expected = None;
            }
            Step::Gone => {}
        }
        progress.at(view.bytes_between(0, walk.position()));
    }
    found.problems.extend(sums.problems().iter().map(ToString::to_string));
    found.lost_files = view.lost.len() as u64;
    Ok(found)
}

fn place(damage: &crate::wal::Damage) -> String {
    let events = damage.events.map_or("an unknown number of events".to_owned(), |n| count(n, "event"));
    if damage.size == 0 {
        return format!("{events} before offset {} of {} are missing", damage.offset, damage.path.display());
    }
    format!(
        "{} cannot be read at offset {}: {} with {events}",
        damage.path.display(),
        damage.offset,
        bytes(damage.size),
    )
}

fn check_frame(
    view: &View,
    frame: &Frame,
    marks: &mut MarkTable,
    expected: &mut Option<u64>,
    found: &mut Findings,
) {
    let position = frame.header.position;
    let locked = frame.payload.is_empty() && frame.header.stored > 0;
    if locked {
        found.locked += 1;
    }
    if !locked && !marks.read(&frame.marks(), frame.header.time_ms) {
        found.problems.push(format!("position {position}: the positions of sources cannot be read"));
    }
    if frame.header.kind != FrameKind::Data {
        return;
    }
    // Behind an opening numbers may jump forwards.
    let opening =
        view.segments.get(frame.segment).is_some_and(|s| s.header.start_seq == frame.header.first_seq);
    if let Some(expected) = *expected
        && frame.header.first_seq != expected
        && !(opening && frame.header.first_seq > expected)
    {
        let got = frame.header.first_seq;
        found.problems.push(format!("position {position}: event {got} follows where {expected} should"));
    }
    *expected = Some(frame.end_seq());
    let events = frame.header.events as usize;
    if !locked
        && events > 0
        && payload::decode(&frame.record(), 0, events).is_none_or(|batch| batch.len() != events)
    {
        let damage = undecodable(view, frame);
        if frame.end_seq() > view.low_seq {
            found.lost += events as u64;
        }
        found.problems.push(format!("position {position}: {}", place(&damage)));
    }
}
