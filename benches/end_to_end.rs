//! Whole agents under load, beside the limits of the machine measured in the same run.
//!
//! `scripts/bench` runs it. For each case: a flow, real connections that send 200-byte lines and count the
//! answers, events per second, CPU and bytes written per byte received from `/proc`. Before and after stand
//! two probes: a loop of durable direct writes over zero-filled space, four in flight, and a blaster over
//! loopback. Read the ratios; absolute figures differ from machine to machine and from minute to minute.

mod limits;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use limits::{CHUNK_BYTES, LINE_BYTES, Usage, probe_disk, probe_loopback};

fn main() {
    // `cargo bench -- --test` only checks that it runs.
    let quick = std::env::args().any(|a| a == "--test");
    let seconds =
        |name: &str, default: u64| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let time = Duration::from_secs(if quick { 1 } else { seconds("BENCH_SECONDS", 10) });
    let rounds = if quick { 1 } else { seconds("BENCH_ROUNDS", 3) };
    let dir = tempfile::Builder::new()
        .prefix("millrace-bench-")
        .tempdir_in(std::env::var("BENCH_DIR").unwrap_or_else(|_| env!("CARGO_TARGET_TMPDIR").to_owned()))
        .expect("a directory");

    println!(
        "lines of {LINE_BYTES} bytes, {} s a run, {rounds} rounds, cases in alternation",
        time.as_secs()
    );
    let cases = [
        Case { name: "netcat -> file (commit) -> null", connections: 8, channel: FILE, args: &[] },
        Case { name: "the same, one connection", connections: 1, channel: FILE, args: &[] },
        Case {
            name: "the same, 8 connections, engine portable",
            connections: 8,
            channel: FILE,
            args: &["--engine", "portable"],
        },
        Case { name: "netcat -> memory -> null", connections: 8, channel: MEMORY, args: &[] },
    ];
    let wanted = std::env::var("BENCH_CASE").unwrap_or_default();
    for round in 1..=rounds {
        println!("\nround {round}");
        let disk = probe_disk(dir.path(), 256 * 1024, time.min(Duration::from_secs(3)));
        println!("  limit: O_DIRECT|O_DSYNC, 256 KiB, 4 in flight        {disk:8.0} MB/s");
        let net = probe_loopback(8, time.min(Duration::from_secs(3)));
        println!("  limit: loopback, 8 senders, one counting receiver    {net:8.0} MB/s");
        for (index, case) in cases.iter().enumerate().filter(|(_, c)| c.name.contains(&wanted)) {
            let work = dir.path().join(format!("{round}-{index}"));
            let result = case.run(&work, time);
            let limit = if case.channel == FILE { disk.min(net) } else { net };
            println!(
                "  {:<44} {:8.0} k events/s {:7.0} MB/s = {:3.0} % of the limit, {:5.2} CPU-s/GB, {:4.2} bytes written per byte, {:3} MB RSS",
                case.name,
                result.events_per_second / 1e3,
                result.megabytes_per_second,
                100.0 * result.megabytes_per_second / limit,
                result.cpu_seconds_per_gigabyte,
                result.written_per_received,
                result.rss_megabytes,
            );
            fs::remove_dir_all(&work).expect("clean up");
        }
    }
}

const FILE: &str = "a1.channels.c1.type = file\na1.channels.c1.dataDirs = DIR/data\na1.channels.c1.checkpointDir = DIR/checkpoint\n\
                    a1.channels.c1.capacity = 20000000\na1.channels.c1.transactionCapacity = 10000\n";
const MEMORY: &str = "a1.channels.c1.type = memory\na1.channels.c1.capacity = 2000000\na1.channels.c1.transactionCapacity = 10000\n";

struct Case {
    name: &'static str,
    connections: usize,
    channel: &'static str,
    args: &'static [&'static str],
}

struct Figures {
    events_per_second: f64,
    megabytes_per_second: f64,
    cpu_seconds_per_gigabyte: f64,
    written_per_received: f64,
    rss_megabytes: u64,
}

impl Case {
    fn run(&self, dir: &Path, time: Duration) -> Figures {
        fs::create_dir_all(dir).expect("a directory");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let channel = self.channel.replace("DIR", &dir.display().to_string());
        let flow = format!(
            "a1.sources = r1\na1.channels = c1\na1.sinks = k1\n\
             a1.sources.r1.type = netcat\na1.sources.r1.bind = 127.0.0.1\na1.sources.r1.port = {port}\na1.sources.r1.channels = c1\n\
             {channel}\
             a1.sinks.k1.type = null\na1.sinks.k1.batchSize = 1000\na1.sinks.k1.channel = c1\n"
        );
        let file = dir.join("flow.properties");
        fs::write(&file, flow).expect("the flow");
        let mut agent = Command::new(env!("CARGO_BIN_EXE_millrace"))
            .args(["agent", "-n", "a1", "-c", "."])
            .arg("-f")
            .arg(&file)
            .args(self.args)
            .stdout(Stdio::null())
            .stderr(File::create(dir.join("log")).expect("the log"))
            .spawn()
            .expect("the agent");
        let connections: Vec<TcpStream> =
            (0..self.connections).map(|_| connect(port, &mut agent, dir)).collect();

        let before = Usage::of(agent.id());
        let start = Instant::now();
        let stop = Arc::new(AtomicBool::new(false));
        let workers: Vec<_> = connections
            .into_iter()
            .map(|connection| {
                let stop = stop.clone();
                thread::spawn(move || blast(connection, &stop))
            })
            .collect();
        thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        let events: u64 = workers.into_iter().map(|w| w.join().expect("a connection")).sum();
        let elapsed = start.elapsed().as_secs_f64();
        let after = Usage::of(agent.id());
        let _ = Command::new("kill").arg(agent.id().to_string()).status();
        let status = agent.wait().expect("the agent's end");
        assert!(
            status.success(),
            "the agent ended with {status}; log:\n{}",
            fs::read_to_string(dir.join("log")).unwrap_or_default()
        );

        let bytes = events as f64 * LINE_BYTES as f64;
        Figures {
            events_per_second: events as f64 / elapsed,
            megabytes_per_second: bytes / elapsed / 1e6,
            cpu_seconds_per_gigabyte: (after.cpu_seconds - before.cpu_seconds) / (bytes / 1e9),
            written_per_received: (after.written_bytes - before.written_bytes) as f64 / bytes,
            rss_megabytes: after.rss_bytes / 1_000_000,
        }
    }
}

fn connect(port: u16, agent: &mut Child, dir: &Path) -> TcpStream {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) {
            return stream;
        }
        let ended = agent.try_wait().ok().flatten();
        assert!(
            ended.is_none() && Instant::now() < deadline,
            "the agent does not listen; log:\n{}",
            fs::read_to_string(dir.join("log")).unwrap_or_default()
        );
        thread::sleep(Duration::from_millis(5));
    }
}

/// Sends lines until told to stop, then waits until each is answered; returns how many were.
fn blast(mut connection: TcpStream, stop: &AtomicBool) -> u64 {
    let mut line = vec![b'x'; LINE_BYTES];
    line[LINE_BYTES - 1] = b'\n';
    let chunk = line.repeat(CHUNK_BYTES / LINE_BYTES);
    let sent = Arc::new(AtomicU64::new(u64::MAX));
    let answers = {
        let mut connection = connection.try_clone().expect("a second handle");
        let sent = sent.clone();
        thread::spawn(move || {
            let (mut buffer, mut bytes) = (vec![0; 256 * 1024], 0u64);
            // An answer is `OK\n`.
            while bytes / 3 < sent.load(Ordering::Acquire) {
                match connection.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) => bytes += count as u64,
                    Err(error) => panic!("reading answers: {error}"),
                }
            }
            bytes / 3
        })
    };
    let mut lines = 0;
    while !stop.load(Ordering::Relaxed) {
        connection.write_all(&chunk).expect("send");
        lines += (CHUNK_BYTES / LINE_BYTES) as u64;
    }
    // One more line, so that the reader wakes up after it knows how many there are.
    sent.store(lines + 1, Ordering::Release);
    connection.write_all(&line).expect("send");
    let answered = answers.join().expect("the answers");
    assert_eq!(answered, lines + 1, "lines answered by OK");
    answered
}
