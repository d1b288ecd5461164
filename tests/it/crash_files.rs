//! `kill -9` at random moments under TAILDIR and spooldir: each line goes into the channel exactly once,
//! and into the sink's files at least once.
//!
//! Files grow and rotate all the time, also while no agent runs. `MILLRACE_CRASH_ROUNDS`,
//! `MILLRACE_CRASH_SECONDS` and `MILLRACE_CRASH_SEED` as in [`crate::crash`].
//!
//! With `copytruncate` whatever is written between the copy and the truncation is lost, whoever reads the
//! files: logrotate's manual says so. The writer here does not write then.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::crash::{Random, setting};
use crate::util::{Agent, PATIENCE, Start, eventually, files, scratch};

const LINE_BYTES: usize = 200;
/// Files that grow at the same time.
const LOGS: usize = 4;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Feed {
    /// `a.log` becomes `a.log.1`, which was `a.log.2` before, and so on.
    Rename,
    /// `a.log` is copied to `a.log.1` and truncated. The group matches the copies.
    CopyTruncate,
    /// The same, and the group does not match the copies.
    CopyAside,
    /// Whole files appear in a directory; the value of `deletePolicy` and of `trackingPolicy`.
    Spool(&'static str, &'static str),
}

/// Writes the lines: each names its content, which no other file ever has, and its number in it.
struct Feeder {
    feed: Feed,
    dir: PathBuf,
    random: Random,
    logs: Vec<Growing>,
    /// One rotation in so many steps; 0 = none.
    rotate_every: u64,
    spooled: u64,
    /// Complete lines per content.
    written: HashMap<String, u64>,
}

struct Growing {
    path: PathBuf,
    file: File,
    name: char,
    generation: u32,
    lines: u64,
    /// The rest of a line of which the first half is in the file.
    rest: Vec<u8>,
}

fn line(content: &str, number: u64) -> Vec<u8> {
    let mut line = format!("{content} {number:010} ").into_bytes();
    line.resize(LINE_BYTES - 1, b'x');
    line.push(b'\n');
    line
}

fn append_to(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).expect("a log file")
}

impl Growing {
    fn content(&self) -> String {
        format!("{}{}", self.name, self.generation)
    }
    fn complete(&mut self) {
        if !self.rest.is_empty() {
            self.file.write_all(&self.rest).expect("write");
            self.rest.clear();
            self.lines += 1;
        }
    }
    fn append(&mut self, count: u64, torn: bool) {
        self.complete();
        let content = self.content();
        let mut text: Vec<u8> = (self.lines..self.lines + count).flat_map(|n| line(&content, n)).collect();
        self.lines += count;
        if torn {
            self.rest = line(&content, self.lines);
            let rest = self.rest.split_off(LINE_BYTES / 2);
            text.append(&mut self.rest);
            self.rest = rest;
        }
        self.file.write_all(&text).expect("write");
    }
    /// Moves `a.log.1` to `a.log.2` and so on.
    fn shift(&self) {
        let name = |number: u32| PathBuf::from(format!("{}.{number}", self.path.display()));
        let mut last = 0;
        while name(last + 1).exists() {
            last += 1;
        }
        for number in (1..=last).rev() {
            fs::rename(name(number), name(number + 1)).expect("rename");
        }
    }
}

impl Feeder {
    fn new(feed: Feed, dir: &Path, seed: u64) -> Self {
        fs::create_dir_all(dir).expect("a directory");
        let grow = |index: usize| {
            let name = char::from(b'a' + index as u8);
            let path = dir.join(format!("{name}.log"));
            Growing { file: append_to(&path), path, name, generation: 0, lines: 0, rest: Vec::new() }
        };
        let logs = if matches!(feed, Feed::Spool(..)) { Vec::new() } else { (0..LOGS).map(grow).collect() };
        let written = HashMap::new();
        let dir = dir.to_owned();
        Self { feed, dir, random: Random(seed), logs, rotate_every: 60, spooled: 0, written }
    }

    fn step(&mut self) {
        if let Feed::Spool(..) = self.feed {
            return if self.random.below(8) == 0 {
                self.spool()
            };
        }
        let index = self.random.below(LOGS as u64) as usize;
        if self.rotate_every > 0 && self.random.below(self.rotate_every) == 0 {
            self.rotate(index);
        }
        let (count, torn) = (1 + self.random.below(100), self.random.below(10) == 0);
        self.logs[index].append(count, torn);
        self.count(index);
    }

    fn spool(&mut self) {
        let content = format!("f{}", self.spooled);
        self.spooled += 1;
        let count = match self.random.below(10) {
            0 => 1 + self.random.below(5000),
            _ => 1 + self.random.below(300),
        };
        let text: Vec<u8> = (0..count).flat_map(|n| line(&content, n)).collect();
        // Names that begin with a dot are left alone.
        let hidden = self.dir.join(format!(".{content}"));
        fs::write(&hidden, text).expect("write");
        fs::rename(&hidden, self.dir.join(format!("{content}.txt"))).expect("rename");
        self.written.insert(content, count);
    }

    fn count(&mut self, index: usize) {
        let log = &self.logs[index];
        self.written.insert(log.content(), log.lines);
    }

    fn rotate(&mut self, index: usize) {
        if self.logs[index].lines == 0 {
            return;
        }
        self.logs[index].complete();
        self.count(index);
        let log = &mut self.logs[index];
        log.shift();
        let old = format!("{}.1", log.path.display());
        if self.feed == Feed::Rename {
            fs::rename(&log.path, old).expect("rename");
            log.file = append_to(&log.path);
        } else {
            fs::copy(&log.path, old).expect("copy");
            log.file.set_len(0).expect("truncate");
        }
        (log.generation, log.lines) = (log.generation + 1, 0);
    }

    /// Adds a line to each log.
    fn step_each(&mut self) {
        for index in 0..self.logs.len() {
            self.logs[index].append(1, false);
            self.count(index);
        }
    }

    /// Ends torn lines.
    fn complete(&mut self) {
        for index in 0..self.logs.len() {
            self.logs[index].complete();
            self.count(index);
        }
    }
}

/// A thread that feeds until it is told to stop.
struct Feeding {
    feeder: Arc<Mutex<Feeder>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Feeding {
    fn begin(feeder: Feeder) -> Self {
        let (feeder, stop) = (Arc::new(Mutex::new(feeder)), Arc::new(AtomicBool::new(false)));
        let (shared, until) = (feeder.clone(), stop.clone());
        let thread = thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                shared.lock().unwrap_or_else(PoisonError::into_inner).step();
                thread::park_timeout(Duration::from_millis(3));
            }
        });
        Self { feeder, stop, thread: Some(thread) }
    }
    /// Holds the writer up as long as the guard lives.
    fn hold(&self) -> MutexGuard<'_, Feeder> {
        self.feeder.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Ends it; what was written.
    fn end(mut self) -> HashMap<String, u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join).expect("once").expect("the writer");
        let mut feeder = self.hold();
        feeder.complete();
        feeder.written.clone()
    }
}

impl Drop for Feeding {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// How often each line is in the files of a directory, and whether they came in order.
struct Tally {
    counts: HashMap<String, Vec<u32>>,
    out_of_order: Option<String>,
}

impl Tally {
    fn of(out: &Path, written: &HashMap<String, u64>) -> Self {
        let counts = written.iter().map(|(c, n)| (c.clone(), vec![0; *n as usize])).collect();
        let mut tally = Self { counts, out_of_order: None };
        let mut highest: HashMap<String, u64> = HashMap::new();
        for path in files(out) {
            let bytes = fs::read(&path).unwrap_or_default();
            for line in bytes.split_inclusive(|b| *b == b'\n') {
                tally.add(line, &mut highest);
            }
        }
        tally
    }

    fn add(&mut self, line: &[u8], highest: &mut HashMap<String, u64>) {
        // A last line that is being written.
        let Some(line) = line.strip_suffix(b"\n") else { return };
        let text = std::str::from_utf8(line).expect("text");
        let mut words = text.split(' ');
        let parsed = (words.next(), words.next().and_then(|n| n.parse::<u64>().ok()));
        let (Some(content), Some(number)) = parsed else { panic!("a line nobody wrote: {text:?}") };
        assert_eq!(line.len() + 1, LINE_BYTES, "a torn line: {text:?}");
        let count = self.counts.get_mut(content).and_then(|c| c.get_mut(number as usize));
        let Some(count) = count else { panic!("a line nobody wrote: {text:?}") };
        *count += 1;
        if *count > 1 {
            return;
        }
        match highest.get_mut(content) {
            Some(before) if number < *before => {
                self.out_of_order.get_or_insert(format!("{content}: line {number} after line {before}"));
            }
            Some(before) => *before = number,
            None => drop(highest.insert(content.to_owned(), number)),
        }
    }

    /// Ranges of lines that are there another number of times, as a person wants to read them.
    fn ranges(&self, is_wrong: impl Fn(u32) -> bool) -> Vec<String> {
        let mut ranges = Vec::new();
        for (content, counts) in &self.counts {
            let mut at = 0;
            while let Some(from) = counts[at..].iter().position(|c| is_wrong(*c)).map(|i| at + i) {
                let count = counts[from];
                let to = counts[from..].iter().position(|c| *c != count).map_or(counts.len(), |i| from + i);
                ranges.push(format!(
                    "{content} lines {from} to {} of {}: {count} times",
                    to - 1,
                    counts.len()
                ));
                at = to;
            }
        }
        ranges.sort();
        ranges
    }

    fn missing(&self) -> Vec<String> {
        self.ranges(|count| count == 0)
    }
    fn repeated(&self) -> Vec<String> {
        self.ranges(|count| count > 1)
    }
}

/// Where everything of one run lies.
struct Place {
    dir: tempfile::TempDir,
    feed: Feed,
}

const FILE_ROLL: &str = "a1.sinks = k1\na1.sinks.k1.type = file_roll\na1.sinks.k1.channel = c1\n\
     a1.sinks.k1.sink.directory = {dir}/out\na1.sinks.k1.sink.rollInterval = 0\na1.sinks.k1.sink.batchSize = 1000\n";
const HDFS: &str = "a1.sinks = k1\na1.sinks.k1.type = hdfs\na1.sinks.k1.channel = c1\na1.sinks.k1.hdfs.path = {dir}/out\n\
     a1.sinks.k1.hdfs.fileType = DataStream\na1.sinks.k1.hdfs.rollInterval = 0\na1.sinks.k1.hdfs.rollCount = 0\n\
     a1.sinks.k1.hdfs.rollSize = 5000000\na1.sinks.k1.hdfs.batchSize = 1000\n";

impl Place {
    fn new(feed: Feed) -> Self {
        let place = Self { dir: scratch(), feed };
        fs::create_dir_all(place.out()).expect("a directory");
        place
    }
    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }
    fn out_bytes(&self) -> u64 {
        files(&self.out()).iter().filter_map(|f| fs::metadata(f).ok()).map(|m| m.len()).sum()
    }
    /// Logs in the channel's directory.
    fn logs(&self) -> usize {
        let entries = fs::read_dir(self.dir.path().join("data")).into_iter().flatten().flatten();
        entries.filter(|e| e.file_name().to_string_lossy().starts_with("shard-")).count()
    }
    fn feeding(&self, seed: u64) -> Feeding {
        Feeding::begin(Feeder::new(self.feed, &self.dir.path().join("in"), seed))
    }
    fn start(&self, shards: usize, sink: &str) -> Agent {
        let source = match self.feed {
            Feed::Spool(delete, track) => format!(
                "a1.sources.r1.type = spooldir\na1.sources.r1.spoolDir = {{dir}}/in\na1.sources.r1.pollDelay = 50\n\
                 a1.sources.r1.deletePolicy = {delete}\na1.sources.r1.trackingPolicy = {track}\n"
            ),
            feed => {
                let copies = if feed == Feed::CopyAside { "" } else { "([.][0-9]+)?" };
                format!(
                    "a1.sources.r1.type = TAILDIR\na1.sources.r1.filegroups = g\n\
                     a1.sources.r1.filegroups.g = {{dir}}/in/[a-z][.]log{copies}\n\
                     a1.sources.r1.positionFile = {{dir}}/positions.json\na1.sources.r1.maxBackoffSleep = 500\n"
                )
            }
        };
        let flow = format!(
            "a1.sources = r1\na1.channels = c1\na1.sources.r1.channels = c1\n{source}\
             a1.channels.c1.type = file\na1.channels.c1.checkpointDir = {{dir}}/checkpoint\na1.channels.c1.dataDirs = {{dir}}/data\n\
             a1.channels.c1.capacity = 10000000\na1.channels.c1.minimumRequiredSpace = 1048576\n{sink}"
        );
        let flow = flow.replace("{dir}", &self.dir.path().display().to_string());
        Start::new(self.dir.path(), flow).arg("--shards").arg(shards.to_string()).started()
    }
}

struct Settings {
    rounds: u64,
    millis: u64,
    random: Random,
    seed: u64,
}

fn settings() -> Settings {
    let seed = setting("MILLRACE_CRASH_SEED", u64::from(std::process::id()));
    eprintln!("repeat with MILLRACE_CRASH_SEED={seed}");
    let millis = setting("MILLRACE_CRASH_SECONDS", 0) * 1000;
    Settings {
        rounds: setting("MILLRACE_CRASH_ROUNDS", 5),
        millis: if millis == 0 { 400 } else { millis },
        random: Random(seed),
        seed,
    }
}

impl Settings {
    fn wait(&mut self) {
        let until = Duration::from_millis(self.random.below(self.millis));
        thread::park_timeout(until);
    }
}

/// Kill rounds without a sink; then all that is in the channel is written to one file.
///
/// Order is told only where one shard has a file all the time: with another number of shards its lines
/// lie in several logs.
fn exactly_once(feed: Feed, shards: &[usize]) {
    let mut settings = settings();
    let place = Place::new(feed);
    let feeding = place.feeding(settings.seed);
    let mut turn = shards.iter().copied().cycle();
    for _ in 0..settings.rounds {
        let agent = place.start(turn.next().expect("a number"), "");
        settings.wait();
        agent.kill();
        // Things go on while no agent runs.
        settings.wait();
    }
    let written = feeding.end();
    let total: u64 = written.values().sum();
    assert!(total > 1000, "{total} lines show nothing");
    let agent = place.start(turn.next().expect("a number"), FILE_ROLL);
    eventually(&format!("{total} lines have come out of the channel"), || {
        thread::park_timeout(Duration::from_millis(50));
        (place.out_bytes() >= total * LINE_BYTES as u64).then_some(())
    });
    assert_eq!(agent.stop().code(), Some(0), "a clean stop");
    // What the stop left in the channel, if anything, would be a line too many.
    let agent = place.start(turn.next().expect("a number"), FILE_ROLL);
    assert_eq!(agent.stop().code(), Some(0), "a clean stop");

    let tally = Tally::of(&place.out(), &written);
    let (repeated, missing) = (tally.repeated(), tally.missing());
    if !repeated.is_empty() || !missing.is_empty() {
        eprintln!("{}", fs::read_to_string(place.dir.path().join("agent.log")).unwrap_or_default());
    }
    assert_eq!((repeated, missing), (vec![], vec![]), "{total} lines were written");
    if shards.len() == 1 {
        assert_eq!(tally.out_of_order, None);
    }
    eprintln!("{total} lines in {} contents, each once, {} kills", written.len(), settings.rounds);
}

/// Kill rounds with a sink: every line arrives.
fn at_least_once(feed: Feed, shards: &[usize]) {
    let mut settings = settings();
    let place = Place::new(feed);
    let feeding = place.feeding(settings.seed);
    let mut turn = shards.iter().copied().cycle();
    for _ in 0..settings.rounds {
        let agent = place.start(turn.next().expect("a number"), HDFS);
        settings.wait();
        agent.kill();
        settings.wait();
    }
    let written = feeding.end();
    let agent = place.start(turn.next().expect("a number"), HDFS);
    arrive(&place, &written);
    assert_eq!(agent.stop().code(), Some(0), "a clean stop");
    finish(&place, &written, shards.len() == 1);
}

/// Waits until everything written is in the sink's files.
fn arrive(place: &Place, written: &HashMap<String, u64>) {
    let total: u64 = written.values().sum();
    assert!(total > 0, "no line shows nothing");
    let deadline = Instant::now() + PATIENCE;
    let mut looked_at = 0;
    loop {
        thread::park_timeout(Duration::from_millis(50));
        let (size, is_late) = (place.out_bytes(), Instant::now() >= deadline);
        if (size >= total * LINE_BYTES as u64 && looked_at != size) || is_late {
            looked_at = size;
            let missing = Tally::of(&place.out(), written).missing();
            if missing.is_empty() {
                return;
            }
            assert!(!is_late, "of {total} lines these did not arrive: {missing:?}");
        }
    }
}

fn finish(place: &Place, written: &HashMap<String, u64>, ordered: bool) {
    let tally = Tally::of(&place.out(), written);
    assert_eq!(tally.missing(), Vec::<String>::new());
    if ordered {
        assert_eq!(tally.out_of_order, None);
    }
    let is_open = |f: &PathBuf| f.extension().is_some_and(|e| e == "tmp");
    let open: Vec<_> = files(&place.out()).into_iter().filter(is_open).collect();
    assert!(open.is_empty(), "files left open: {open:?}");
    let repeated: usize = tally.counts.values().flatten().map(|c| *c as usize - 1).sum();
    eprintln!("{} lines, {repeated} of them repeated", written.values().sum::<u64>());
}

#[test]
fn taildir_under_renames_puts_each_line_into_the_channel_once() {
    exactly_once(Feed::Rename, &[2]);
}

#[test]
fn taildir_under_renames_and_other_numbers_of_shards_puts_each_line_once() {
    exactly_once(Feed::Rename, &[1, 2, 3]);
}

#[test]
fn taildir_under_copytruncate_puts_each_line_into_the_channel_once() {
    exactly_once(Feed::CopyTruncate, &[1]);
}

#[test]
fn taildir_under_copytruncate_and_other_numbers_of_shards_puts_each_line_once() {
    exactly_once(Feed::CopyTruncate, &[3, 1, 2]);
}

#[test]
fn spooldir_puts_each_line_into_the_channel_once() {
    exactly_once(Feed::Spool("never", "rename"), &[2]);
}

#[test]
fn spooldir_that_deletes_puts_each_line_once_with_other_numbers_of_shards() {
    exactly_once(Feed::Spool("immediate", "rename"), &[1, 2, 3]);
}

#[test]
fn spooldir_with_a_tracker_puts_each_line_once_with_other_numbers_of_shards() {
    exactly_once(Feed::Spool("never", "tracker_dir"), &[2, 3, 1]);
}

#[test]
fn taildir_under_renames_delivers_each_line() {
    at_least_once(Feed::Rename, &[2]);
}

#[test]
fn taildir_under_copytruncate_delivers_each_line() {
    at_least_once(Feed::CopyTruncate, &[2, 3, 1]);
}

#[test]
fn spooldir_delivers_each_line() {
    at_least_once(Feed::Spool("never", "rename"), &[3, 1, 2]);
}

/// Copies no group matches are read only for what is missing of the file that was truncated last, if some of
/// it was read. So there is one rotation between two moments at which everything has arrived; the kill comes
/// at any time.
#[test]
fn taildir_reads_the_rest_of_a_truncated_file_from_a_copy_that_no_group_matches() {
    let mut settings = settings();
    let place = Place::new(Feed::CopyAside);
    let feeding = place.feeding(settings.seed);
    feeding.hold().rotate_every = 0;
    for round in 0..settings.rounds {
        let agent = place.start(2, HDFS);
        let mut feeder = feeding.hold();
        feeder.step_each();
        arrive(&place, &feeder.written);
        drop(feeder);
        settings.wait();
        // The other rotations come while no agent runs.
        let mut agent = Some(agent);
        if round % 2 == 1 {
            agent.take().into_iter().for_each(Agent::kill);
        }
        let mut feeder = feeding.hold();
        (0..LOGS).for_each(|index| feeder.rotate(index));
        drop(feeder);
        settings.wait();
        agent.into_iter().for_each(Agent::kill);
        settings.wait();
    }
    let written = feeding.end();
    let agent = place.start(2, HDFS);
    arrive(&place, &written);
    assert_eq!(agent.stop().code(), Some(0), "a clean stop");
    finish(&place, &written, true);
}

/// The logs of shards that no longer run go when they are drained. What they knew of the files must not.
#[test]
fn positions_outlive_the_logs_they_were_written_to() {
    for feed in [Feed::Rename, Feed::Spool("never", "rename")] {
        let mut settings = settings();
        let place = Place::new(feed);
        let feeding = place.feeding(settings.seed);
        let arrived = |written: &HashMap<String, u64>| {
            let total: u64 = written.values().sum::<u64>() * LINE_BYTES as u64;
            eventually("all lines arrive", || (place.out_bytes() >= total).then_some(()));
        };
        for (many, few) in [(4, 1), (3, 2), (2, 1)] {
            let agent = place.start(many, FILE_ROLL);
            settings.wait();
            let mut feeder = feeding.hold();
            feeder.complete();
            arrived(&feeder.written);
            assert_eq!(agent.stop().code(), Some(0), "a clean stop");
            // Nothing is on the way from here to the kill: what comes twice was read twice.
            let agent = place.start(few, FILE_ROLL);
            eventually("the other logs are removed", || (place.logs() == few).then_some(()));
            agent.kill();
        }
        let written = feeding.end();
        let agent = place.start(2, FILE_ROLL);
        arrived(&written);
        assert_eq!(agent.stop().code(), Some(0), "a clean stop");
        let tally = Tally::of(&place.out(), &written);
        assert_eq!((tally.repeated(), tally.missing()), (vec![], vec![]), "{feed:?}");
    }
}
