//! tokio's sockets against tokio-uring's, both on one thread with a ring: why `src/io/net.rs` uses the former.
//!
//! One client thread writes 200-byte lines over 1, 8 or 64 loopback connections in turn; the thread under
//! measurement reads 64 KiB at a time and counts lines, or also answers `OK` to each. `wall` is the time from
//! the first accept to the last end of stream; `cpu` is what the measured thread spent of it.
//!
//! ```text
//! cargo bench --bench sockets
//! ```

use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const LINE: usize = 200;
const READ: usize = 64 * 1024;
/// Bytes of one iteration over all connections.
const VOLUME: usize = 32 << 20;
const ANSWER: &[u8] = b"OK\n";

#[derive(Clone, Copy)]
struct Case {
    connections: usize,
    answers: bool,
}

const CASES: [Case; 4] = [
    Case { connections: 1, answers: false },
    Case { connections: 8, answers: false },
    Case { connections: 64, answers: false },
    Case { connections: 8, answers: true },
];

impl Case {
    fn name(self) -> String {
        format!("{}{}", self.connections, if self.answers { "+answers" } else { "" })
    }
}

/// Sends the volume, in turn over all connections, and closes.
fn client(address: SocketAddr, case: Case) {
    let mut line = [b'x'; LINE];
    line[LINE - 1] = b'\n';
    let chunk = line.repeat(READ / LINE);
    let mut streams: Vec<_> = (0..case.connections).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut readers = Vec::new();
    if case.answers {
        for stream in &streams {
            let mut stream = stream.try_clone().unwrap();
            readers.push(std::thread::spawn(move || {
                let mut sink = [0; 16 * 1024];
                while stream.read(&mut sink).unwrap() > 0 {}
            }));
        }
    }
    for turn in 0..VOLUME / chunk.len() {
        let count = streams.len();
        streams[turn % count].write_all(&chunk).unwrap();
    }
    for stream in &streams {
        stream.shutdown(std::net::Shutdown::Write).unwrap();
    }
    for reader in readers {
        reader.join().unwrap();
    }
}

fn lines(bytes: &[u8]) -> usize {
    memchr::memchr_iter(b'\n', bytes).count()
}

async fn tokio_server(listener: tokio::net::TcpListener, case: Case) -> usize {
    let mut tasks = Vec::new();
    for _ in 0..case.connections {
        let (mut stream, _) = listener.accept().await.unwrap();
        tasks.push(tokio::task::spawn_local(async move {
            let mut buf = Vec::with_capacity(READ);
            let mut total = 0;
            while stream.read_buf(&mut buf).await.unwrap() > 0 {
                let count = lines(&buf);
                if case.answers {
                    stream.write_all(&ANSWER.repeat(count)).await.unwrap();
                }
                total += count;
                buf.clear();
            }
            total
        }));
    }
    sum(tasks).await
}

async fn uring_server(listener: tokio_uring::net::TcpListener, case: Case) -> usize {
    let mut tasks = Vec::new();
    for _ in 0..case.connections {
        let (stream, _) = listener.accept().await.unwrap();
        tasks.push(tokio::task::spawn_local(async move {
            let mut buf = Vec::with_capacity(READ);
            let mut total = 0;
            loop {
                let (result, back) = stream.read(buf).await;
                buf = back;
                if result.unwrap() == 0 {
                    return total;
                }
                let count = lines(&buf);
                if case.answers {
                    stream.write_all(ANSWER.repeat(count)).await.0.unwrap();
                }
                total += count;
                buf.clear();
            }
        }));
    }
    sum(tasks).await
}

async fn sum(tasks: Vec<tokio::task::JoinHandle<usize>>) -> usize {
    let mut total = 0;
    for task in tasks {
        total += task.await.unwrap();
    }
    total
}

/// CPU time of this thread.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// One iteration: wall-clock and CPU time of the server.
fn iterate(sockets: &str, case: Case) -> (Duration, Duration) {
    let runtime = tokio_uring::Runtime::new(tokio_uring::builder().entries(256)).unwrap();
    runtime.block_on(async {
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        let (wall, spent);
        let (total, client) = match sockets {
            "tokio" => {
                let listener = tokio::net::TcpListener::bind(any).await.unwrap();
                let address = listener.local_addr().unwrap();
                (wall, spent) = (Instant::now(), cpu());
                let client = std::thread::spawn(move || client(address, case));
                (tokio_server(listener, case).await, client)
            }
            _ => {
                let listener = tokio_uring::net::TcpListener::bind(any).unwrap();
                let address = listener.local_addr().unwrap();
                (wall, spent) = (Instant::now(), cpu());
                let client = std::thread::spawn(move || client(address, case));
                (uring_server(listener, case).await, client)
            }
        };
        let times = (wall.elapsed(), cpu() - spent);
        client.join().unwrap();
        let chunk = READ / LINE;
        assert_eq!(black_box(total), VOLUME / (chunk * LINE) * chunk, "a line was lost");
        times
    })
}

fn sockets(criterion: &mut Criterion) {
    for measure in ["cpu", "wall"] {
        let mut group = criterion.benchmark_group(format!("sockets/{measure}"));
        group.sample_size(10).throughput(Throughput::Bytes(VOLUME as u64));
        for case in CASES {
            for kind in ["tokio", "tokio-uring"] {
                group.bench_function(BenchmarkId::new(kind, case.name()), |bencher| {
                    bencher.iter_custom(|iterations| {
                        let times = (0..iterations).map(|_| iterate(kind, case));
                        times.map(|(wall, cpu)| if measure == "cpu" { cpu } else { wall }).sum()
                    });
                });
            }
        }
        group.finish();
    }
}

criterion_group!(benches, sockets);
criterion_main!(benches);
