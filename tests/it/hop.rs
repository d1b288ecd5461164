//! Two agents and the hop between them, under load from sockets and from a log that rotates: either is killed with `kill -9`, or the link is cut. What
//! the first was told OK for, and every line of the log, must arrive at the end of the second, in order, and what arrives twice is counted.
//!
//! `scripts/crash-test hop` makes it longer (`MILLRACE_HOP_ROUNDS`). Cutting needs the right to make network
//! namespaces; without it that test is skipped, or fails where `REQUIRE_PEERS=1` asks for it.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::crash::{LINE_BYTES, Random, line, parse, setting};
use crate::util::{Agent, Start, eventually, files, free_port, scratch};

const CONNECTIONS: usize = 4;
/// Lines a second and connection: enough that batches are always on the way, little enough that a loaded
/// machine keeps up and the files can be compared.
const RATE: u64 = 4000;
/// The window: eight batches, each of up to 512 KiB and the take that crosses it.
const WINDOW_BYTES: u64 = 8 * (512 * 1024 + 100 * LINE_BYTES as u64);

fn file_channel(dir: &Path) -> String {
    format!(
        "a1.channels = c1\na1.channels.c1.type = file\na1.channels.c1.checkpointDir = {0}/checkpoint\n\
         a1.channels.c1.dataDirs = {0}/data\na1.channels.c1.capacity = 10000000\na1.channels.c1.transactionCapacity = 10000\n\
         a1.channels.c1.minimumRequiredSpace = 1048576\n",
        dir.display()
    )
}

/// The agent the lines are sent to.
struct First {
    dir: tempfile::TempDir,
    netcat: u16,
    target: (String, u16),
    monitoring: u16,
}

impl First {
    fn start(&self, compression: &str) -> Agent {
        let (host, port) = &self.target;
        let flow = format!(
            "{}a1.sources = r1 r2\na1.sources.r1.type = netcat\na1.sources.r1.bind = 127.0.0.1\na1.sources.r1.port = {}\n\
             a1.sources.r1.channels = c1\na1.sources.r2.type = TAILDIR\na1.sources.r2.channels = c1\n\
             a1.sources.r2.filegroups = f1\na1.sources.r2.filegroups.f1 = {}/app.*\n\
             a1.sources.r2.positionFile = {}/positions.json\na1.sinks = k1\na1.sinks.k1.type = avro\na1.sinks.k1.channel = c1\n\
             a1.sinks.k1.hostname = {host}\na1.sinks.k1.port = {port}\na1.sinks.k1.compression-type = {compression}\n\
             a1.sinks.k1.connect-timeout = 1000\na1.sinks.k1.request-timeout = 1000\n",
            file_channel(self.dir.path()),
            self.netcat,
            self.logs().display(),
            self.dir.path().display(),
        );
        std::fs::create_dir_all(self.logs()).expect("a directory of logs");
        Start::new(self.dir.path(), flow)
            .arg("-Dflume.monitoring.type=http")
            .arg(format!("-Dflume.monitoring.port={}", self.monitoring))
            .started()
    }
    /// What its TAILDIR source reads.
    fn logs(&self) -> PathBuf {
        self.dir.path().join("logs")
    }
}

/// The agent the lines end in.
struct Second {
    dir: tempfile::TempDir,
    bind: String,
    port: u16,
    /// Runs it elsewhere than in this network.
    namespace: Option<Namespace>,
}

impl Second {
    fn start(&self) -> Agent {
        let out = self.out();
        std::fs::create_dir_all(&out).expect("the sink's directory");
        let flow = format!(
            "{}a1.sources = r1\na1.sources.r1.type = avro\na1.sources.r1.bind = {}\na1.sources.r1.port = {}\n\
             a1.sources.r1.channels = c1\na1.sinks = k1\na1.sinks.k1.type = file_roll\na1.sinks.k1.channel = c1\n\
             a1.sinks.k1.sink.directory = {}\na1.sinks.k1.sink.rollInterval = 0\na1.sinks.k1.sink.batchSize = 1000\n",
            file_channel(self.dir.path()),
            self.bind,
            self.port,
            out.display(),
        );
        // One shard: the order of what several connections brought one after the other is that of one log.
        let mut start = Start::new(self.dir.path(), flow).arg("--shards").arg("1");
        if let Some(namespace) = &self.namespace {
            start = start.within(&["ip", "netns", "exec", &namespace.name]);
        }
        start.started()
    }
    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }
}

/// Lines being sent over several connections to the same agent.
struct Load {
    stop: Arc<AtomicBool>,
    senders: Vec<(String, thread::JoinHandle<u64>)>,
}

impl Load {
    fn start(port: u16, label: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let senders = (0..CONNECTIONS).map(|index| {
            let (name, stop) = (format!("{label}c{index}"), stop.clone());
            let stream = crate::util::connect(port);
            (name.clone(), thread::spawn(move || send(stream, &name, &stop)))
        });
        let senders = senders.collect();
        Self { stop, senders }
    }
    /// Ends it and notes how many lines of each connection were answered.
    fn end(self, answered: &mut HashMap<String, u64>) {
        self.stop.store(true, Ordering::Relaxed);
        for (name, sender) in self.senders {
            answered.insert(name, sender.join().expect("a sender"));
        }
    }
}

/// Sends lines until told to stop or cut off; returns how many were answered by OK. Told to stop, it waits for
/// all answers.
fn send(mut stream: TcpStream, name: &str, stop: &AtomicBool) -> u64 {
    let mut answers = stream.try_clone().expect("a second handle");
    let reader = thread::spawn(move || {
        let (mut bytes, mut buffer) = (0, [0; 65536]);
        while let Ok(count @ 1..) = answers.read(&mut buffer) {
            for (offset, byte) in buffer.iter().enumerate().take(count) {
                assert_eq!(*byte, b"OK\n"[(bytes + offset) % 3], "an answer that is not OK");
            }
            bytes += count;
        }
        bytes as u64 / 3
    });
    let start = Instant::now();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let due = start + Duration::from_millis(number * 1000 / RATE);
        thread::park_timeout(due.saturating_duration_since(Instant::now()));
        let chunk: String = (0..40).map(|i| line(name, number + i)).collect();
        if stream.write_all(chunk.as_bytes()).is_err() {
            break;
        }
        number += 40;
    }
    let _ = stream.shutdown(std::net::Shutdown::Write);
    reader.join().expect("the answers")
}

/// Lines of a log file before it is renamed and a new one begun.
const LOG_LINES: u64 = 3000;

/// An application that writes its log all the time, whether an agent reads it or not.
struct Application {
    stop: Arc<AtomicBool>,
    writer: thread::JoinHandle<HashMap<String, u64>>,
}

impl Application {
    fn start(logs: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        std::fs::create_dir_all(&logs).expect("a directory of logs");
        Self { stop, writer: thread::spawn(move || write_logs(&logs, &stopped)) }
    }
    /// Ends it and notes how many lines each file has.
    fn end(self, written: &mut HashMap<String, u64>) {
        self.stop.store(true, Ordering::Relaxed);
        written.extend(self.writer.join().expect("the application"));
    }
}

/// Writes `app.log` until told to stop, and renames it each time it is full.
fn write_logs(logs: &Path, stop: &AtomicBool) -> HashMap<String, u64> {
    let mut written = HashMap::new();
    let (current, start) = (logs.join("app.log"), Instant::now());
    let mut total = 0;
    for generation in 0.. {
        let name = format!("log{generation}");
        let mut file = std::fs::File::create_new(&current).expect("a log");
        let mut number = 0;
        while number < LOG_LINES && !stop.load(Ordering::Relaxed) {
            let due = start + Duration::from_millis(total * 1000 / RATE);
            thread::park_timeout(due.saturating_duration_since(Instant::now()));
            let chunk: String = (0..40).map(|i| line(&name, number + i)).collect();
            file.write_all(chunk.as_bytes()).expect("a write to the log");
            number += 40;
            total += 40;
        }
        written.insert(name, number);
        if stop.load(Ordering::Relaxed) {
            break;
        }
        std::fs::rename(&current, logs.join(format!("app.log.{generation}"))).expect("a rotation");
    }
    written
}

/// What has arrived: complete lines in the order of the files. A line that a kill tore can only be the last of
/// its file.
fn arrived(out: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for file in files(out) {
        let bytes = std::fs::read(&file).expect("a file of the sink");
        let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
        all.extend(String::from_utf8_lossy(&bytes[..whole]).lines().map(str::to_owned));
    }
    all
}

/// Waits until every answered line is there; gives back all that arrived.
fn wait_for(answered: &HashMap<String, u64>, out: &Path) -> Vec<String> {
    let total: u64 = answered.values().sum();
    assert!(total > 0, "nothing was answered: the test shows nothing");
    eventually(&format!("all {total} answered lines have arrived"), || {
        let lines = arrived(out);
        let mut seen: HashMap<&str, HashSet<u64>> = HashMap::new();
        for (name, number) in lines.iter().filter_map(|l| parse(l)) {
            seen.entry(name).or_default().insert(number);
        }
        let complete = answered.iter().all(|(name, count)| {
            seen.get(name.as_str()).is_some_and(|numbers| (0..*count).all(|n| numbers.contains(&n)))
                || *count == 0
        });
        if !complete {
            thread::park_timeout(Duration::from_millis(200));
        }
        complete.then_some(lines)
    })
}

/// Checks that lines are whole and in order the first time they arrive; returns how many are different.
fn distinct_in_order(lines: &[String]) -> u64 {
    let mut highest: HashMap<&str, u64> = HashMap::new();
    let mut seen = HashSet::new();
    for text in lines {
        assert_eq!(text.len() + 1, LINE_BYTES, "a torn line: {text:?}");
        let Some((name, number)) = parse(text) else { panic!("a line nobody sent: {text:?}") };
        if seen.insert((name, number)) {
            let next = highest.entry(name).or_insert(0);
            assert!(number >= *next, "{name}: line {number} after line {next}");
            *next = number + 1;
        }
    }
    seen.len() as u64
}

#[test]
fn kill_either_side_of_a_hop() {
    let rounds = setting("MILLRACE_HOP_ROUNDS", 4);
    let seed = setting("MILLRACE_CRASH_SEED", u64::from(std::process::id()));
    eprintln!("repeat with MILLRACE_CRASH_SEED={seed}");
    let mut random = Random(seed);
    let second = Second { dir: scratch(), bind: "127.0.0.1".to_owned(), port: free_port(), namespace: None };
    let target = ("127.0.0.1".to_owned(), second.port);
    let first = First { dir: scratch(), netcat: free_port(), target, monitoring: free_port() };
    let mut answered = HashMap::new();

    let mut receiver = second.start();
    let mut sender = first.start("zstd");
    let mut load = Load::start(first.netcat, "r0");
    let application = Application::start(first.logs());
    let mut kills = [0u64; 2];
    for round in 0..rounds {
        thread::park_timeout(Duration::from_millis(300 + random.below(900)));
        // Both sides have their turn in a short run, too; sometimes both at once.
        let victims = if random.below(5) == 0 { 3 } else { 1 + round % 2 };
        if victims == 3 {
            receiver.signal("KILL");
        }
        if victims & 1 != 0 {
            kills[0] += 1;
            sender.kill();
            load.end(&mut answered);
            sender = first.start(["zstd", "none"][random.below(2) as usize]);
            load = Load::start(first.netcat, &format!("r{}", round + 1));
        }
        if victims & 2 != 0 {
            kills[1] += 1;
            receiver.kill();
            thread::park_timeout(Duration::from_millis(random.below(300)));
            receiver = second.start();
        }
    }
    thread::park_timeout(Duration::from_millis(500));
    load.end(&mut answered);
    let mut written = HashMap::new();
    application.end(&mut written);
    let (told, logged): (u64, u64) = (answered.values().sum(), written.values().sum());
    assert!(told > 0, "nothing was answered: the test shows nothing");
    answered.extend(written);
    wait_for(&answered, &second.out());
    assert_eq!(sender.stop().code(), Some(0), "a clean stop of the first");
    assert_eq!(receiver.stop().code(), Some(0), "a clean stop of the second");

    let lines = wait_for(&answered, &second.out());
    let distinct = distinct_in_order(&lines);
    let duplicates = lines.len() as u64 - distinct;
    // The first repeats its window, whoever ended; the second what its sink had not committed, which is less.
    // What was taken is noted in every frame put, so that under load nothing more comes again.
    let most = (kills[0] + kills[1]) * WINDOW_BYTES / LINE_BYTES as u64;
    eprintln!(
        "{told} lines answered, {logged} in log files, {} arrived, {duplicates} of them again (at most {most}); killed: first {}, second {}",
        lines.len(),
        kills[0],
        kills[1]
    );
    assert!(duplicates <= most, "{duplicates} duplicates, more than {most}");
}

/// A network of its own behind a pair of virtual interfaces, removed when dropped.
struct Namespace {
    name: String,
    outside: String,
    /// `10.x.y`
    net: String,
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).stdin(Stdio::null()).output();
    let output = output.map_err(|e| format!("ip: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

impl Namespace {
    fn make() -> Result<Self, String> {
        let id = std::process::id();
        let made = Self {
            name: format!("millrace-{id}"),
            outside: format!("mr{id}"),
            net: format!("10.{}.{}", 64 + id / 256 % 64, id % 256),
        };
        let Self { name, outside, net } = &made;
        ip(&format!("netns add {name}"))?;
        ip(&format!("link add {outside} type veth peer name inside netns {name}"))?;
        ip(&format!("addr add {net}.1/30 dev {outside}"))?;
        ip(&format!("link set {outside} up"))?;
        ip(&format!("-n {name} addr add {net}.2/30 dev inside"))?;
        ip(&format!("-n {name} link set inside up"))?;
        ip(&format!("-n {name} link set lo up"))?;
        Ok(made)
    }
    fn link(&self, state: &str) {
        ip(&format!("-n {} link set inside {state}", self.name)).expect("the link");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The pair goes with the namespace only when its last process has ended; so it goes first.
        let _ = ip(&format!("link del {}", self.outside));
        let _ = ip(&format!("netns del {}", self.name));
    }
}

/// A counter as the agent's monitoring shows it.
fn counter(port: u16, component: &str, name: &str) -> u64 {
    let text = crate::http::get(port, "/metrics");
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    json[component][name].as_str().and_then(|n| n.parse().ok()).expect("a counter")
}

#[test]
fn cut_the_link_of_a_hop() {
    let cuts = setting("MILLRACE_HOP_ROUNDS", 2);
    let seed = setting("MILLRACE_CRASH_SEED", u64::from(std::process::id()));
    let mut random = Random(seed);
    let namespace = match Namespace::make() {
        Ok(namespace) => namespace,
        Err(reason) => {
            assert!(std::env::var("REQUIRE_PEERS").is_err(), "a network namespace is required: {reason}");
            eprintln!("skipped: no network namespace: {reason}");
            return;
        }
    };
    let bind = format!("{}.2", namespace.net);
    let second = Second { dir: scratch(), bind: bind.clone(), port: free_port(), namespace: Some(namespace) };
    let first =
        First { dir: scratch(), netcat: free_port(), target: (bind, second.port), monitoring: free_port() };
    let receiver = second.start();
    let sender = first.start("none");
    let load = Load::start(first.netcat, "cut");
    let delivered = || counter(first.monitoring, "SINK.k1", "EventDrainSuccessCount");
    let namespace = second.namespace.as_ref().expect("the namespace");
    for _ in 0..cuts {
        let before = delivered();
        eventually("the hop delivers", || (delivered() > before).then_some(()));
        thread::park_timeout(Duration::from_millis(random.below(500)));
        let failures = counter(first.monitoring, "SINK.k1", "EventWriteFail");
        namespace.link("down");
        eventually("the sink notices", || {
            (counter(first.monitoring, "SINK.k1", "EventWriteFail") > failures).then_some(())
        });
        namespace.link("up");
    }
    let mut answered = HashMap::new();
    load.end(&mut answered);
    wait_for(&answered, &second.out());
    let count = |name| counter(first.monitoring, "SINK.k1", name);
    // The waiting ones are counted when everything is quiet: all answers read, nothing on the way.
    eventually("the hop is quiet", || {
        (count("EventDrainSuccessCount") >= answered.values().sum::<u64>()).then_some(())
    });
    let repeated = count("EventDrainAttemptCount") - count("EventDrainSuccessCount");
    assert_eq!(sender.stop().code(), Some(0), "a clean stop of the first");
    assert_eq!(receiver.stop().code(), Some(0), "a clean stop of the second");

    let lines = wait_for(&answered, &second.out());
    let distinct = distinct_in_order(&lines);
    let duplicates = lines.len() as u64 - distinct;
    let most = cuts * WINDOW_BYTES / LINE_BYTES as u64;
    eprintln!(
        "{distinct} lines, {duplicates} of them again; the sink counted {repeated} sent without an answer (at most {most}), {cuts} cuts"
    );
    assert_eq!(distinct, answered.values().sum::<u64>(), "every line was answered");
    assert!(repeated <= most, "{repeated} sent without an answer, more than {most}");
    assert!(duplicates <= repeated, "{duplicates} duplicates, the sink counted {repeated}");
}
