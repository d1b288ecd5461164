//! The limits of the machine that benches stand beside, and what a process used.
#![allow(dead_code, reason = "each bench uses its part")]

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
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

/// How a hop is compressed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    None,
    /// A zstd frame of level 1 per block.
    Zstd,
    /// One zlib stream of this level, flushed after each block.
    Deflate(u32),
}

/// What a bare hop reached.
#[derive(Clone, Copy)]
pub struct Bare {
    /// MB/s of lines.
    pub megabytes_per_second: f64,
    /// Both sides together.
    pub cpu_seconds_per_gigabyte: f64,
}

/// Bytes a bare hop reads, writes and sends at once: as many as our sink sends.
pub const HOP_BLOCK: usize = 512 * 1024;
const LOG_BYTES: u64 = 256 << 20;
const LOG_WRITERS: usize = 4;

/// A hop without the agents: per core a sender that reads files from the page cache, looks for the line ends, has
/// the bytes written durably and sends them, and a receiver that has them written durably, too. Nothing is
/// checksummed, acknowledged or counted per event. The compressor and all four copies of the bytes (out of the page cache,
/// into and out of the socket, and those of the compression) are on the same cores that the agents have, so that
/// the narrowest of processor, disk and loopback shows.
pub fn probe_hop(dir: &Path, files: &[PathBuf], packing: Packing, time: Duration) -> Bare {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let logs: Vec<Log> = (0..2 * cores).map(|index| Log::new(&dir.join(format!("bare-{index}")))).collect();
    let total = AtomicU64::new(0);
    let before = own_cpu_seconds();
    let start = Instant::now();
    thread::scope(|scope| {
        for lane in 0..cores {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let address = listener.local_addr().expect("its address");
            let (sending, receiving, total) = (&logs[2 * lane], &logs[2 * lane + 1], &total);
            scope.spawn(move || {
                let stream = TcpStream::connect(address).expect("connect");
                stream.set_nodelay(true).expect("no delay");
                let mut sender = Sender::new(stream, packing);
                let mine = files.iter().skip(lane % files.len()).step_by(cores.min(files.len())).cycle();
                for path in mine {
                    let mut file = File::open(path).expect("the input");
                    loop {
                        if start.elapsed() >= time {
                            return sender.finish();
                        }
                        let mut block = sending.block();
                        block.fill(&mut file);
                        if block.used == 0 {
                            break;
                        }
                        std::hint::black_box(memchr::memchr_iter(b'\n', block.bytes()).count());
                        let block = Arc::new(block);
                        sending.write(block.clone());
                        sender.send(block.bytes());
                    }
                }
            });
            scope.spawn(move || {
                let stream = listener.accept().expect("accept").0;
                receive(stream, packing, |input| {
                    loop {
                        let mut block = receiving.block();
                        block.fill(input);
                        if block.used == 0 {
                            return;
                        }
                        total.fetch_add(block.used as u64, Ordering::Relaxed);
                        receiving.write(Arc::new(block));
                    }
                });
            });
        }
    });
    drop(logs);
    let bytes = total.load(Ordering::Relaxed) as f64;
    Bare {
        megabytes_per_second: bytes / start.elapsed().as_secs_f64() / 1e6,
        cpu_seconds_per_gigabyte: (own_cpu_seconds() - before) / (bytes / 1e9),
    }
}

fn own_cpu_seconds() -> f64 {
    Usage::of(std::process::id()).cpu_seconds
}

type Pool = Arc<Mutex<Vec<Vec<u8>>>>;

/// Aligned memory, given back when dropped.
struct Block {
    memory: Vec<u8>,
    start: usize,
    used: usize,
    pool: Pool,
}

impl Block {
    fn fill(&mut self, input: &mut dyn Read) {
        while self.used < HOP_BLOCK {
            let from = self.start + self.used;
            match input.read(&mut self.memory[from..self.start + HOP_BLOCK]).expect("read") {
                0 => return,
                count => self.used += count,
            }
        }
    }
    fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.used]
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.pool.lock().expect("the pool").push(std::mem::take(&mut self.memory));
    }
}

/// Durable direct writes over zero-filled space, four in flight.
struct Log {
    path: PathBuf,
    pool: Pool,
    queue: Option<mpsc::SyncSender<Arc<Block>>>,
    writers: Vec<thread::JoinHandle<()>>,
}

impl Log {
    fn new(path: &Path) -> Self {
        let mut file = File::create(path).expect("a log");
        let zeros = vec![0u8; 1 << 20];
        (0..LOG_BYTES >> 20).for_each(|_| file.write_all(&zeros).expect("zero-fill"));
        file.sync_all().expect("sync");
        let mut direct = OpenOptions::new();
        let direct = direct.write(true).custom_flags(libc::O_DIRECT | libc::O_DSYNC).open(path);
        let file = Arc::new(direct.expect("O_DIRECT"));
        let (queue, waiting) = mpsc::sync_channel::<Arc<Block>>(1);
        let (waiting, next) = (Arc::new(Mutex::new(waiting)), Arc::new(AtomicU64::new(0)));
        let writer = |_| {
            let (file, waiting, next) = (file.clone(), waiting.clone(), next.clone());
            thread::spawn(move || {
                loop {
                    let Ok(block) = waiting.lock().expect("the queue").recv() else { return };
                    let offset = next.fetch_add(HOP_BLOCK as u64, Ordering::Relaxed) % LOG_BYTES;
                    let size = block.used.next_multiple_of(BLOCK);
                    file.write_all_at(&block.memory[block.start..block.start + size], offset).expect("write");
                }
            })
        };
        let writers = (0..LOG_WRITERS).map(writer).collect();
        Self { path: path.to_owned(), pool: Pool::default(), queue: Some(queue), writers }
    }
    fn block(&self) -> Block {
        let spare = self.pool.lock().expect("the pool").pop();
        let memory = spare.unwrap_or_else(|| vec![0; HOP_BLOCK + BLOCK]);
        let start = memory.as_ptr().align_offset(BLOCK);
        Block { memory, start, used: 0, pool: self.pool.clone() }
    }
    fn write(&self, block: Arc<Block>) {
        self.queue.as_ref().expect("open").send(block).expect("a writer");
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.queue = None;
        self.writers.drain(..).for_each(|writer| writer.join().expect("a writer"));
        let _ = fs::remove_file(&self.path);
    }
}

enum Sender {
    Plain(TcpStream),
    Zstd(TcpStream, zstd::bulk::Compressor<'static>),
    Deflate(flate2::write::ZlibEncoder<TcpStream>),
}

impl Sender {
    fn new(stream: TcpStream, packing: Packing) -> Self {
        match packing {
            Packing::None => Self::Plain(stream),
            Packing::Zstd => Self::Zstd(stream, zstd::bulk::Compressor::new(1).expect("zstd")),
            Packing::Deflate(level) => {
                Self::Deflate(flate2::write::ZlibEncoder::new(stream, flate2::Compression::new(level)))
            }
        }
    }
    fn send(&mut self, bytes: &[u8]) {
        match self {
            Self::Plain(stream) => stream.write_all(bytes).expect("send"),
            Self::Zstd(stream, zstd) => {
                let packed = zstd.compress(bytes).expect("zstd");
                stream.write_all(&(packed.len() as u32).to_le_bytes()).expect("send");
                stream.write_all(&packed).expect("send");
            }
            Self::Deflate(stream) => {
                stream.write_all(bytes).expect("send");
                stream.flush().expect("send");
            }
        }
    }
    fn finish(self) {
        if let Self::Deflate(stream) = self {
            stream.finish().expect("send");
        }
    }
}

fn receive(stream: TcpStream, packing: Packing, take: impl FnOnce(&mut dyn Read)) {
    match packing {
        Packing::None => take(&mut { stream }),
        Packing::Zstd => take(&mut ZstdBlocks {
            stream,
            zstd: zstd::bulk::Decompressor::new().expect("zstd"),
            plain: Vec::new(),
            at: 0,
        }),
        Packing::Deflate(_) => {
            let buffered = std::io::BufReader::with_capacity(64 * 1024, stream);
            take(&mut flate2::bufread::ZlibDecoder::new(buffered));
        }
    }
}

struct ZstdBlocks {
    stream: TcpStream,
    zstd: zstd::bulk::Decompressor<'static>,
    plain: Vec<u8>,
    at: usize,
}

impl Read for ZstdBlocks {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.plain.len() {
            let mut size = [0; 4];
            if self.stream.read_exact(&mut size).is_err() {
                return Ok(0);
            }
            let mut packed = vec![0; u32::from_le_bytes(size) as usize];
            self.stream.read_exact(&mut packed)?;
            self.plain = self.zstd.decompress(&packed, HOP_BLOCK)?;
            self.at = 0;
        }
        let count = buffer.len().min(self.plain.len() - self.at);
        buffer[..count].copy_from_slice(&self.plain[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}
