//! Two agents on one machine: TAILDIR -> file -> avro, avro -> file -> null, with each compression.
//!
//! `scripts/bench hop` runs it. The files hold lines like those of a web server, each different. In the same
//! run stand the limits: durable direct writes (every byte is written twice, once in each channel), loopback,
//! and, per compression, a bare hop: threads that read the same files, write the bytes durably on both sides, compress, send
//! and decompress them, and nothing else (`limits::probe_hop`). Disk and loopback alone are no limit that can be
//! reached: both agents share the cores of this machine, so that with C cores, and with r, w, s and p
//! CPU-seconds per GB for reading, one log's writes, sending with receiving, and both directions of the compression, at
//! most C / (r + 2 w + s + p) GB/s can pass however fast the disk is. The bare hop measures just that sum.
//! With `BENCH_FLUME=1` Apache Flume carries the same files through the same flow (`tests/peers/flume`); it gets
//! fewer of them, since it is slower. Before the clock runs, other files have gone the same way: the logs have their
//! files then, as the bare hop's have, and the JVM has compiled. Then the counted ones appear, and the clock runs from the
//! first event received of them to the last one taken.

mod limits;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use limits::{HOP_BLOCK, Packing, Usage, probe_disk, probe_hop, probe_loopback};

/// Lines come in files of this size, so that a case takes as many as it needs.
const FILE_BYTES: usize = 25_000_000;

fn main() {
    let quick = std::env::args().any(|a| a == "--test");
    let number =
        |name: &str, default: usize| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let rounds = if quick { 1 } else { number("BENCH_ROUNDS", 3) };
    // Megabytes for a hop of ours without compression; the others get as many as suits their speed.
    let megabytes = if quick { 25 } else { number("BENCH_MEGABYTES", 2000) };
    let probing = Duration::from_secs(if quick { 1 } else { 3 });
    let flume = std::env::var_os("BENCH_FLUME")
        .map(|_| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/flume/flume")));
    let wanted = std::env::var("BENCH_CASE").unwrap_or_default();
    let dir = tempfile::Builder::new()
        .prefix("millrace-hop-")
        .tempdir_in(std::env::var("BENCH_DIR").unwrap_or_else(|_| env!("CARGO_TARGET_TMPDIR").to_owned()))
        .expect("a directory");
    // Four logs grow at their start and fill 150 MB with zeros each, once.
    let warm = if quick { 1 } else { 400_000_000 / FILE_BYTES };
    let input = Input::make(dir.path(), warm + (megabytes * 1_000_000).div_ceil(FILE_BYTES));
    println!(
        "TAILDIR -> file -> avro | avro -> file -> null, {warm} files to warm up and {} of {} MB, lines of {} bytes on average, {rounds} rounds",
        input.files.len() - warm,
        FILE_BYTES / 1_000_000,
        FILE_BYTES / input.lines_per_file[0] as usize
    );
    let cases = [
        ("none", "none", 0, 1),
        ("zstd", "zstd", 0, 1),
        ("deflate 1", "deflate", 1, 2),
        ("deflate 6", "deflate", 6, 4),
    ];
    for round in 1..=rounds {
        println!("\nround {round}");
        let disk = probe_disk(dir.path(), HOP_BLOCK, probing);
        println!("  limit: O_DIRECT|O_DSYNC, 512 KiB, 4 in flight, half of it     {:8.0} MB/s", disk / 2.0);
        let net = probe_loopback(8, probing);
        println!("  limit: loopback, 8 senders, one counting receiver            {net:8.0} MB/s");
        let mut flumes: Vec<(&str, f64)> = Vec::new();
        if let Some(script) = &flume {
            for (name, compression, level, _) in
                cases.iter().filter(|c| ["none", "deflate 6"].contains(&c.0) && c.0.contains(&wanted))
            {
                let work = dir.path().join("flume");
                let figures = run(&work, &input, (warm.min(4), 4), compression, *level, Some(script));
                figures.print(&format!("Flume 1.11, {name}"), "");
                flumes.push((name, figures.megabytes_per_second));
            }
        }
        for (name, compression, level, share) in cases.iter().filter(|c| c.0.contains(&wanted)) {
            let packing = match *compression {
                "zstd" => Packing::Zstd,
                "deflate" => Packing::Deflate(*level),
                _ => Packing::None,
            };
            let bare = probe_hop(dir.path(), &input.files, packing, probing);
            println!(
                "  limit: bare hop, {name:<10} {:6.2} CPU-s/GB {:34.0} MB/s",
                bare.cpu_seconds_per_gigabyte, bare.megabytes_per_second
            );
            let limit = net.min(disk / 2.0).min(bare.megabytes_per_second);
            let work = dir.path().join("ours");
            let counted = (input.files.len() - warm).div_ceil(*share);
            let figures = run(&work, &input, (warm, counted), compression, *level, None);
            let mut text =
                format!(" = {:3.0} % of the narrowest limit", 100.0 * figures.megabytes_per_second / limit);
            if let Some((_, theirs)) = flumes.iter().find(|(n, _)| n == name) {
                let _ = write!(text, ", {:.1} x Flume", figures.megabytes_per_second / theirs);
            }
            figures.print(name, &text);
        }
    }
}

/// The files to carry.
struct Input {
    files: Vec<PathBuf>,
    lines_per_file: Vec<u64>,
}

impl Input {
    fn make(dir: &Path, count: usize) -> Self {
        let mut random = Random(1);
        let (mut files, mut lines_per_file, mut second) = (Vec::new(), Vec::new(), 0);
        for index in 0..count {
            let mut text = String::with_capacity(FILE_BYTES + 1024);
            let mut lines = 0;
            while text.len() < FILE_BYTES {
                second += u64::from(random.below(50) == 0);
                access_line(&mut text, &mut random, second);
                lines += 1;
            }
            let path = dir.join(format!("access-{index:03}"));
            fs::write(&path, text).expect("the input");
            files.push(path);
            lines_per_file.push(lines);
        }
        Self { files, lines_per_file }
    }
}

struct Random(u64);
impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// One line in the combined log format, some 200 bytes, gzip -6 makes a fifth of many.
fn access_line(text: &mut String, random: &mut Random, second: u64) {
    const PATHS: [&str; 6] = [
        "/api/v1/users/",
        "/static/js/app-",
        "/product/view/",
        "/search?q=term",
        "/cart/items/",
        "/images/catalog/",
    ];
    const AGENTS: [&str; 4] = [
        "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/126.0",
        "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15",
        "curl/8.8.0",
    ];
    let mut pick = |limit| random.below(limit);
    let _ = writeln!(
        text,
        "10.{}.{}.{} - - [21/Nov/2026:{:02}:{:02}:{:02} +0000] \"{} {}{} HTTP/1.1\" {} {} \"https://www.example.org/{}\" \"{}\" {}.{:03}",
        pick(4),
        pick(64),
        pick(256),
        second / 3600 % 24,
        second / 60 % 60,
        second % 60,
        ["GET", "GET", "GET", "POST"][pick(4) as usize],
        PATHS[pick(6) as usize],
        pick(1_000_000),
        [200, 200, 200, 304, 404, 500][pick(6) as usize],
        pick(100_000),
        pick(1000),
        AGENTS[pick(4) as usize],
        pick(2),
        pick(1000),
    );
}

struct Figures {
    events_per_second: f64,
    megabytes_per_second: f64,
    cpu_seconds_per_gigabyte: f64,
    /// To the disk, by both agents, per byte of lines.
    written: f64,
}

impl Figures {
    fn print(&self, name: &str, rest: &str) {
        println!(
            "  {name:<24} {:8.0} k events/s {:7.0} MB/s, {:6.2} CPU-s/GB, {:4.2} x written (both){rest}",
            self.events_per_second / 1e3,
            self.megabytes_per_second,
            self.cpu_seconds_per_gigabyte,
            self.written,
        );
    }
}

/// An agent; ended when dropped.
struct Agent(Child);

impl Agent {
    fn start(dir: &Path, flow: &str, monitoring: u16, flume: Option<&Path>) -> Self {
        fs::create_dir_all(dir).expect("a directory");
        let file = dir.join("flow.properties");
        fs::write(&file, flow).expect("the flow");
        let mut command = match flume {
            Some(script) => Command::new(script),
            None => Command::new(
                // Another build, to compare.
                std::env::var_os("BENCH_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_millrace").into()),
            ),
        };
        let properties =
            ["-Dflume.monitoring.type=http".to_owned(), format!("-Dflume.monitoring.port={monitoring}")];
        match flume {
            // A heap as installations have it, and every optimisation the JVM has.
            Some(_) => command.env("FLUME_JVM", "-Xmx1g").arg("agent"),
            None => command.args(["agent", "-c", "."]),
        };
        command.args(&properties);
        let log = File::create(dir.join("log")).expect("the log");
        command.args(["-n", "a1", "-f"]).arg(&file).current_dir(dir);
        command.stdout(log.try_clone().expect("the log")).stderr(log).stdin(Stdio::null());
        Self(command.spawn().expect("the agent"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The value of a counter; none while nobody answers.
fn counter(port: u16, component: &str, name: &str) -> Option<u64> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let body = answer.get(answer.find('{')?..=answer.rfind('}')?)?;
    let json: serde_json::Value = serde_json::from_str(body).ok()?;
    json[component][name].as_str()?.parse().ok()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port()
}

fn run(
    dir: &Path,
    input: &Input,
    (warm, counted): (usize, usize),
    compression: &str,
    level: u32,
    flume: Option<&Path>,
) -> Figures {
    let all = (warm + counted).min(input.files.len());
    let lines = |files: Range<usize>| input.lines_per_file[files].iter().sum::<u64>();
    let (warm_lines, lines) = (lines(0..warm), lines(0..all));
    let tail = dir.join("in");
    fs::create_dir_all(&tail).expect("a directory");
    let bring = |files: Range<usize>| {
        for file in &input.files[files] {
            fs::hard_link(file, tail.join(file.file_name().expect("a name"))).expect("a link");
        }
    };
    bring(0..warm);
    let channel = |side: &str| {
        format!(
            "a1.channels = c1\na1.channels.c1.type = file\na1.channels.c1.dataDirs = {0}/{side}/data\n\
             a1.channels.c1.checkpointDir = {0}/{side}/checkpoint\na1.channels.c1.capacity = 20000000\n\
             a1.channels.c1.transactionCapacity = 10000\n",
            dir.display()
        )
    };
    let (port, first, second) = (free_port(), free_port(), free_port());
    let source_compression = if compression == "deflate" { "deflate" } else { "none" };
    let receiving = format!(
        "{}a1.sources = r1\na1.sources.r1.type = avro\na1.sources.r1.bind = 127.0.0.1\na1.sources.r1.port = {port}\n\
         a1.sources.r1.channels = c1\na1.sources.r1.compression-type = {source_compression}\n\
         a1.sinks = k1\na1.sinks.k1.type = null\na1.sinks.k1.channel = c1\na1.sinks.k1.batchSize = 1000\n",
        channel("second")
    );
    let mut sending = format!(
        "{}a1.sources = r1\na1.sources.r1.type = TAILDIR\na1.sources.r1.filegroups = f\n\
         a1.sources.r1.filegroups.f = {}/access-.*\na1.sources.r1.positionFile = {}/positions.json\n\
         a1.sources.r1.batchSize = 1000\na1.sources.r1.channels = c1\n\
         a1.sinks = k1\na1.sinks.k1.type = avro\na1.sinks.k1.channel = c1\na1.sinks.k1.hostname = 127.0.0.1\n\
         a1.sinks.k1.port = {port}\na1.sinks.k1.batch-size = 1000\na1.sinks.k1.compression-type = {compression}\n",
        channel("first"),
        tail.display(),
        dir.display(),
    );
    if compression == "deflate" {
        let _ = writeln!(sending, "a1.sinks.k1.compression-level = {level}");
    }
    let receiver = Agent::start(&dir.join("second"), &receiving, second, flume);
    let deadline = Instant::now() + Duration::from_secs(60);
    let complain = || {
        let log = |side: &str| fs::read_to_string(dir.join(side).join("log")).unwrap_or_default();
        format!("the hop does not end; logs:\n{}\n{}", log("first"), log("second"))
    };
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "{}", complain());
        thread::sleep(Duration::from_millis(20));
    }
    let sender = Agent::start(&dir.join("first"), &sending, first, flume);

    let deadline = Instant::now() + Duration::from_secs(180);
    let usage = || {
        let (one, two) = (Usage::of(sender.0.id()), Usage::of(receiver.0.id()));
        (one.cpu_seconds + two.cpu_seconds, one.written_bytes + two.written_bytes)
    };
    // A null sink of Flume counts nothing; its channel does.
    let taken = || {
        let sink = counter(second, "SINK.k1", "EventDrainSuccessCount");
        sink.max(counter(second, "CHANNEL.c1", "EventTakeSuccessCount"))
    };
    while taken().is_none_or(|t| t < warm_lines) {
        assert!(Instant::now() < deadline, "warming up: {}", complain());
        thread::sleep(Duration::from_millis(10));
    }
    // Its files are given back when all is taken; then they are used again.
    thread::sleep(Duration::from_secs(2));
    bring(warm..all);
    let mut began: Option<(Instant, u64, (f64, u64))> = None;
    let figures = loop {
        let (done, name) = match began {
            None => (counter(second, "SOURCE.r1", "EventReceivedCount"), "first"),
            Some(_) => (taken(), "last"),
        };
        match (began, done) {
            (Some((start, before, (cpu, written))), taken) => {
                if taken.is_some_and(|t| t >= lines) {
                    let (seconds, events) = (start.elapsed().as_secs_f64(), lines - before.min(lines - 1));
                    let bytes = events as f64 * FILE_BYTES as f64 / input.lines_per_file[0] as f64;
                    let (cpu_now, written_now) = usage();
                    break Figures {
                        events_per_second: events as f64 / seconds,
                        megabytes_per_second: bytes / seconds / 1e6,
                        cpu_seconds_per_gigabyte: (cpu_now - cpu) / (bytes / 1e9),
                        written: (written_now - written) as f64 / bytes,
                    };
                }
            }
            (None, Some(received)) if received > warm_lines => {
                began = Some((Instant::now(), received, usage()))
            }
            (None, _) => {}
        }
        assert!(Instant::now() < deadline, "waiting for the {name}: {}", complain());
        thread::sleep(Duration::from_millis(10));
    };
    drop((sender, receiver));
    fs::remove_dir_all(dir).expect("clean up");
    figures
}
