//! One suite, run against each engine.

use std::future::Future;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::buffer::{BLOCK, BufferPool, PooledBuf};
use super::*;

/// Everything here is over in milliseconds; this is for a machine that is very busy.
const DEADLINE: Duration = Duration::from_secs(60);

/// Runs a test on an engine over the real kernel, in a directory of its own.
fn on_kernel<F: Future<Output = ()>>(kind: EngineKind, test: impl FnOnce(Io, PathBuf) -> F) {
    if kind == EngineKind::Uring
        && let Err(refusal) = probe::io_uring()
    {
        assert!(std::env::var_os("REQUIRE_URING").is_none_or(|v| v != "1"), "{refusal}");
        #[expect(clippy::print_stderr, reason = "a skipped test must say so")]
        {
            eprintln!("NOT TESTED: {refusal}");
        }
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    run_local(kind, |io| async {
        tokio::time::timeout(DEADLINE, test(io, path)).await.expect("the test takes too long");
    })
    .unwrap();
}

/// Runs a test on the simulator, with a few seeds.
fn on_sim<F: Future<Output = ()>>(test: impl Fn(Io, PathBuf) -> F) {
    for seed in 0..5 {
        let life = super::sim::World::new(seed).run(|io| async {
            let path = PathBuf::from("/disk/here");
            io.create_dir_all(&path).await.unwrap();
            test(io, path).await;
        });
        assert_eq!(life, super::sim::Outcome::Finished(()), "seed {seed}");
    }
}

macro_rules! suite {
    (everywhere: $($name:ident),*; kernel: $($kernel:ident),*;) => {
        mod portable {
            $(#[test] fn $name() { super::on_kernel(super::EngineKind::Portable, super::$name); })*
            $(#[test] fn $kernel() { super::on_kernel(super::EngineKind::Portable, super::$kernel); })*
        }
        mod uring {
            $(#[test] fn $name() { super::on_kernel(super::EngineKind::Uring, super::$name); })*
            $(#[test] fn $kernel() { super::on_kernel(super::EngineKind::Uring, super::$kernel); })*
        }
        #[cfg(feature = "glommio")]
        mod glommio {
            $(#[test] fn $name() { super::on_kernel(super::EngineKind::Glommio, super::$name); })*
            $(#[test] fn $kernel() { super::on_kernel(super::EngineKind::Glommio, super::$kernel); })*
        }
        mod sim {
            $(#[test] fn $name() { super::on_sim(super::$name); })*
        }
    };
}

suite! {
    everywhere: reads_what_was_written,
        reads_end_at_the_end,
        opens_as_told,
        direct_writes_in_parallel,
        direct_writes_must_be_aligned,
        direct_writes_once_the_file_system_refused_one,
        large_writes,
        offsets_beyond_4_gib,
        an_abandoned_write_keeps_its_buffer,
        sizes,
        renames_and_removals,
        directories,
        space_is_known,
        a_lock_is_exclusive,
        a_mapping_outlives_its_file,
        advice_changes_nothing,
        stores_into_a_mapping,
        a_directory_is_watched,
        streams,
        datagrams,
        names_resolve,
        time_passes,
        random_numbers_differ,
        work_off_the_core;
    kernel: direct_writes_where_the_file_system_has_none,
        a_dual_stack_listener,
        a_listener_shared_by_two_threads,
        a_claimed_port_is_refused,
        files_make_progress_on_a_busy_core;
}

async fn read(file: &Rc<dyn File>, size: usize, offset: u64) -> Vec<u8> {
    let (result, buf) = file.read_at(Vec::with_capacity(size), offset).await;
    assert_eq!(result.unwrap(), buf.len());
    buf
}

fn block(byte: u8) -> Bytes {
    let mut buf = PooledBuf::unpooled(BLOCK);
    buf.as_mut().fill(byte);
    buf.freeze()
}

async fn reads_what_was_written(io: Io, dir: PathBuf) {
    let file = io.open(&dir.join("f"), OpenOptions::WRITE).await.unwrap();
    file.write_at(Bytes::from_static(b"hello world"), 0).await.unwrap();
    file.write_at(Bytes::from_static(b"W"), 6).await.unwrap();
    file.write_at(Bytes::new(), 3).await.unwrap();
    file.sync_data().await.unwrap();
    assert_eq!(read(&file, 100, 0).await, b"hello World");
    assert_eq!(read(&file, 5, 6).await, b"World");
    // The same buffer comes back; what was in it is gone.
    let mut buf = Vec::with_capacity(64);
    buf.extend_from_slice(b"old content");
    let address = buf.as_ptr();
    let (result, buf) = file.read_at(buf, 9).await;
    assert_eq!((result.unwrap(), &buf[..], buf.as_ptr()), (2, &b"ld"[..], address));
    let (result, _) = file.read_at(Vec::new(), 0).await;
    assert_eq!(result.unwrap(), 0);
    let again = io.open(&dir.join("f"), OpenOptions::READ).await.unwrap();
    assert_eq!(read(&again, 5, 0).await, b"hello");
    assert!(again.write_at(Bytes::from_static(b"x"), 0).await.is_err(), "opened for reading");
}

async fn reads_end_at_the_end(io: Io, dir: PathBuf) {
    let file = io.open(&dir.join("f"), OpenOptions::WRITE).await.unwrap();
    assert_eq!(read(&file, 10, 0).await, b"");
    file.write_at(Bytes::from(vec![7; 10_000]), 0).await.unwrap();
    assert_eq!(read(&file, 8192, 8192).await.len(), 10_000 - 8192);
    assert_eq!(read(&file, 10, 10_000).await, b"");
    assert_eq!(read(&file, 10, 1 << 40).await, b"");
}

async fn opens_as_told(io: Io, dir: PathBuf) {
    let (path, missing) = (dir.join("f"), dir.join("missing"));
    let kind = |r: io::Result<Rc<dyn File>>| r.map(|_| ()).map_err(|e| e.kind());
    assert_eq!(kind(io.open(&missing, OpenOptions::READ).await), Err(ErrorKind::NotFound));
    assert_eq!(kind(io.open(&missing.join("f"), OpenOptions::WRITE).await), Err(ErrorKind::NotFound));
    let file = io.open(&path, OpenOptions::CREATE_NEW).await.unwrap();
    file.write_at(Bytes::from_static(b"abc"), 0).await.unwrap();
    assert_eq!(kind(io.open(&path, OpenOptions::CREATE_NEW).await), Err(ErrorKind::AlreadyExists));
    let again = io.open(&path, OpenOptions::WRITE).await.unwrap();
    assert_eq!(again.metadata().await.unwrap().size_bytes, 3);
    let emptied = io.open(&path, OpenOptions::TRUNCATE).await.unwrap();
    assert_eq!(emptied.metadata().await.unwrap().size_bytes, 0);
    assert_eq!(read(&file, 3, 0).await, b"", "the same file");
    // A name a Java programmer would not write.
    let odd = dir.join(std::ffi::OsStr::new("caf\u{e9} %{x}\n"));
    io.open(&odd, OpenOptions::CREATE_NEW).await.unwrap();
    assert_eq!(io.metadata(&odd).await.unwrap().size_bytes, 0);
}

async fn direct_writes_in_parallel(io: Io, dir: PathBuf) {
    const BLOCKS: u64 = 64;
    let file = io.open(&dir.join("log"), OpenOptions::DIRECT).await.unwrap();
    let pool = BufferPool::new(2 * BLOCK, 4);
    let mut writes = Vec::new();
    // Last first, so that they also extend the file out of order.
    for index in (0..BLOCKS).rev() {
        let mut buf = pool.take();
        buf.as_mut().fill(index as u8);
        let file = file.clone();
        writes.push(spawn(async move { file.write_at(buf.freeze(), index * 2 * BLOCK as u64).await }));
    }
    for write in writes {
        write.await.unwrap().unwrap();
    }
    let all = read(&file, 2 * BLOCK * BLOCKS as usize, 0).await;
    assert_eq!(all.len(), 2 * BLOCK * BLOCKS as usize);
    for (index, part) in all.chunks(2 * BLOCK).enumerate() {
        assert!(part.iter().all(|b| *b == index as u8), "block {index}");
    }
    // Overwritten parts are seen through an ordinary descriptor too.
    let other = io.open(&dir.join("log"), OpenOptions::READ).await.unwrap();
    assert_eq!(read(&other, 1, 0).await, [0]);
    file.write_at(block(0xee), 0).await.unwrap();
    assert_eq!(read(&other, 1, 0).await, [0xee]);
}

async fn direct_writes_must_be_aligned(io: Io, dir: PathBuf) {
    let file = io.open(&dir.join("log"), OpenOptions::DIRECT).await.unwrap();
    let two = PooledBuf::unpooled(2 * BLOCK).freeze();
    for (data, offset) in [(two.slice(..100), 0), (two.slice(1..=BLOCK), 0), (two.clone(), 512)] {
        let refused = file.write_at(data, offset).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
        assert!(refused.to_string().contains("multiples of 4096"), "{refused}");
    }
    assert_eq!(file.metadata().await.unwrap().size_bytes, 0);
    file.write_at(two, BLOCK as u64).await.unwrap();
}

async fn direct_writes_where_the_file_system_has_none(io: Io, _: PathBuf) {
    // tmpfs has had O_DIRECT only since Linux 6.6; it must work on either side.
    let Ok(directory) = tempfile::tempdir_in("/dev/shm") else { return };
    let file = io.open(&directory.path().join("log"), OpenOptions::DIRECT).await.unwrap();
    file.write_at(block(1), BLOCK as u64).await.unwrap();
    assert_eq!(read(&file, 2 * BLOCK, 0).await[BLOCK - 1..][..2], [0, 1]);
}

async fn direct_writes_once_the_file_system_refused_one(io: Io, dir: PathBuf) {
    let file = io.open(&dir.join("log"), OpenOptions::DIRECT).await.unwrap();
    // EINVAL, because offsets are signed; what a file system says that takes the flag but not the write.
    let refused = file.write_at(block(1), 1 << 63).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput);
    file.write_at(block(2), 0).await.unwrap();
    assert_eq!(read(&file, 2 * BLOCK, 0).await, [2; BLOCK]);
    let refused = file.write_at(block(1).slice(1..), 0).await.unwrap_err();
    assert!(refused.to_string().contains("multiples"), "the rule stays");
}

async fn files_make_progress_on_a_busy_core(io: Io, dir: PathBuf) {
    // Tasks that are always ready, as readers of busy sockets are.
    let turns = Rc::new(std::cell::Cell::new(0_u64));
    for _ in 0..3 {
        let turns = turns.clone();
        spawn(async move {
            loop {
                turns.set(turns.get() + 1);
                tokio::task::yield_now().await;
            }
        });
    }
    let file = io.open(&dir.join("log"), OpenOptions::DIRECT).await.unwrap();
    for index in 0..20 {
        file.write_at(block(1), index * BLOCK as u64).await.unwrap();
    }
    assert!(turns.get() > 20);
}

async fn large_writes(io: Io, dir: PathBuf) {
    // More than the ring engine hands over at once.
    const SIZE: usize = 800 * BLOCK;
    let mut data = PooledBuf::unpooled(SIZE);
    for (index, part) in data.as_mut().chunks_mut(8).enumerate() {
        part.copy_from_slice(&(index as u64).to_le_bytes());
    }
    let data = data.freeze();
    for (name, options) in [("plain", OpenOptions::WRITE), ("direct", OpenOptions::DIRECT)] {
        let file = io.open(&dir.join(name), options).await.unwrap();
        file.write_at(data.clone(), BLOCK as u64).await.unwrap();
        assert_eq!(file.metadata().await.unwrap().size_bytes, (BLOCK + SIZE) as u64);
        let mut back = Vec::new();
        while back.len() < SIZE {
            let part = read(&file, SIZE - back.len(), (BLOCK + back.len()) as u64).await;
            assert!(!part.is_empty());
            back.extend(part);
        }
        assert!(back == data, "{name}");
    }
}

async fn offsets_beyond_4_gib(io: Io, dir: PathBuf) {
    let far = 5 * (1 << 30) + 4096;
    for (name, options) in [("plain", OpenOptions::WRITE), ("direct", OpenOptions::DIRECT)] {
        let file = io.open(&dir.join(name), options).await.unwrap();
        file.write_at(block(9), far).await.unwrap();
        let metadata = file.metadata().await.unwrap();
        assert_eq!(metadata.size_bytes, far + BLOCK as u64);
        assert!(metadata.allocated_bytes < 1 << 20, "sparse");
        assert_eq!(read(&file, 2, far - 1).await, [0, 9]);
        assert_eq!(read(&file, 2, 4096).await, [0, 0], "not where the low 32 bits point");
    }
}

async fn an_abandoned_write_keeps_its_buffer(io: Io, dir: PathBuf) {
    let file = io.open(&dir.join("log"), OpenOptions::DIRECT).await.unwrap();
    let pool = BufferPool::new(256 * BLOCK, 8);
    let mut buf = pool.take();
    buf.as_mut().fill(0xab);
    let size = buf.as_ref().len();
    {
        let mut write = file.write_at(buf.freeze(), 0);
        // Polled once, so that it is under way, and dropped.
        tokio::select! {
            biased;
            _ = &mut write => {}
            () = std::future::ready(()) => {}
        }
    }
    // Whatever the pool gives out now must not be what the kernel still reads from.
    pool.take().as_mut().fill(0xcd);
    while file.metadata().await.unwrap().size_bytes < size as u64 {
        io.sleep(Duration::from_millis(1)).await;
    }
    let mut written = read(&file, size, 0).await;
    while written.contains(&0) && !written.contains(&0xcd) {
        io.sleep(Duration::from_millis(1)).await;
        written = read(&file, size, 0).await;
    }
    assert!(written.iter().all(|b| *b == 0xab));
}

async fn sizes(io: Io, dir: PathBuf) {
    let file = io.open(&dir.join("f"), OpenOptions::WRITE).await.unwrap();
    file.write_at(Bytes::from_static(b"abcdef"), 0).await.unwrap();
    file.set_len(3).await.unwrap();
    file.set_len(8).await.unwrap();
    assert_eq!(read(&file, 100, 0).await, b"abc\0\0\0\0\0");
    file.allocate(1 << 20).await.unwrap();
    let metadata = file.metadata().await.unwrap();
    assert_eq!(metadata.size_bytes, 1 << 20);
    assert!(metadata.allocated_bytes >= 1 << 20);
    assert_eq!(read(&file, 4, 0).await, b"abc\0", "content is kept");
    file.allocate(10).await.unwrap();
    assert_eq!(file.metadata().await.unwrap().size_bytes, 1 << 20, "never shorter");
    assert_eq!(io.metadata(&dir.join("f")).await.unwrap(), file.metadata().await.unwrap());
}

async fn renames_and_removals(io: Io, dir: PathBuf) {
    let (a, b, c) = (dir.join("a"), dir.join("b"), dir.join("c"));
    let file = io.open(&a, OpenOptions::CREATE_NEW).await.unwrap();
    file.write_at(Bytes::from_static(b"from a"), 0).await.unwrap();
    io.open(&b, OpenOptions::CREATE_NEW).await.unwrap();
    assert_eq!(io.rename_new(&a, &b).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(io.metadata(&b).await.unwrap().size_bytes, 0, "left alone");
    io.rename_new(&a, &c).await.unwrap();
    assert_eq!(io.metadata(&a).await.unwrap_err().kind(), ErrorKind::NotFound);
    io.rename(&c, &b).await.unwrap();
    assert_eq!(io.metadata(&b).await.unwrap().size_bytes, 6, "replaced");
    assert_eq!(io.rename(&c, &b).await.unwrap_err().kind(), ErrorKind::NotFound);
    let before = file.metadata().await.unwrap();
    assert_eq!((before.links, before.file_type), (1, FileType::File));
    io.remove_file(&b).await.unwrap();
    assert_eq!(io.remove_file(&b).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(file.metadata().await.unwrap().links, 0, "open but nameless");
    assert_eq!(read(&file, 10, 0).await, b"from a");
    let new = io.open(&b, OpenOptions::CREATE_NEW).await.unwrap().metadata().await.unwrap();
    assert_ne!((new.device, new.inode), (before.device, before.inode));
}

async fn directories(io: Io, dir: PathBuf) {
    let deep = dir.join("x/y/z");
    io.create_dir_all(&deep).await.unwrap();
    io.create_dir_all(&deep).await.unwrap();
    io.open(&dir.join("file"), OpenOptions::CREATE_NEW).await.unwrap();
    let mut entries = io.read_dir(&dir).await.unwrap();
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(entries, [("file".into(), FileType::File), ("x".into(), FileType::Directory)]);
    assert_eq!(io.metadata(&deep).await.unwrap().file_type, FileType::Directory);
    assert_eq!(io.read_dir(&dir.join("no")).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(io.remove_dir(&dir.join("x")).await.unwrap_err().kind(), ErrorKind::DirectoryNotEmpty);
    assert!(io.create_dir_all(&dir.join("file/below")).await.is_err());
    io.remove_dir(&deep).await.unwrap();
    assert!(io.read_dir(&dir.join("x/y")).await.unwrap().is_empty());
    io.sync_dir(&dir).await.unwrap();
    assert_eq!(io.sync_dir(&deep).await.unwrap_err().kind(), ErrorKind::NotFound);
}

async fn space_is_known(io: Io, dir: PathBuf) {
    let space = io.space(&dir).await.unwrap();
    assert!(space.available_bytes > 0 && space.available_bytes <= space.total_bytes, "{space:?}");
    assert!(io.space(&dir.join("missing")).await.is_err());
}

async fn a_lock_is_exclusive(io: Io, dir: PathBuf) {
    let path = dir.join("in_use.lock");
    let held = io.lock(&path).unwrap();
    let refused = io.lock(&path).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::WouldBlock);
    assert!(refused.to_string().contains("in_use.lock"), "{refused}");
    let other = io.lock(&dir.join("other.lock")).unwrap();
    drop(held);
    drop(io.lock(&path).unwrap());
    drop(other);
    assert!(io.lock(&dir.join("missing/lock")).is_err());
}

async fn a_mapping_outlives_its_file(io: Io, dir: PathBuf) {
    let path = dir.join("sealed");
    let file = io.open(&path, OpenOptions::WRITE).await.unwrap();
    assert!(file.map().unwrap().is_empty());
    let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    file.write_at(Bytes::from(content.clone()), 0).await.unwrap();
    let map = file.map().unwrap();
    let part = map.slice(399_990..);
    drop(file);
    io.remove_file(&path).await.unwrap();
    assert_eq!(map, content);
    drop(map);
    assert_eq!(part, content[399_990..]);
}

async fn advice_changes_nothing(io: Io, dir: PathBuf) {
    let file = io.open(&dir.join("f"), OpenOptions::WRITE).await.unwrap();
    file.prefetch(0..1000).await.unwrap();
    let content = Bytes::from(vec![5; 300_000]);
    file.write_at(content.clone(), 0).await.unwrap();
    file.sync_data().await.unwrap();
    let map = file.map().unwrap();
    file.prefetch(100..200_000).await.unwrap();
    file.prefetch(299_999..1 << 40).await.unwrap();
    file.prefetch(1 << 40..1 << 41).await.unwrap();
    assert_eq!(map, content);
    file.forget(&map, 0..1 << 40);
    file.forget(&map, 4097..4097);
    // Not the mapping, so none of its business.
    file.forget(&content, 0..300_000);
    work_off_the_core(io.clone(), dir).await;
    assert_eq!(map, content);
    assert!(content.iter().all(|b| *b == 5));
}

async fn stores_into_a_mapping(io: Io, dir: PathBuf) {
    let path = dir.join("state");
    let file = io.open(&path, OpenOptions::WRITE).await.unwrap();
    assert_eq!(file.map_mut(BLOCK).map(drop).unwrap_err().kind(), ErrorKind::InvalidInput, "too short");
    file.set_len(2 * BLOCK as u64).await.unwrap();
    let mut map = file.map_mut(2 * BLOCK).unwrap();
    assert_eq!((map.len(), map.is_empty()), (2 * BLOCK, false));
    map.write(BLOCK - 2, b"abcd");
    let mut back = [0; 6];
    map.read(BLOCK - 3, &mut back);
    assert_eq!(&back, b"\0abcd\0");
    assert_eq!(read(&file, 4, BLOCK as u64 - 2).await, b"abcd", "seen by reads");
    map.flush(BLOCK - 2..BLOCK + 2).await.unwrap();
    drop(map);
    let again = io.open(&path, OpenOptions::WRITE).await.unwrap().map_mut(2 * BLOCK).unwrap();
    again.read(BLOCK - 3, &mut back);
    assert_eq!(&back, b"\0abcd\0");
    for range in [2 * BLOCK - 3..2 * BLOCK + 1, usize::MAX - 1..usize::MAX] {
        let mut map = file.map_mut(2 * BLOCK).unwrap();
        let outside = std::panic::AssertUnwindSafe(|| map.write(range.start, &b"abcd"[..range.len()]));
        assert!(std::panic::catch_unwind(outside).is_err(), "{range:?}");
    }
}

async fn a_directory_is_watched(io: Io, dir: PathBuf) {
    async fn until(watch: &mut Box<dyn Watch>, wanted: Change) {
        while !watch.changed().await.unwrap().contains(&wanted) {}
    }
    let watched = dir.join("watched");
    assert!(io.watch(&watched).is_err(), "not there");
    io.create_dir_all(&watched).await.unwrap();
    let mut watch = io.watch(&watched).unwrap();
    let file = io.open(&watched.join("log"), OpenOptions::WRITE).await.unwrap();
    until(&mut watch, Change::Names).await;
    file.write_at(Bytes::from_static(b"line\n"), 0).await.unwrap();
    until(&mut watch, Change::Written("log".into())).await;
    io.rename(&watched.join("log"), &watched.join("log.1")).await.unwrap();
    until(&mut watch, Change::Names).await;
    file.write_at(Bytes::from_static(b"more\n"), 5).await.unwrap();
    until(&mut watch, Change::Written("log.1".into())).await;
    io.remove_file(&watched.join("log.1")).await.unwrap();
    until(&mut watch, Change::Names).await;
    drop(file);
    // Nothing happens: nothing is told.
    let idle = tokio::time::timeout(Duration::from_millis(20), async {
        loop {
            let changes = watch.changed().await.unwrap();
            assert!(!changes.contains(&Change::Overflow));
        }
    });
    assert!(idle.await.is_err());
    io.remove_dir(&watched).await.unwrap();
    let gone = async { while watch.changed().await.is_ok() {} };
    gone.await;
}

const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
const ALONE: ListenOptions = ListenOptions { shared: false, backlog: 128 };
const SHARED: ListenOptions = ListenOptions { shared: true, backlog: 128 };

async fn streams(io: Io, _: PathBuf) {
    let listener = io.listen(LOCAL, ALONE).unwrap();
    let address = listener.local_addr().unwrap();
    assert_ne!(address.port(), 0);
    assert_eq!(io.listen(address, ALONE).map(drop).unwrap_err().kind(), ErrorKind::AddrInUse);
    let server = spawn(async move {
        let (mut stream, peer) = listener.accept().await.unwrap();
        let mut line = [0; 5];
        stream.read_exact(&mut line).await.unwrap();
        stream.write_all(b"OK\n").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        (line, rest, peer)
    });
    let mut client = io.connect(address).await.unwrap();
    client.write_all(b"line\n").await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "OK\n");
    client.write_all(b"half closed").await.unwrap();
    drop(client);
    let (line, rest, peer) = server.await.unwrap();
    assert_eq!((&line, &rest[..], peer.ip()), (b"line\n", &b"half closed"[..], address.ip()));
    // The listener is gone with its task.
    assert_eq!(io.connect(address).await.map(drop).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

async fn a_dual_stack_listener(io: Io, _: PathBuf) {
    let Ok(listener) = io.listen("[::]:0".parse().unwrap(), ALONE) else { return };
    let port = listener.local_addr().unwrap().port();
    let _client = io.connect(SocketAddr::new(LOCAL.ip(), port)).await.unwrap();
    let (_, peer) = listener.accept().await.unwrap();
    assert_eq!(peer.ip().to_canonical(), LOCAL.ip());
}

async fn a_listener_shared_by_two_threads(io: Io, _: PathBuf) {
    const CLIENTS: usize = 200;
    let kind = io.kind();
    let first = io.listen(LOCAL, SHARED).unwrap();
    let address = first.local_addr().unwrap();
    // The other shard: a runtime of its own on a thread of its own.
    let (ready, is_ready) = mpsc::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let other = std::thread::spawn(move || {
        run_local(kind, |io| async move {
            let second = io.listen(address, SHARED).unwrap();
            ready.send(()).unwrap();
            let count = Rc::new(std::cell::Cell::new(0));
            let accept = async {
                loop {
                    second.accept().await.unwrap();
                    count.set(count.get() + 1);
                }
            };
            tokio::select! { () = accept => {} _ = stopped => {} }
            count.get()
        })
        .unwrap()
    });
    is_ready.recv().unwrap();
    let here = Rc::new(std::cell::Cell::new(0));
    let counter = here.clone();
    let accepting = spawn(async move {
        loop {
            first.accept().await.unwrap();
            counter.set(counter.get() + 1);
        }
    });
    for _ in 0..CLIENTS {
        // Closed by the server once accepted, so reading to the end means it was.
        let mut client = io.connect(address).await.unwrap();
        let _ = client.read(&mut [0]).await;
    }
    stop.send(()).unwrap();
    accepting.abort();
    let there: usize = other.join().unwrap();
    assert_eq!(here.get() + there, CLIENTS);
    assert!(here.get() > 0 && there > 0, "{} here, {there} there", here.get());
}

async fn a_claimed_port_is_refused(io: Io, _: PathBuf) {
    for transport in [Transport::Tcp, Transport::Udp] {
        let bind = |address, shared| match transport {
            Transport::Tcp => io.listen(address, if shared { SHARED } else { ALONE }).map(|l| l.local_addr()),
            Transport::Udp => io.bind_udp(address, shared).map(|u| u.local_addr()),
        };
        // Below the ports the kernel gives out, so that no other test takes it meanwhile.
        let address = std::iter::repeat_with(|| {
            SocketAddr::new(LOCAL.ip(), 20_000 + u16::try_from(io.random() % 10_000).unwrap())
        });
        let address = address.into_iter().find(|a| bind(*a, false).is_ok()).unwrap();
        let wildcard = SocketAddr::new("0.0.0.0".parse().unwrap(), address.port());
        let elsewhere = SocketAddr::new("127.0.0.2".parse().unwrap(), address.port());
        let refused = |address| {
            let error = io.claim_port(address, transport).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AddrInUse);
            assert!(error.to_string().contains(&address.to_string()), "{error}");
        };
        let claim = io.claim_port(address, transport).unwrap();
        refused(address);
        refused(wildcard);
        drop(io.claim_port(elsewhere, transport).unwrap());
        assert!(!claims_elsewhere(address, transport), "another process");
        drop(claim);
        assert!(claims_elsewhere(address, transport), "free again");
        // The other way round: a claim on everything.
        let claim = io.claim_port(wildcard, transport).unwrap();
        refused(address);
        drop(claim);
    }
    // Somebody who never heard of claims, even one that lets others share.
    for shared in [false, true] {
        let foreign = io.listen(LOCAL, if shared { SHARED } else { ALONE }).unwrap();
        let address = foreign.local_addr().unwrap();
        let error = io.claim_port(address, Transport::Tcp).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert!(error.to_string().contains("another program"), "{error}");
        drop(io.claim_port(address, Transport::Udp).unwrap());
    }
    // A past connection in TIME_WAIT is no obstacle.
    let listener = io.listen(LOCAL, SHARED).unwrap();
    let address = listener.local_addr().unwrap();
    let mut client = io.connect(address).await.unwrap();
    drop(listener.accept().await.unwrap());
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    drop(client);
    drop(listener);
    let claim = io.claim_port(address, Transport::Tcp).unwrap();
    let _first = io.listen(address, SHARED).unwrap();
    let _second = io.listen(address, SHARED).unwrap();
    drop(claim);
    assert!(io.claim_port(address, Transport::Tcp).is_err(), "the listeners still have it");
    drop(io.claim_port(LOCAL, Transport::Tcp).unwrap());
    drop(io.claim_port(LOCAL, Transport::Tcp).unwrap());
}

/// Runs [`another_process`] and says whether it could claim.
fn claims_elsewhere(address: SocketAddr, transport: Transport) -> bool {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "io::tests::another_process", "--ignored", "--nocapture"])
        .env("CLAIM", format!("{address} {transport:?}"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("CLAIM "), "{output:?}");
    text.contains("CLAIM granted")
}

#[test]
#[ignore = "the other half of a_claimed_port_is_refused"]
fn another_process() {
    let Ok(claim) = std::env::var("CLAIM") else { return };
    let (address, transport) = claim.split_once(' ').unwrap();
    let transport = if transport == "Tcp" { Transport::Tcp } else { Transport::Udp };
    run_local(EngineKind::Portable, |io| async move {
        match io.claim_port(address.parse().unwrap(), transport) {
            Ok(_claim) => println!("CLAIM granted"),
            Err(error) => println!("CLAIM refused: {error}"),
        }
    })
    .unwrap();
}

async fn datagrams(io: Io, _: PathBuf) {
    let a = io.bind_udp(LOCAL, false).unwrap();
    let b = io.bind_udp(LOCAL, false).unwrap();
    let (from, to) = (a.local_addr().unwrap(), b.local_addr().unwrap());
    a.send_to(Bytes::from_static(b"<13>hello"), to).await.unwrap();
    a.send_to(Bytes::from_static(b"0123456789abcdef"), to).await.unwrap();
    let (sender, buf) = b.recv_from(Vec::with_capacity(100)).await;
    assert_eq!((sender.unwrap(), &buf[..]), (from, &b"<13>hello"[..]));
    let mut short = Vec::with_capacity(10);
    short.push(1);
    let room = short.capacity();
    let (sender, buf) = b.recv_from(short).await;
    assert_eq!((sender.unwrap(), &buf[..]), (from, &b"0123456789abcdef"[..room.min(16)]), "cut off");
    assert_eq!(io.bind_udp(to, false).map(drop).unwrap_err().kind(), ErrorKind::AddrInUse);
    let c = io.bind_udp(LOCAL, true).unwrap();
    io.bind_udp(c.local_addr().unwrap(), true).unwrap();
}

async fn names_resolve(io: Io, _: PathBuf) {
    let addresses = io.resolve("localhost", 44444).await.unwrap();
    assert!(addresses.iter().any(|a| a.ip().is_loopback() && a.port() == 44444), "{addresses:?}");
    assert_eq!(io.resolve("127.0.0.1", 1).await.unwrap(), ["127.0.0.1:1".parse().unwrap()]);
    assert!(io.resolve("", 1).await.is_err());
}

async fn time_passes(io: Io, _: PathBuf) {
    let (before, unix_before) = (io.now(), io.unix_time());
    io.sleep(Duration::from_millis(20)).await;
    assert!(io.now() - before >= Duration::from_millis(20));
    assert!(io.unix_time() > unix_before);
    // 2020-01-01 to 2100-01-01.
    assert!((1_577_836_800..4_102_444_800).contains(&unix_before.as_secs()));
    // Shards compare their times.
    if io.kind() != EngineKind::Sim {
        let kind = io.kind();
        let elsewhere = std::thread::spawn(move || run_local(kind, |io| async move { io.now() }).unwrap());
        let elsewhere = elsewhere.join().unwrap();
        assert!(before <= elsewhere && elsewhere <= io.now());
    }
}

async fn random_numbers_differ(io: Io, _: PathBuf) {
    let numbers: std::collections::HashSet<u64> = (0..1000).map(|_| io.random()).collect();
    assert_eq!(numbers.len(), 1000);
}

async fn work_off_the_core(_: Io, _: PathBuf) {
    let here = std::thread::current().id();
    assert_ne!(off_core(|| std::thread::current().id()).await, here);
    let panics = spawn(off_core(|| panic!("as told"))).await.unwrap_err();
    assert!(panics.is_panic());
}
