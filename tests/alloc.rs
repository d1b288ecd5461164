//! That events cost no allocation of their own: the whole process runs on an allocator that counts.
//!
//! A batch of 10,000 events goes through a channel (put, commit, take, commit), and through every interceptor, with
//! as many allocations as one of 100, give or take what their size in bytes makes different. A binary of its own, because the
//! allocator is the process's.

#![allow(unsafe_code, reason = "a global allocator can only be written with it")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use millrace::channel::{Channel, ChannelContext, ChannelEntry, file, memory, spillable};
use millrace::component::Shard;
use millrace::config::{ComponentSettings, Kind, Location, ParseContext, Setting};
use millrace::event::{BatchBuilder, EventBatch, Separator};
use millrace::interceptor::Interceptor;
use millrace::io::{EngineKind, Io, probe, run_local};
use millrace::registry::INTERCEPTORS;

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

#[test]
fn events_cost_no_allocation() {
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
