//! Appending to the write-ahead log, for each engine and durability class, beside bare loops of
//! `O_DIRECT|O_DSYNC` writes in the same run.
//!
//! A transaction is 100 lines of 200 bytes. `1` and `8` writers append one each and wait for its commit: the
//! latency of a commit, alone and in groups. `64` keeps 64 commits open: full load. A consumer acknowledges
//! what arrives, so that segments are recycled as in an agent. The bare loops are the limits: the same bytes in
//! one write each, one at a time; and 256 KiB a write, four in flight, which fills the disk.
//!
//! ```text
//! scripts/bench hot          BENCH_SECONDS=5 BENCH_ROUNDS=1 BENCH_DIR=/some/disk BENCH_ENGINE=uring
//! ```
//!
//! Ratios hold from machine to machine, figures do not.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use millrace::io::buffer::PooledBuf;
use millrace::io::{EngineKind, Io, OpenOptions, probe, run_local, spawn};
use millrace::wal::{Durability, Log, LogOptions, OnDamage, Record};

/// Lines of 200 bytes, as a source hands them over: this many a transaction.
const LINES: usize = 100;
const LINE: usize = 200;
const SIZE: usize = LINES * LINE;
/// Size of a write that fills the disk.
const LARGE: usize = 256 << 10;

struct Lines;

impl Record for Lines {
    fn events(&self) -> u32 {
        LINES as u32
    }
    fn size(&self) -> usize {
        SIZE
    }
    fn write(&self, out: &mut [u8]) {
        out.fill(b'x');
    }
}

fn options(directory: &Path, durability: Durability) -> LogOptions {
    LogOptions {
        directory: directory.join("log"),
        channel: "bench".into(),
        shard: 0,
        segment_size_max: 256 << 20,
        transaction_size_max: 256 << 20,
        minimum_space: 0,
        durability,
        state_interval: Duration::from_secs(30),
        copies: Vec::new(),
        on_damage: OnDamage::Stop,
        take_only: false,
        keys: std::sync::Arc::default(),
    }
}

/// Times of single operations, in nanoseconds.
type Times = Rc<RefCell<Vec<u64>>>;

/// What one run showed.
struct Figures {
    bytes: f64,
    seconds: f64,
    /// Microseconds.
    percentiles: [f64; 3],
    written: f64,
    cpu_seconds: f64,
}

impl Figures {
    fn rate(&self) -> f64 {
        self.bytes / self.seconds
    }
}

/// Bytes this process has had written, and the seconds of CPU it has used.
fn usage() -> (f64, f64) {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
    let io = read("io");
    let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok());
    let stat = read("stat");
    let ticks = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    let ticks: f64 = ticks.filter_map(|field| field.parse::<f64>().ok()).sum();
    (written.unwrap_or(0.0), ticks / 100.0)
}

/// Runs so many writers for a time; each operation is timed and moves `size` bytes.
async fn measure<F: Future<Output = ()> + 'static>(
    writers: usize,
    time: Duration,
    size: usize,
    operation: impl Fn() -> F + Clone + 'static,
) -> Figures {
    let times: Times = Rc::default();
    let (written, cpu) = usage();
    let start = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|_| {
            let (operation, times) = (operation.clone(), times.clone());
            spawn(async move {
                while start.elapsed() < time {
                    let began = Instant::now();
                    operation().await;
                    times.borrow_mut().push(began.elapsed().as_nanos() as u64);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    let seconds = start.elapsed().as_secs_f64();
    let after = usage();
    let mut times = times.take();
    times.sort_unstable();
    let at = |share: f64| {
        let index = (times.len() as f64 * share) as usize;
        times.get(index.min(times.len() - 1)).map_or(0.0, |nanos| *nanos as f64 / 1e3)
    };
    Figures {
        bytes: (times.len() * size) as f64,
        seconds,
        percentiles: [at(0.5), at(0.99), at(0.999)],
        written: after.0 - written,
        cpu_seconds: after.1 - cpu,
    }
}

/// Acknowledges everything as it comes.
async fn consume(log: Log) {
    loop {
        let ready = log.ready();
        let mut any = false;
        while let Some(entry) = log.next().await.expect("read") {
            log.ack(entry.first_seq, entry.first_seq + u64::from(entry.events));
            any = true;
        }
        if any {
            log.acked();
        }
        ready.await;
    }
}

fn log(
    kind: EngineKind,
    directory: &Path,
    durability: Durability,
    writers: usize,
    time: Duration,
) -> Figures {
    let run = async |io: Io| {
        let (log, _) = Log::open(&io, options(directory, durability)).await.expect("open");
        let consumer = spawn(consume(log.clone()));
        let append = {
            let log = log.clone();
            move || {
                let log = log.clone();
                async move {
                    log.append(&[Lines], &[]).await.expect("append").await.expect("commit");
                }
            }
        };
        // Segments grow to their size under load before anything is measured.
        measure(writers, time, SIZE, append.clone()).await;
        let figures = measure(writers, time, SIZE, append).await;
        consumer.abort();
        log.close().await;
        figures
    };
    run_local(kind, run).expect("engine")
}

/// Writes one behind the other into a file that was written before.
fn bare(kind: EngineKind, directory: &Path, size: usize, in_flight: usize, time: Duration) -> Figures {
    const FILE_SIZE: u64 = 256 << 20;
    let run = async |io: Io| {
        let size = size.next_multiple_of(4096) as u64;
        let file = io.open(&directory.join("bare"), OpenOptions::DIRECT).await.expect("open");
        let zeros = PooledBuf::unpooled(1 << 20).freeze();
        for at in 0..FILE_SIZE >> 20 {
            file.write_at(zeros.clone(), at << 20).await.expect("write");
        }
        let data = PooledBuf::unpooled(size as usize).freeze();
        let next = Rc::new(Cell::new(0));
        let write = move || {
            let (file, data, next) = (file.clone(), data.clone(), next.clone());
            async move {
                let at = next.replace(next.get() + 1) * size % (FILE_SIZE - size) / 4096 * 4096;
                file.write_at(data, at).await.expect("write");
            }
        };
        measure(in_flight, time, size as usize, write).await
    };
    run_local(kind, run).expect("engine")
}

fn show(what: &str, figures: &Figures, limit: f64, alone: f64) {
    let [p50, p99, p999] = figures.percentiles;
    println!(
        "  {what:<28} {:5.2} GB/s {:6.0} k events/s  {:3.0} %   p50 {p50:6.0}  p99 {p99:6.0} ({:4.1} x)  p99.9 {p999:6.0} us   {:5.3} written/byte  {:5.2} CPU-s/GB",
        figures.rate() / 1e9,
        figures.bytes / LINE as f64 / figures.seconds / 1e3,
        100.0 * figures.rate() / limit,
        p99 / alone,
        figures.written / figures.bytes,
        figures.cpu_seconds / (figures.bytes / 1e9),
    );
}

fn main() {
    // `cargo bench -- --test` only checks that it runs.
    let quick = std::env::args().any(|argument| argument == "--test");
    let number = |name: &str, default: f64| {
        std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
    };
    let time = Duration::from_secs_f64(if quick { 0.1 } else { number("BENCH_SECONDS", 5.0) });
    let rounds = if quick { 1 } else { number("BENCH_ROUNDS", 1.0) as u32 };
    let base = std::env::var_os("BENCH_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let directory = tempfile::tempdir_in(base).expect("a directory to write to");
    let path = directory.path();
    let wanted = std::env::var("BENCH_ENGINE").unwrap_or_default();
    let engines = [EngineKind::Uring, EngineKind::Portable, EngineKind::Glommio];
    // An engine that this machine or this build has not got is not measured, and not passed over in silence.
    let engines = engines.into_iter().filter(|kind| kind.to_string().contains(&wanted)).filter(|kind| {
        let (chosen, why) = probe::choose(Some(*kind));
        if let Some(why) = why {
            println!("{kind}: {why}");
        }
        chosen == *kind
    });
    let engines: Vec<EngineKind> = engines.collect();

    println!(
        "transactions of {LINES} lines of {LINE} bytes, {} s a run; % of the full bare loop, p99 in times that of one bare write",
        time.as_secs_f64()
    );
    for round in 1..=rounds {
        for kind in &engines {
            println!("\nround {round}, engine {kind}");
            let alone = bare(*kind, path, SIZE, 1, time);
            let full = bare(*kind, path, LARGE, 4, time);
            let (limit, p99) = (full.rate(), alone.percentiles[1]);
            show("limit: 20 KiB, 1 in flight", &alone, limit, p99);
            show("limit: 256 KiB, 4 in flight", &full, limit, p99);
            for durability in
                [Durability::Commit, Durability::Interval(Duration::from_secs(1)), Durability::Os]
            {
                for writers in [1, 8, 64] {
                    let figures = log(*kind, path, durability, writers, time);
                    show(&format!("{durability}, {writers} writers"), &figures, limit, p99);
                }
            }
        }
    }
}
