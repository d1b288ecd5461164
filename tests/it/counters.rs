//! The same flow on Apache Flume and here, fed with the same input: `/metrics` shows the same keys, and the
//! same numbers once everything has come to rest.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::http::{get, post};
use crate::peers::require_peer;
use crate::util::{Client, Start, connect, free_port, scratch};

/// A JVM on two busy cores takes its time.
const PATIENCE: Duration = Duration::from_secs(120);

/// Killed when dropped.
struct Jvm(Child);
impl Drop for Jvm {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Each source with a channel and a sink of its own, and a hop from the agent to itself.
fn flow(dir: &Path, ports: &[u16; 6]) -> String {
    let [netcat, syslog, http, hop, full, dead] = ports;
    let dir = dir.display();
    let channel = |name: &str, more: &str| {
        format!(
            "a1.channels.{name}.type = memory\na1.channels.{name}.capacity = 1000\na1.channels.{name}.transactionCapacity = 200\n{more}"
        )
    };
    let mut flow = format!(
        "a1.sources = netcat syslog http seq exec hop full spool tail\n\
         a1.channels = netcat syslog http seq exec hop full spool tail\n\
         a1.sinks = netcat syslog http seq exec hop full spool tail\n\
         a1.sources.netcat.type = netcat\na1.sources.netcat.bind = 127.0.0.1\na1.sources.netcat.port = {netcat}\n\
         a1.sinks.netcat.type = null\n\
         a1.sources.syslog.type = syslogtcp\na1.sources.syslog.host = 127.0.0.1\na1.sources.syslog.port = {syslog}\n\
         a1.sinks.syslog.type = file_roll\na1.sinks.syslog.sink.directory = {dir}/out\n\
         a1.sources.http.type = http\na1.sources.http.bind = 127.0.0.1\na1.sources.http.port = {http}\n\
         a1.sinks.http.type = logger\n\
         a1.sources.seq.type = seq\na1.sources.seq.totalEvents = 500\na1.sources.seq.batchSize = 50\n\
         a1.sinks.seq.type = null\n\
         a1.sources.exec.type = exec\na1.sources.exec.command = cat {dir}/lines\n\
         a1.sinks.exec.type = avro\na1.sinks.exec.hostname = 127.0.0.1\na1.sinks.exec.port = {hop}\n\
         a1.sources.hop.type = avro\na1.sources.hop.bind = 127.0.0.1\na1.sources.hop.port = {hop}\n\
         a1.sinks.hop.type = null\n\
         a1.sources.full.type = http\na1.sources.full.bind = 127.0.0.1\na1.sources.full.port = {full}\n\
         a1.sinks.full.type = avro\na1.sinks.full.hostname = 127.0.0.1\na1.sinks.full.port = {dead}\n\
         a1.sinks.full.batch-size = 5\n\
         a1.sources.spool.type = spooldir\na1.sources.spool.spoolDir = {dir}/spool\n\
         a1.sinks.spool.type = null\n\
         a1.sources.tail.type = TAILDIR\na1.sources.tail.filegroups = f\na1.sources.tail.filegroups.f = {dir}/tail/.*log\n\
         a1.sources.tail.positionFile = {dir}/positions.json\n\
         a1.sinks.tail.type = null\n\
         a1.channels.seq.type = file\na1.channels.seq.checkpointDir = {dir}/checkpoint\na1.channels.seq.dataDirs = {dir}/data\n\
         a1.channels.seq.capacity = 1000\na1.channels.seq.transactionCapacity = 200\n\
         a1.channels.full.type = memory\na1.channels.full.capacity = 10\na1.channels.full.transactionCapacity = 10\n\
         a1.channels.full.keep-alive = 0\n"
    );
    for name in ["netcat", "syslog", "http", "exec", "hop", "spool", "tail"] {
        flow += &channel(name, "");
    }
    for name in ["netcat", "syslog", "http", "seq", "exec", "hop", "full", "spool", "tail"] {
        flow += &format!("a1.sources.{name}.channels = {name}\na1.sinks.{name}.channel = {name}\n");
    }
    flow
}

/// Feeds an agent; everything is answered.
fn feed(dir: &Path, ports: &[u16; 6]) {
    let mut netcat = Client::connect(ports[0]);
    for number in 0..20 {
        assert_eq!(netcat.send(format!("line {number}\n")).answer(), "OK");
    }
    let mut syslog = connect(ports[1]);
    for number in 0..30 {
        writeln!(syslog, "<34>Oct 11 22:14:15 host app: message {number}").expect("send");
    }
    let event = |number: usize| format!(r#"{{"headers":{{}},"body":"{number}"}}"#);
    let post = |port: u16, body: &str| post(&mut connect(port), body);
    for number in 0..4 {
        let batch = [event(number), event(number), event(number)].join(",");
        assert_eq!(post(ports[2], &format!("[{batch}]")), "200");
    }
    assert_eq!(post(ports[2], "no JSON"), "400");
    // Two batches of five fill the channel; the third is refused.
    for status in ["200", "200", "503"] {
        let batch = (0..5).map(event).collect::<Vec<_>>().join(",");
        assert_eq!(post(ports[4], &format!("[{batch}]")), status);
    }
    let lines: String = (0..40).map(|number| format!("line {number}\n")).collect();
    let aside = dir.join("aside");
    fs::write(&aside, &lines).expect("a file");
    fs::rename(&aside, dir.join("spool/file")).expect("a finished file");
    File::options()
        .append(true)
        .open(dir.join("tail/a.log"))
        .expect("a log")
        .write_all(lines.as_bytes())
        .expect("append");
}

/// Keys that are times, or that count how often something was tried, which the clock decides: Flume's sinks
/// look at their channel every few seconds, ours wait for it; and how events fall into batches and how often
/// a dead host was tried is different in each run of Flume itself.
fn depends_on_time(component: &str, key: &str) -> bool {
    match key {
        "StartTime" | "StopTime" | "EventTakeAttemptCount" => true,
        "BatchEmptyCount" | "BatchUnderflowCount" | "BatchCompleteCount" => true,
        "AppendBatchReceivedCount" | "AppendBatchAcceptedCount" => {
            ["SOURCE.hop", "SOURCE.syslog", "SOURCE.exec", "SOURCE.tail", "SOURCE.spool"].contains(&component)
        }
        // How often a host was tried that is dead, or not yet there.
        "ConnectionFailedCount" | "EventWriteFail" => ["SINK.full", "SINK.exec"].contains(&component),
        // Flume 1.11 never counts the connections of an avro source.
        "OpenConnectionCount" => component == "SOURCE.hop",
        _ => false,
    }
}

/// What only we show, because an operator looks for it: the sinks and sources that count nothing in Flume,
/// and more about a file channel.
const OURS: [&str; 11] = [
    "SINK.hop is not in Flume",
    "SINK.http is not in Flume",
    "SINK.netcat is not in Flume",
    "SINK.seq is not in Flume",
    "SINK.spool is not in Flume",
    "SINK.tail is not in Flume",
    "SOURCE.netcat is not in Flume",
    "CHANNEL.seq has DamagedPlaceCount too",
    "CHANNEL.seq has Durability too",
    "CHANNEL.seq has SkippedEventCount too",
    "CHANNEL.seq has UnverifiedBytes too",
];

type Counters = BTreeMap<String, BTreeMap<String, String>>;

fn counters(port: u16) -> Counters {
    let json: Value = serde_json::from_str(&get(port, "/metrics")).expect("JSON");
    let text = |value: &Value| value.as_str().map_or_else(|| format!("not a string: {value}"), str::to_owned);
    let component = |value: &Value| {
        value.as_object().expect("an object").iter().map(|(key, value)| (key.clone(), text(value))).collect()
    };
    json.as_object()
        .expect("an object")
        .iter()
        .map(|(name, value)| (name.clone(), component(value)))
        .collect()
}

/// Events that leave each channel.
const DELIVERED: [(&str, &str); 8] = [
    ("netcat", "20"),
    ("syslog", "30"),
    ("http", "12"),
    ("seq", "500"),
    ("exec", "60"),
    ("hop", "60"),
    ("spool", "40"),
    ("tail", "40"),
];

/// The counters of an agent once all that was fed has left the sinks.
fn at_rest(port: u16) -> Counters {
    let mut last = Counters::new();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let missing = DELIVERED.iter().find(|(name, count)| {
            let channel = last.get(&format!("CHANNEL.{name}"));
            channel
                .and_then(|channel| channel.get("EventTakeSuccessCount"))
                .is_none_or(|found| found != count)
        });
        let Some(missing) = missing else { return last };
        assert!(Instant::now() < deadline, "{missing:?} are never taken: {last:#?}");
        std::thread::park_timeout(Duration::from_millis(100));
        last = counters(port);
    }
}

/// Directories and files the flow reads.
fn prepare(dir: &Path) {
    for name in ["out", "spool", "tail"] {
        fs::create_dir_all(dir.join(name)).expect("a directory");
    }
    fs::write(dir.join("tail/a.log"), "").expect("a log");
    let lines: String = (0..60).map(|number| format!("line {number}\n")).collect();
    fs::write(dir.join("lines"), lines).expect("a file");
}

#[test]
fn the_same_flow_counts_the_same() {
    let Some(flume) = require_peer("flume") else { return };
    let ports = || std::array::from_fn(|_| free_port());
    let monitoring =
        |port: u16| ["-Dflume.monitoring.type=http".to_owned(), format!("-Dflume.monitoring.port={port}")];

    let (theirs, their_ports, their_port) = (scratch(), ports(), free_port());
    prepare(theirs.path());
    let file = theirs.path().join("flow.properties");
    fs::write(&file, flow(theirs.path(), &their_ports)).expect("the flow");
    let log = File::create(theirs.path().join("log")).expect("the log");
    let mut command = Command::new(&flume);
    command.args(["agent", "-n", "a1", "-f"]).arg(&file).args(monitoring(their_port)).stdin(Stdio::null());
    let _flume = Jvm(command.stdout(log.try_clone().expect("the log")).stderr(log).spawn().expect("flume"));

    let (ours, our_ports, our_port) = (scratch(), ports(), free_port());
    prepare(ours.path());
    let [kind, port] = monitoring(our_port);
    let agent = Start::new(ours.path(), flow(ours.path(), &our_ports)).arg(kind).arg(port).started();
    feed(ours.path(), &our_ports);
    let here = at_rest(our_port);

    let said = || fs::read_to_string(theirs.path().join("log")).unwrap_or_default();
    for port in their_ports.iter().take(5) {
        let listens = || std::net::TcpStream::connect(("127.0.0.1", *port)).ok();
        let deadline = Instant::now() + PATIENCE;
        while listens().is_none() {
            assert!(Instant::now() < deadline, "Flume does not listen on {port}:\n{}", said());
            std::thread::park_timeout(Duration::from_millis(100));
        }
    }
    feed(theirs.path(), &their_ports);
    let there = at_rest(their_port);

    let mut differences = Vec::new();
    for (component, expected) in &there {
        let Some(found) = here.get(component) else {
            differences.push(format!("{component} is missing"));
            continue;
        };
        for (key, value) in expected {
            match found.get(key) {
                None => differences.push(format!("{component} has no {key}")),
                Some(ours) if ours != value && !depends_on_time(component, key) => {
                    differences.push(format!("{component} {key}: {ours} instead of {value}"));
                }
                Some(_) => {}
            }
        }
        let more = found.keys().filter(|key| !expected.contains_key(*key));
        differences.extend(more.map(|key| format!("{component} has {key} too")));
    }
    let more = here.keys().filter(|name| !there.contains_key(*name));
    differences.extend(more.map(|name| format!("{name} is not in Flume")));
    for counters in [&here, &there] {
        for key in ["ConnectionFailedCount", "EventWriteFail"] {
            assert_ne!(counters["SINK.full"][key], "0", "{key}");
        }
    }
    differences.retain(|difference| !OURS.contains(&difference.as_str()));
    assert!(differences.is_empty(), "{differences:#?}\n{there:#?}");
    drop(agent);
}
