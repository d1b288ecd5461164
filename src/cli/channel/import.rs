//! `channel import`: the events that wait in a directory of Flume's own file channel, into a new one.

use std::path::{Path, PathBuf};

use super::keys::{self, KeyArgs};
use super::output::NewLog;
use super::progress::Progress;
use super::{Outcome, Stopped, bytes, count, fail, refuse};
use crate::cli::report;
use crate::codec::flume_file_channel::checkpoint::{self, Checkpoint};
use crate::codec::flume_file_channel::cipher;
use crate::codec::flume_file_channel::log::{self, Body, Encryption, Meta};
use crate::codec::flume_file_channel::replay::{self, Decrypt, Fault, LogFile, Logs};
use crate::event::{BatchBuilder, Separator};
use crate::io::{Io, OpenOptions};
use crate::wal::cipher::Keys;

/// Events gathered before they are written.
const BATCH_EVENTS: usize = 1000;
/// And bytes of their bodies.
const BATCH_BYTES: usize = 256 << 10;
/// Name of the shard that gets everything, so that the order stays; an agent with more shards takes from it too.
const SHARD: &str = "shard-0";
/// Complaints printed one by one.
const COMPLAINTS_MAX: u64 = 20;

/// Options of `channel import`.
#[derive(clap::Args, Debug)]
pub struct ImportArgs {
    /// Directory with `data` and `checkpoint` below it, or the dataDirs of Flume's file channel
    #[arg(required = true, value_name = "OLD")]
    old: Vec<PathBuf>,
    /// The new dataDir
    #[arg(long, value_name = "NEW_DIR")]
    to: PathBuf,
    /// checkpointDir of the old channel; found by itself if it lies beside the data
    #[arg(long, value_name = "DIR")]
    checkpoint_dir: Option<PathBuf>,
    /// Leave out what cannot be read
    #[arg(long)]
    skip_damaged: bool,
    #[command(flatten)]
    keys: KeyArgs,
    /// Channel whose settings have the keys of an encrypted OLD, if those are not the keys of the new one
    #[arg(long, value_name = "AGENT.CHANNEL", requires = "old_flow")]
    old_keys_of: Option<String>,
    /// Flow with the channel of --old-keys-of
    #[arg(long, value_name = "FILE", requires = "old_keys_of")]
    old_flow: Option<PathBuf>,
}

/// Where the old channel is.
struct Old {
    data: Vec<PathBuf>,
    checkpoint: Option<PathBuf>,
}

/// Brings the events over.
pub async fn run(io: &Io, args: &ImportArgs) -> Outcome {
    let keys = args.keys.load(io).await?;
    let mut old = find(&args.old)?;
    if let Some(directory) = &args.checkpoint_dir {
        if !directory.join("checkpoint").is_file() {
            return Err(refuse(
                format!("--checkpoint-dir {}", directory.display()),
                "holds no file named checkpoint",
                "leave the option away to read the logs from their beginning",
            ));
        }
        old.checkpoint = Some(directory.clone());
    }
    for directory in old.data.iter().chain(&old.checkpoint) {
        refuse_if_running(io, directory).await?;
    }
    let old_keys = match (&args.old_keys_of, &args.old_flow) {
        (Some(channel), Some(flow)) => keys::of_flow(io, channel, flow).await?,
        _ => keys.clone(),
    };
    let logs = read_logs(io, &old.data, &old_keys).await?;
    let checkpoint = match &old.checkpoint {
        Some(directory) => read_checkpoint(directory, &logs)?,
        None => None,
    };
    if checkpoint.is_none() {
        report::line("without a checkpoint: reading the logs from their beginning");
    }
    let replayed = replay::replay(&logs, checkpoint.as_ref());
    report::line(&format!(
        "{} in {}: {} waiting",
        count(replayed.records, "record"),
        count(logs.len() as u64, "log"),
        count(replayed.queue.len() as u64, "event")
    ));
    judge_faults(&replayed.faults, args)?;

    let mut new = NewLog::create(io, &args.to, SHARD, &keys).await?;
    let left_out = match copy(&logs, &replayed.queue, &mut new, args.skip_damaged).await {
        Ok(left_out) => left_out,
        Err(stopped) => return Err(new.abandon(stopped).await),
    };
    let copied = new.finish().await?;
    let rest = if left_out == 0 { String::new() } else { format!("; {} left out", count(left_out, "event")) };
    report::line(&format!(
        "{} imported into {}{rest}",
        count(copied, "event"),
        args.to.join(SHARD).display()
    ));
    report::line(&format!("now set dataDirs = {} (and a new checkpointDir) in the flow", args.to.display()));
    Ok(())
}

fn log_number(name: &str) -> Option<u32> {
    name.strip_prefix("log-")?.parse().ok()
}

fn names(directory: &Path) -> Result<Vec<String>, Stopped> {
    let entries = std::fs::read_dir(directory).map_err(|error| {
        let hint =
            "name the dataDirs of Flume's file channel, or the directory that holds data and checkpoint";
        refuse(directory.display().to_string(), format!("cannot be read: {error}"), hint)
    })?;
    Ok(entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect())
}

fn find(given: &[PathBuf]) -> Result<Old, Stopped> {
    let mut old = Old { data: Vec::new(), checkpoint: None };
    for directory in given {
        let inside = names(directory)?;
        if inside.iter().any(|name| log_number(name).is_some()) {
            old.data.push(directory.clone());
            // Flume's default: checkpoint and data side by side.
            let beside = directory.parent().map(|parent| parent.join("checkpoint"));
            if let Some(beside) = beside.filter(|b| b.join("checkpoint").is_file()) {
                old.checkpoint.get_or_insert(beside);
            }
            continue;
        }
        let before = old.data.len();
        for name in inside {
            let below = directory.join(name);
            if !below.is_dir() {
                continue;
            }
            if below.join("checkpoint").is_file() && below.join("checkpoint.meta").is_file() {
                old.checkpoint.get_or_insert(below);
            } else if names(&below)?.iter().any(|name| log_number(name).is_some()) {
                old.data.push(below);
            }
        }
        if old.data.len() == before {
            return Err(refuse(
                directory.display().to_string(),
                "holds no file channel of Flume: there is no log-1, log-2, ... in it or below it",
                "name the dataDirs as they stand in Flume's configuration",
            ));
        }
    }
    old.data.sort();
    Ok(old)
}

/// Flume holds a POSIX lock on `in_use.lock` while it runs.
async fn refuse_if_running(io: &Io, directory: &Path) -> Outcome {
    let Ok(lock) = io.metadata(&directory.join("in_use.lock")).await else { return Ok(()) };
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let Some(pid) = holder(&locks, lock.inode) else { return Ok(()) };
    Err(refuse(
        directory.display().to_string(),
        format!("is in use by process {pid}"),
        "stop Flume first; what its sources and sinks have not finished comes along",
    ))
}

/// Process that holds a lock on a file, from the text of `/proc/locks`: the sixth column ends with the inode.
fn holder(locks: &str, inode: u64) -> Option<&str> {
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().filter(|word| *word != "->").collect();
        let number: u64 = words.get(5)?.rsplit(':').next()?.parse().ok()?;
        (number == inode).then(|| words.get(4).copied()).flatten()
    })
}

async fn read_logs(io: &Io, directories: &[PathBuf], keys: &Keys) -> Result<Logs, Stopped> {
    let mut logs = Logs::new();
    for directory in directories {
        for name in names(directory)? {
            let Some(number) = log_number(&name) else { continue };
            let path = directory.join(&name);
            let shown = path.display().to_string();
            let wrap =
                |error: std::io::Error| fail(&shown, error.to_string(), "check the permissions and the disk");
            let file = io.open(&path, OpenOptions::READ).await.map_err(wrap)?;
            let bytes = file.map().map_err(wrap)?;
            let meta = match read_meta(&path) {
                Ok(meta) => meta,
                Err(problem) if bytes.is_empty() => {
                    report::line(&format!("{shown}: empty, and its metadata cannot be read: {problem}"));
                    None
                }
                Err(problem) => {
                    let hint = "a file channel of Flume before 1.4 must be opened once by a newer Flume, which converts it";
                    return Err(fail(format!("{shown}.meta"), problem, hint));
                }
            };
            let decrypt = match meta.as_ref().and_then(|m| m.encryption.as_ref()) {
                Some(encryption) => Some(decryption(&shown, encryption, keys)?),
                None => None,
            };
            let file = LogFile { bytes, meta, decrypt };
            if let Some(false) = replay::opens(&file) {
                let key = file.meta.and_then(|m| m.encryption).map(|e| e.key).unwrap_or_default();
                return Err(refuse(
                    shown,
                    format!(
                        "was not encrypted with the key {key:?} that was given: its first record is nonsense"
                    ),
                    "name the flow with the key store that Flume used: --old-keys-of a1.c1 --old-flow flume.conf",
                ));
            }
            if logs.insert(number, file).is_some() {
                let hint = "name the dataDirs of one channel only";
                return Err(refuse(shown, format!("there is another log-{number}"), hint));
            }
        }
    }
    Ok(logs)
}

/// How to read the records of an encrypted log.
fn decryption(log: &str, encryption: &Encryption, keys: &Keys) -> Result<Decrypt, Stopped> {
    let Encryption { cipher, key, parameters } = encryption;
    if !cipher.eq_ignore_ascii_case(cipher::NAME) {
        return Err(refuse(
            log,
            format!("is encrypted by {cipher:?}, a Java class that cannot be run"),
            "let Flume drain this channel: start it with its sources left out of the flow until the channel is empty",
        ));
    }
    let known = keys.0.iter().find(|known| known.name.eq_ignore_ascii_case(key));
    let hint = "name the flow that has its key store: --keys-of a1.c1 --flow flume.conf, which also encrypts the new \
                channel, or --old-keys-of a1.c1 --old-flow flume.conf";
    let known = known
        .ok_or_else(|| refuse(log, format!("is encrypted with key {key:?}, which is not given"), hint))?;
    cipher::decrypt(known.secret(), parameters)
        .ok_or_else(|| refuse(log, format!("key {key:?} has no size of an AES key"), hint))
}

/// The metadata of a log; `None` if there is none, not even of an unfinished roll.
fn read_meta(log: &Path) -> Result<Option<Meta>, String> {
    for end in [".meta", ".meta.tmp", ".meta.old"] {
        let mut path = log.as_os_str().to_owned();
        path.push(end);
        match std::fs::read(&path) {
            Ok(bytes) => return log::meta(&bytes).map(Some).map_err(|e| e.to_string()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(None)
}

/// The checkpoint, if it can be used.
fn read_checkpoint(directory: &Path, logs: &Logs) -> Result<Option<Checkpoint>, Stopped> {
    let read = |name: &str| match std::fs::read(directory.join(name)) {
        Ok(bytes) => Ok(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => {
            let shown = directory.join(name).display().to_string();
            Err(fail(shown, error.to_string(), "check the permissions and the disk"))
        }
    };
    let found = checkpoint::read(
        &read("checkpoint")?,
        &read("checkpoint.meta")?,
        &read("inflightputs")?,
        &read("inflighttakes")?,
    );
    let problem = match found {
        Ok(checkpoint) => match checkpoint.queue.iter().find(|p| !logs.contains_key(&p.file)) {
            None => return Ok(Some(checkpoint)),
            Some(pointer) => format!("it refers to log-{}, which is not among the logs", pointer.file),
        },
        Err(problem) => problem.to_string(),
    };
    report::line(&format!("{}: the checkpoint is not used: {problem}", directory.display()));
    Ok(None)
}

fn judge_faults(faults: &[Fault], args: &ImportArgs) -> Outcome {
    for fault in faults {
        report::line(&format!(
            "log-{}: cannot be read from offset {} on ({}): {}",
            fault.file,
            fault.offset,
            bytes(fault.size as u64),
            fault.problem
        ));
    }
    if faults.is_empty() || args.skip_damaged {
        return Ok(());
    }
    Err(fail(
        "import",
        format!("{} cannot be read to the end", count(faults.len() as u64, "log")),
        "restore the file from a copy, or go on without what follows there: add --skip-damaged",
    ))
}

/// Writes the events; answers how many were left out.
async fn copy(
    logs: &Logs,
    queue: &[crate::codec::flume_file_channel::Pointer],
    new: &mut NewLog,
    skip_damaged: bool,
) -> Result<u64, Stopped> {
    let mut progress = Progress::new(queue.len() as u64);
    let mut left_out = 0;
    let mut builder = BatchBuilder::new(Separator::None);
    for (done, pointer) in queue.iter().enumerate() {
        let problem = match replay::at(logs, *pointer, |record| add(&mut builder, &record.body)) {
            Ok(Some(None)) => None,
            Ok(Some(Some(problem))) => Some(problem),
            Ok(None) => Some("invalidated by Flume's integrity tool"),
            Err(problem) => Some(problem.0),
        };
        if let Some(problem) = problem {
            left_out += 1;
            let place = format!("log-{}, offset {}: {problem}", pointer.file, pointer.offset);
            if !skip_damaged && problem != "invalidated by Flume's integrity tool" {
                let hint = "restore the file from a copy, or leave such events out: add --skip-damaged";
                return Err(fail("import", place, hint));
            }
            if left_out <= COMPLAINTS_MAX {
                report::line(&format!("left out: {place}"));
            }
        }
        if builder.len() >= BATCH_EVENTS || builder.area_bytes() >= BATCH_BYTES {
            let full = std::mem::replace(&mut builder, BatchBuilder::new(Separator::None));
            new.events(&full.finish()).await?;
            progress.at(done as u64);
        }
    }
    new.events(&builder.finish()).await?;
    Ok(left_out)
}

/// Adds an event to a batch, or says what is wrong with it.
fn add(builder: &mut BatchBuilder, body: &Body<'_>) -> Option<&'static str> {
    let Body::Put(event) = body else { return Some("there is no event here") };
    if !event.is_sound() {
        return Some("the event's checksum is wrong");
    }
    builder.push(event.body);
    // A map on the other side; if a damaged one has a key twice the last counts.
    let headers: std::collections::BTreeMap<_, _> = event.headers().collect();
    headers.iter().for_each(|(key, value)| builder.header(key, value));
    None
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_holder_of_a_lock() {
        let locks = "1: POSIX  ADVISORY  WRITE 4711 fe:00:131089 0 EOF\n2: -> FLOCK  ADVISORY  WRITE 12 00:19:77 0 EOF\n";
        assert_eq!(super::holder(locks, 131_089), Some("4711"));
        assert_eq!(super::holder(locks, 77), Some("12"));
        assert_eq!(super::holder(locks, 1), None);
        assert_eq!(super::holder("x", 1), None);
    }
}
