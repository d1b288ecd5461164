//! The limits of the machine that benches stand beside, and what a process used.
#![allow(dead_code, reason = "each bench uses its part")]

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Of the lines that are sent.
pub const LINE_BYTES: usize = 200;
/// Written at once.
pub const CHUNK_BYTES: usize = 64 * 1024 / LINE_BYTES * LINE_BYTES;
const BLOCK: usize = 4096;

/// What the kernel counts of a process.
#[derive(Clone, Copy)]
pub struct Usage {
    /// User and system.
    pub cpu_seconds: f64,
    /// To disks.
    pub written_bytes: u64,
    /// The most there was at once.
    pub rss_bytes: u64,
}

impl Usage {
    /// Of a running process.
    pub fn of(pid: u32) -> Self {
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let stat = read("stat");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: f64 = fields[11].parse::<f64>().unwrap_or(0.0) + fields[12].parse::<f64>().unwrap_or(0.0);
        let number = |text: &str, key: &str| -> u64 {
            let line = text.lines().find(|l| l.starts_with(key)).unwrap_or_default();
            line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
        };
        Self {
            cpu_seconds: ticks / 100.0,
            written_bytes: number(&read("io"), "write_bytes:"),
            rss_bytes: number(&read("status"), "VmHWM:") * 1024,
        }
    }
}

/// MB/s of durable direct writes of `size` bytes over zero-filled space, four in flight.
pub fn probe_disk(dir: &Path, size: usize, time: Duration) -> f64 {
    const FILE_BYTES: u64 = 256 << 20;
    let path = dir.join("probe");
    {
        let mut file = File::create(&path).expect("the probe's file");
        let zeros = Box::new([0u8; 1 << 16]);
        (0..FILE_BYTES >> 16).for_each(|_| file.write_all(&*zeros).expect("zero-fill"));
        file.sync_all().expect("sync");
    }
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_DIRECT | libc::O_DSYNC)
        .open(&path)
        .expect("O_DIRECT");
    let next = AtomicU64::new(0);
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let memory = vec![b'x'; size + BLOCK];
                let offset = memory.as_ptr().align_offset(BLOCK);
                let aligned = &memory[offset..offset + size];
                while start.elapsed() < time {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    file.write_all_at(aligned, index * size as u64 % FILE_BYTES).expect("write");
                }
            });
        }
    });
    let rate = next.load(Ordering::Relaxed) as f64 * size as f64 / start.elapsed().as_secs_f64() / 1e6;
    fs::remove_file(path).expect("clean up");
    rate
}

/// MB/s over loopback: senders with large writes, one receiver that counts line ends.
pub fn probe_loopback(senders: usize, time: Duration) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let start = Instant::now();
    let total = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..senders {
            scope.spawn(move || {
                let mut stream = TcpStream::connect(address).expect("connect");
                let mut line = [b'x'; LINE_BYTES];
                line[LINE_BYTES - 1] = b'\n';
                let chunk = line.repeat(CHUNK_BYTES / LINE_BYTES);
                while start.elapsed() < time {
                    stream.write_all(&chunk).expect("send");
                }
            });
        }
        let streams: Vec<TcpStream> = (0..senders).map(|_| listener.accept().expect("accept").0).collect();
        for mut stream in streams {
            let total = &total;
            scope.spawn(move || {
                let mut buffer = vec![0; 256 * 1024];
                loop {
                    match stream.read(&mut buffer) {
                        Ok(0) | Err(_) => return,
                        Ok(count) => {
                            let lines = memchr::memchr_iter(b'\n', &buffer[..count]).count();
                            std::hint::black_box(lines);
                            total.fetch_add(count as u64, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    total.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64() / 1e6
}
