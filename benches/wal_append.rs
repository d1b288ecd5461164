//! Appending to the write-ahead log, every commit durable, beside a bare loop of `O_DIRECT|O_DSYNC` writes.
//!
//! `one` appends a transaction and waits for its commit: a commit's latency. `eight` does so from eight tasks
//! at once: group commit. `deep` keeps 64 commits open: what the disk can do. A consumer acknowledges what
//! arrives, so that log files are recycled as in an agent. `bare` is the limit: the same bytes in one write
//! each, four in flight for `deep`.
//!
//! ```text
//! cargo bench --bench wal_append            BENCH_DIR=/some/disk to choose the disk
//! ```

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use millrace::io::buffer::PooledBuf;
use millrace::io::{EngineKind, Io, OpenOptions, probe, run_local, spawn};
use millrace::wal::{Durability, Log, LogOptions, OnDamage, Record};

/// Lines of 200 bytes, as a source hands them over: this many a transaction.
const LINES: usize = 100;
const LINE: usize = 200;
const SIZE: usize = LINES * LINE;

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

/// Appends `count` transactions from so many tasks; the time from the first to the last commit.
async fn append(log: &Log, tasks: usize, count: u64) -> Duration {
    let left = Rc::new(Cell::new(count));
    let start = Instant::now();
    let tasks: Vec<_> = (0..tasks)
        .map(|_| {
            let (log, left) = (log.clone(), left.clone());
            spawn(async move {
                while left.get() > 0 {
                    left.set(left.get() - 1);
                    let commit = log.append(&[Lines], &[]).await.expect("append");
                    commit.await.expect("commit");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    start.elapsed()
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

fn log(kind: EngineKind, directory: &Path, durability: Durability, tasks: usize, count: u64) -> Duration {
    let run = async |io: Io| {
        let (log, _) = Log::open(&io, options(directory, durability)).await.expect("open");
        let consumer = spawn(consume(log.clone()));
        // Log files grow to their size under load before anything is measured.
        append(&log, tasks, 2_000).await;
        let took = append(&log, tasks, count).await;
        consumer.abort();
        log.close().await;
        took
    };
    run_local(kind, run).expect("engine")
}

/// Writes the same bytes, rounded up to blocks, one behind the other into a file that was written before.
fn bare(kind: EngineKind, directory: &Path, in_flight: usize, count: u64) -> Duration {
    const FILE_SIZE: u64 = 64 << 20;
    let run = async |io: Io| {
        let size = SIZE.next_multiple_of(4096) as u64;
        let file = io.open(&directory.join("bare"), OpenOptions::DIRECT).await.expect("open");
        let zeros = PooledBuf::unpooled(1 << 20).freeze();
        for at in 0..FILE_SIZE >> 20 {
            file.write_at(zeros.clone(), at << 20).await.expect("write");
        }
        let data = PooledBuf::unpooled(size as usize).freeze();
        let next = Rc::new(Cell::new(0));
        let start = Instant::now();
        let tasks: Vec<_> = (0..in_flight)
            .map(|_| {
                let (file, data, next) = (file.clone(), data.clone(), next.clone());
                spawn(async move {
                    while next.get() < count {
                        let at = next.replace(next.get() + 1) * size % (FILE_SIZE - size);
                        file.write_at(data.clone(), at / 4096 * 4096).await.expect("write");
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no panic");
        }
        start.elapsed()
    };
    run_local(kind, run).expect("engine")
}

fn benches(c: &mut Criterion) {
    let base = std::env::var_os("BENCH_DIR").map_or_else(
        || PathBuf::from(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into())),
        PathBuf::from,
    );
    let directory = tempfile::tempdir_in(base).expect("a directory to write to");
    let path = directory.path();
    let mut group = c.benchmark_group("wal_append");
    group.sample_size(10).throughput(Throughput::Bytes(SIZE as u64));
    let mut kinds = vec![EngineKind::Portable];
    if probe::io_uring().is_ok() {
        kinds.insert(0, EngineKind::Uring);
    }
    for kind in kinds {
        for (name, tasks) in [("one", 1), ("eight", 8), ("deep", 64)] {
            let id = BenchmarkId::new(format!("commit/{name}"), kind);
            group.bench_function(id, |b| {
                b.iter_custom(|count| log(kind, path, Durability::Commit, tasks, count));
            });
        }
        let id = BenchmarkId::new("os/eight", kind);
        group.bench_function(id, |b| b.iter_custom(|count| log(kind, path, Durability::Os, 8, count)));
        for (name, in_flight) in [("one", 1), ("deep", 4)] {
            let id = BenchmarkId::new(format!("bare/{name}"), kind);
            group.bench_function(id, |b| b.iter_custom(|count| bare(kind, path, in_flight, count)));
        }
    }
    group.finish();
}

criterion_group!(wal, benches);
criterion_main!(wal);
