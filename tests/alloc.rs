//! That events cost no allocation of their own: the whole process runs on an allocator that counts.
//!
//! A batch of 10,000 events goes through a channel (put, commit, take, commit), and through every interceptor, with
//! as many allocations as one of 100, give or take what their size in bytes makes different; and a file goes line by line
//! through TAILDIR and over an avro hop with far fewer allocations than it has lines. A binary of its own, because the
//! allocator is the process's.

#![allow(unsafe_code, reason = "a global allocator can only be written with it")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millrace::channel::{Channel, ChannelContext, ChannelEntry, file, memory, spillable};
use millrace::channel_processor::ChannelProcessor;
use millrace::component::Shard;
use millrace::config::{ComponentSettings, Kind, Location, ParseContext, Setting};
use millrace::event::{BatchBuilder, EventBatch, Separator};
use millrace::interceptor::Interceptor;
use millrace::io::{EngineKind, Io, probe, run_local, spawn, stop};
use millrace::registry::INTERCEPTORS;
use millrace::selector::replicating::Replicating;
use millrace::sink::{self, SinkContext, SinkEntry};
use millrace::source::{self, SourceContext, SourceEntry};

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
/// Bytes asked for; what grows counts with its new size.
static BYTES: AtomicU64 = AtomicU64::new(0);

struct Counting;

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    // SAFETY: as the trait demands.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }
    // SAFETY: as the trait demands.
    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(start, layout) }
    }
    // SAFETY: as the trait demands.
    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(size as u64, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(start, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One test at a time: they share the counter.
static ALONE: Mutex<()> = Mutex::new(());

const FEW: usize = 100;
const MANY: usize = 10_000;
/// Allocations by which batches may differ: doublings of buffers that grow with the bytes, and frames of
/// 448 KiB. One per event would be 9,900.
const SLACK: u64 = 40;

fn count() -> u64 {
    ALLOCATIONS.load(Ordering::Relaxed)
}

fn settings(kind: Kind, lines: &[(&str, String)]) -> ComponentSettings {
    let location = Location { file: "flow.properties".into(), line: 1 };
    let setting =
        |value: &String| Setting { value: value.clone(), location: location.clone(), is_secret: false };
    ComponentSettings {
        agent: "a1".into(),
        kind,
        name: "x1".into(),
        settings: lines.iter().map(|(key, value)| ((*key).to_owned(), setting(value))).collect(),
        listed: None,
        globals: Default::default(),
    }
}

async fn open(io: &Io, entry: &ChannelEntry, lines: &[(&str, String)]) -> Rc<dyn Channel> {
    let settings = settings(Kind::Channel, lines);
    let mut complaints = Vec::new();
    let config = (entry.parse)(&mut ParseContext::new(&settings, &mut complaints));
    assert!(complaints.is_empty(), "{complaints:?}");
    let context = ChannelContext {
        name: "c1".into(),
        agent: "a1".into(),
        shard: Shard { index: 0, count: 1 },
        io: io.clone(),
        counters: Arc::default(),
    };
    config.unwrap().open(context).await.unwrap()
}

/// Lines with a header of their own each.
fn batch(events: usize) -> EventBatch {
    let mut builder = BatchBuilder::with_capacity(Separator::Newline, 64 * events, events);
    for i in 0..events {
        builder.push(b"a line of a log, as they come");
        builder.header("n", if i % 2 == 0 { "even" } else { "odd" });
    }
    builder.common_mut().insert("host", "web1");
    builder.finish()
}

/// Allocations of one batch's way through the channel.
async fn pass(channel: &dyn Channel, events: usize) -> u64 {
    let batch = batch(events);
    let before = count();
    let mut put = channel.begin_put().unwrap();
    put.put(batch).await.unwrap();
    put.commit().await.unwrap();
    let mut taken = 0;
    let mut bytes = 0;
    while taken < events {
        let mut take = channel.begin_take().unwrap();
        let batch = take.take(events - taken).await.unwrap();
        assert!(!batch.is_empty());
        taken += batch.len();
        bytes += batch.bodies().map(|b| b.len()).sum::<usize>();
        drop(batch);
        take.commit().await.unwrap();
    }
    assert_eq!(bytes, 29 * events);
    count() - before
}

/// The least of several passes: now and then a log file is prepared or a queue grows.
async fn least(channel: &dyn Channel, events: usize) -> u64 {
    let mut least = u64::MAX;
    for _ in 0..30 {
        least = least.min(pass(channel, events).await);
    }
    least
}

async fn check(name: &str, channel: &dyn Channel) {
    for _ in 0..3 {
        pass(channel, MANY).await;
        pass(channel, FEW).await;
    }
    let (few, many) = (least(channel, FEW).await, least(channel, MANY).await);
    println!("{name}: {few} allocations for {FEW} events, {many} for {MANY}");
    assert!(few > 0, "the allocator counts");
    assert!(many <= few + SLACK, "{name}: {few} allocations for {FEW} events, but {many} for {MANY}");
}

/// Every interceptor, with what it is told, and whether it touches no single event of a batch whose headers are
/// all common.
const INTERCEPTED: [(&str, &[(&str, &str)], bool); 12] = [
    ("static", &[("key", "env"), ("value", "live")], true),
    ("static", &[("key", "n"), ("preserveExisting", "false")], true),
    ("host", &[], true),
    ("timestamp", &[], true),
    ("timestamp", &[("preserveExisting", "true")], true),
    ("remove_header", &[("withName", "host"), ("matching", "h.*")], true),
    ("uuid", &[], false),
    ("search_replace", &[("searchPattern", "a (line)"), ("replaceString", "$1 a")], false),
    ("regex_filter", &[("regex", "log"), ("excludeEvents", "false")], false),
    ("regex_filter", &[("regex", "nowhere"), ("excludeEvents", "false")], false),
    (
        "regex_extractor",
        &[("regex", "(line) of"), ("serializers", "s"), ("serializers.s.name", "what")],
        false,
    ),
    (
        "regex_extractor",
        &[
            ("regex", r"^(\d+)"),
            ("serializers", "s"),
            ("serializers.s.name", "time"),
            ("serializers.s.type", "org.apache.flume.interceptor.RegexExtractorInterceptorMillisSerializer"),
            ("serializers.s.pattern", "yyyyMMdd"),
        ],
        false,
    ),
];

/// Lines that begin with a date, with a header of their own each if wanted.
fn lines(events: usize, own: bool) -> EventBatch {
    let mut builder = BatchBuilder::with_capacity(Separator::Newline, 64 * events, events);
    for i in 0..events {
        builder.push(b"20261121 a line of a log, as they come");
        if own {
            builder.header("n", if i % 2 == 0 { "even" } else { "odd" });
        }
    }
    builder.common_mut().insert("host", "web1");
    builder.finish()
}

/// The least allocations, and the least bytes, of one batch's way through an interceptor.
fn intercept(interceptor: &mut dyn Interceptor, events: usize, own: bool) -> (u64, u64) {
    let mut least = (u64::MAX, u64::MAX);
    for _ in 0..5 {
        let mut batch = lines(events, own);
        let (before, bytes_before) = (count(), BYTES.load(Ordering::Relaxed));
        interceptor.intercept(&mut batch);
        drop(batch);
        let bytes = BYTES.load(Ordering::Relaxed) - bytes_before;
        least = (least.0.min(count() - before), least.1.min(bytes));
    }
    least
}

async fn check_interceptors(io: &Io) {
    let named = |name: &str| {
        INTERCEPTORS
            .iter()
            .find(|e| e.name == name || e.name.is_empty() && e.class.to_lowercase().contains(name))
    };
    for entry in INTERCEPTORS {
        let told =
            INTERCEPTED.iter().any(|(name, ..)| std::ptr::eq(named(name).expect("an interceptor"), entry));
        assert!(told, "{} is left out", entry.class);
    }
    for (name, options, is_common) in INTERCEPTED {
        let options: Vec<_> = options.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        let settings = settings(Kind::Source, &options);
        let mut complaints = Vec::new();
        let config =
            (named(name).expect("an interceptor").parse)(&mut ParseContext::new(&settings, &mut complaints));
        assert!(complaints.is_empty(), "{complaints:?}");
        let mut interceptor = config.expect("settings").open(io.clone()).await.expect("an interceptor");
        for own in [false, true] {
            let (few, few_bytes) = intercept(&mut *interceptor, FEW, own);
            let (many, many_bytes) = intercept(&mut *interceptor, MANY, own);
            println!(
                "{name} {options:?}, own headers {own}: {few} allocations of {few_bytes} bytes for {FEW} events, {many} of \
                 {many_bytes} for {MANY}"
            );
            assert!(many <= few + SLACK, "{name} {options:?}, own headers {own}");
            if is_common && !own {
                assert_eq!((many, many_bytes), (few, few_bytes), "{name} {options:?} touches every event");
            }
        }
    }
}

/// Starts a source in front of a channel.
async fn start(
    io: &Io,
    entry: &SourceEntry,
    channel: &Rc<dyn Channel>,
    lines: &[(&str, String)],
) -> stop::StopHandle {
    let settings = settings(Kind::Source, lines);
    let mut complaints = Vec::new();
    let config = (entry.parse)(&mut ParseContext::new(&settings, &mut complaints));
    assert!(complaints.is_empty(), "{complaints:?}");
    let selector = Box::new(Replicating::new(1, &[]));
    let context = SourceContext {
        name: "r1".into(),
        agent: "a1".into(),
        shard: Shard { index: 0, count: 1 },
        io: io.clone(),
        channels: Rc::new(ChannelProcessor::new(Vec::new(), selector, vec![channel.clone()])),
        counters: Arc::default(),
    };
    let source = config.unwrap().open(context).await.map_err(|e| e.message).unwrap();
    let (handle, stop) = stop::channel();
    spawn(async move { source.run(stop).await.unwrap() });
    handle
}

/// Starts a sink behind a channel; it works as long as this runs.
async fn deliver(io: &Io, entry: &SinkEntry, channel: &Rc<dyn Channel>, lines: &[(&str, String)]) {
    let settings = settings(Kind::Sink, lines);
    let mut complaints = Vec::new();
    let config = (entry.parse)(&mut ParseContext::new(&settings, &mut complaints));
    assert!(complaints.is_empty(), "{complaints:?}");
    let context = SinkContext {
        name: "k1".into(),
        agent: "a1".into(),
        lane: 0,
        lanes: 1,
        io: io.clone(),
        channel: channel.clone(),
        counters: Arc::default(),
    };
    let mut sink = config.unwrap().open(context).await.map_err(|e| e.message).unwrap();
    let channel = channel.clone();
    spawn(async move {
        loop {
            channel.wait_ready().await;
            sink.process().await.unwrap();
        }
    });
}

/// Takes events until there are so many.
async fn expect(io: &Io, channel: &dyn Channel, events: usize) {
    let deadline = io.now() + Duration::from_secs(60);
    let mut taken = 0;
    while taken < events {
        tokio::select! {
            () = channel.wait_ready() => {}
            () = io.sleep(deadline.saturating_sub(io.now())) => panic!("{taken} of {events} events arrived"),
        }
        let mut take = channel.begin_take().unwrap();
        taken += take.take(MANY).await.unwrap().len();
        take.commit().await.unwrap();
    }
    assert_eq!(taken, events);
}

/// Lines of the file that goes over the hop, ten batches and more.
const LINES: usize = 100_000;

async fn hop(io: &Io, directory: &Path, compression: &str, source_compression: &str) -> u64 {
    let tailed = directory.join(format!("tailed-{compression}"));
    fs::create_dir(&tailed).unwrap();
    let lines: String = (0..LINES).map(|n| format!("line {n} of a log, as they come\n")).collect();
    fs::write(tailed.join("log"), lines).unwrap();
    let capacity = [("capacity", (2 * LINES).to_string()), ("transactionCapacity", MANY.to_string())];
    let first = open(io, &memory::ENTRY, &capacity).await;
    let second = open(io, &memory::ENTRY, &capacity).await;
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let receiving = [
        ("bind", "127.0.0.1".to_owned()),
        ("port", port.clone()),
        ("compression-type", source_compression.to_owned()),
    ];
    let receiving = start(io, &source::avro::ENTRY, &second, &receiving).await;
    let sending =
        [("hostname", "127.0.0.1".to_owned()), ("port", port), ("compression-type", compression.to_owned())];
    deliver(io, &sink::avro::ENTRY, &first, &sending).await;
    let before = count();
    let tailing = [
        ("filegroups", "f".to_owned()),
        ("filegroups.f", tailed.join("log").display().to_string()),
        ("positionFile", tailed.join("positions").display().to_string()),
    ];
    let tailing = start(io, &source::taildir::ENTRY, &first, &tailing).await;
    expect(io, &*second, LINES).await;
    let allocations = count() - before;
    tailing.request(stop::Phase::Stopping);
    receiving.request(stop::Phase::Stopping);
    allocations
}

#[test]
fn a_hop_costs_no_allocation_per_line() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let directory = tempfile::tempdir().unwrap();
    let engine = if probe::io_uring().is_ok() { EngineKind::Uring } else { EngineKind::Portable };
    run_local(engine, |io| async move {
        for (compression, source_compression) in [("none", "none"), ("zstd", "none"), ("deflate", "deflate")]
        {
            let allocations = hop(&io, directory.path(), compression, source_compression).await;
            println!("hop, {compression}: {allocations} allocations for {LINES} lines");
            assert!(allocations > 0, "the allocator counts");
            // Each of the ten and more batches costs dozens at every station, each line none.
            let most = LINES as u64 / 10;
            assert!(allocations < most, "{compression}: {allocations} allocations for {LINES} lines");
        }
    })
    .unwrap();
}

#[test]
fn events_cost_no_allocation() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // The counter sees what it must see.
    let before = count();
    let strings: Vec<String> = (0..MANY).map(|i| i.to_string()).collect();
    assert!(count() - before >= MANY as u64 && strings.len() == MANY);

    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let engine = if probe::io_uring().is_ok() { EngineKind::Uring } else { EngineKind::Portable };
    let capacity = [("capacity", "100000".to_owned()), ("transactionCapacity", MANY.to_string())];
    run_local(engine, |io| async {
        let io = io;
        check_interceptors(&io).await;
        let channel = open(&io, &memory::ENTRY, &capacity).await;
        check("memory", &*channel).await;
        let spillable = [("overflowCapacity", "0".to_owned()), ("memoryCapacity", "100000".to_owned())];
        let spillable = [&spillable[..], &capacity[1..]].concat();
        let channel = open(&io, &spillable::ENTRY, &spillable).await;
        check("spillable memory", &*channel).await;
        for per_transaction in ["true", "false"] {
            let mut lines = capacity.to_vec();
            lines.extend([
                ("checkpointDir", path(&format!("checkpoint-{per_transaction}"))),
                ("dataDirs", path(&format!("data-{per_transaction}"))),
                ("minimumRequiredSpace", "1048576".to_owned()),
                ("fsyncPerTransaction", per_transaction.to_owned()),
            ]);
            let channel = open(&io, &file::ENTRY, &lines).await;
            check(&format!("file, fsyncPerTransaction = {per_transaction}"), &*channel).await;
            channel.close().await;
        }
    })
    .unwrap();
}
