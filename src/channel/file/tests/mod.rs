use std::future::Future;
use std::path::PathBuf;

use super::*;
use crate::channel::ChannelError;
use crate::component::Shard;
use crate::config::Kind;
use crate::event::{BatchBuilder, EventBatch, Separator, SourceMark};
use crate::io::{EngineKind, probe, run_local};
use crate::testing;

/// Runs a test on an engine over the real kernel, in a directory of its own.
fn on_kernel<F: Future<Output = ()>>(kind: EngineKind, test: impl FnOnce(Io, PathBuf) -> F) {
    if kind == EngineKind::Uring
        && let Err(refusal) = probe::io_uring()
    {
        assert!(std::env::var_os("REQUIRE_URING").is_none_or(|v| v != "1"), "{refusal}");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    run_local(kind, |io| async {
        tokio::time::timeout(Duration::from_secs(60), test(io, path)).await.expect("the test takes too long");
    })
    .unwrap();
}

macro_rules! suite {
    ($($name:ident),* $(,)?) => {
        mod portable {
            $(#[test] fn $name() { crate::channel::file::tests::on_kernel(crate::io::EngineKind::Portable, super::$name); })*
        }
        mod uring {
            $(#[test] fn $name() { crate::channel::file::tests::on_kernel(crate::io::EngineKind::Uring, super::$name); })*
        }
        #[cfg(feature = "glommio")]
        mod glommio {
            $(#[test] fn $name() { crate::channel::file::tests::on_kernel(crate::io::EngineKind::Glommio, super::$name); })*
        }
    };
}

mod encryption;
mod marks;

suite!(
    events_survive_a_crash,
    events_survive_a_close,
    a_rollback_puts_back_in_order,
    acknowledgements_out_of_order_survive,
    small_batches_are_joined,
    large_transactions_are_whole,
    a_full_channel_refuses,
    a_transaction_has_a_limit,
    a_second_owner_is_refused,
    left_over_logs_are_drained_and_removed,
    a_backlog_is_read_from_disk,
    segments_are_given_back,
    the_other_durability_classes,
    a_torn_tail_is_cut,
    damage_stops_or_is_skipped,
    an_abandoned_take_goes_back,
    a_smaller_capacity_after_a_restart,
    counters_of_the_file_channel,
);

fn config(directory: &Path, lines: &str) -> Arc<FileConfig> {
    let text = format!(
        "checkpointDir = {0}/checkpoint\ndataDirs = {0}/data\nkeep-alive = 0\nminimumRequiredSpace = 1048576\n{lines}",
        directory.display()
    );
    let (config, complaints) = testing::parse(Kind::Channel, &text, parse_config);
    assert_eq!(complaints, [""; 0]);
    Arc::new(config.unwrap())
}

async fn open_shard(io: &Io, config: Arc<FileConfig>, index: usize, count: usize) -> Rc<FileChannel> {
    let shard = Shard { index, count };
    FileChannel::open(config, ChannelContext { shard, ..testing::channel_context(io) }).await.unwrap()
}
async fn open(io: &Io, directory: &Path, lines: &str) -> Rc<FileChannel> {
    open_shard(io, config(directory, lines), 0, 1).await
}

/// Lets tasks that still hold the channel end, as they would in a process that is killed.
async fn crash(io: &Io, channel: Rc<FileChannel>) {
    let lock = channel.directory().join(crate::wal::LOCK_FILE);
    drop(channel);
    testing::expect(io, || io.lock(&lock).is_ok()).await;
}

fn lines(from: usize, to: usize) -> EventBatch {
    let mut builder = BatchBuilder::new(Separator::Newline);
    (from..to).for_each(|i| builder.push(format!("line {i}").as_bytes()));
    builder.finish()
}
fn expected(from: usize, to: usize) -> Vec<String> {
    (from..to).map(|i| format!("line {i}")).collect()
}
fn bodies(batch: &EventBatch) -> Vec<String> {
    batch.bodies().map(|b| String::from_utf8_lossy(b).into_owned()).collect()
}

async fn put(channel: &FileChannel, batch: EventBatch) -> Result<(), ChannelError> {
    let mut transaction = channel.begin_put()?;
    transaction.put(batch).await?;
    transaction.commit().await
}

async fn take(channel: &FileChannel, events_max: usize) -> (Box<dyn TakeTransaction>, EventBatch) {
    let mut transaction = channel.begin_take().unwrap();
    let batch = transaction.take(events_max).await.unwrap();
    (transaction, batch)
}

use crate::channel::TakeTransaction;

fn segments(directory: &Path, shard: usize) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory.join(format!("data/shard-{shard}")))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "seg"))
        .collect();
    files.sort();
    files
}

async fn events_survive_a_crash(io: Io, directory: PathBuf) {
    for round in 0..4 {
        let channel = open(&io, &directory, "").await;
        assert_eq!(channel.waiting(), round * 10);
        put(&channel, lines(round as usize * 10, round as usize * 10 + 10)).await.unwrap();
        crash(&io, channel).await;
    }
    let channel = open(&io, &directory, "").await;
    let mut transaction = channel.begin_take().unwrap();
    assert_eq!(bodies(&transaction.take(10).await.unwrap()), expected(0, 10));
    let batch = transaction.take(5).await.unwrap();
    assert_eq!(bodies(&batch), expected(10, 15));
    assert!(batch.as_lines().is_some());
    transaction.commit().await.unwrap();
    crash(&io, channel).await;
    let channel = open(&io, &directory, "").await;
    assert_eq!(testing::drain_bodies(&*channel).await, expected(15, 40));
    crash(&io, channel).await;
    let channel = open(&io, &directory, "").await;
    assert_eq!(channel.waiting(), 0);
    assert_eq!(testing::drain_bodies(&*channel).await, [""; 0]);
}

async fn events_survive_a_close(io: Io, directory: PathBuf) {
    for round in 0..3 {
        let channel = open(&io, &directory, "").await;
        put(&channel, lines(round * 10, round * 10 + 10)).await.unwrap();
        channel.close().await;
        assert!(matches!(channel.begin_put(), Err(ChannelError::Closed(_))));
        channel.close().await;
    }
    let channel = open(&io, &directory, "").await;
    assert_eq!(testing::drain_bodies(&*channel).await, expected(0, 30));
    channel.close().await;
    let channel = open(&io, &directory, "").await;
    assert_eq!(channel.waiting(), 0);
}

async fn a_rollback_puts_back_in_order(io: Io, directory: PathBuf) {
    let channel = open(&io, &directory, "").await;
    put(&channel, lines(0, 100)).await.unwrap();
    put(&channel, lines(100, 110)).await.unwrap();
    let (first, batch) = take(&channel, 30).await;
    assert_eq!(bodies(&batch), expected(0, 30));
    let (second, batch) = take(&channel, 30).await;
    assert_eq!(bodies(&batch), expected(30, 60));
    let (third, _) = take(&channel, 50).await;
    drop(first);
    drop(third);
    drop(second);
    channel.wait_ready().await;
    assert_eq!(testing::drain_bodies(&*channel).await, expected(0, 110));
}

async fn acknowledgements_out_of_order_survive(io: Io, directory: PathBuf) {
    let channel = open(&io, &directory, "").await;
    put(&channel, lines(0, 100)).await.unwrap();
    let (first, _) = take(&channel, 10).await;
    let (second, _) = take(&channel, 10).await;
    let (third, _) = take(&channel, 10).await;
    let (fourth, _) = take(&channel, 10).await;
    second.commit().await.unwrap();
    fourth.commit().await.unwrap();
    std::mem::forget((first, third));
    let counters = channel.waiting();
    assert_eq!(counters, 80);
    // The forgotten transactions keep the lock: open a copy of the directory, as after a kill.
    let copy = directory.join("copy");
    copy_tree(&directory.join("data"), &copy.join("data"));
    let channel = open(&io, &copy, "").await;
    assert_eq!(channel.waiting(), 80);
    let mut rest = expected(0, 10);
    rest.extend(expected(20, 30));
    rest.extend(expected(40, 100));
    assert_eq!(testing::drain_bodies(&*channel).await, rest);
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

async fn small_batches_are_joined(io: Io, directory: PathBuf) {
    let channel = open(&io, &directory, "").await;
    for i in 0..20 {
        let mut batch = lines(i, i + 1);
        batch.common_mut().insert("host", "web1");
        batch.common_mut().insert("timestamp", i.to_string());
        put(&channel, batch).await.unwrap();
    }
    let (transaction, batch) = take(&channel, 12).await;
    assert_eq!(bodies(&batch), expected(0, 12));
    for i in 0..12 {
        assert_eq!(batch.header(i, "timestamp"), Some(i.to_string().as_str()));
    }
    assert_eq!(batch.common().get("host"), Some("web1"));
    drop(transaction);
    let (transaction, batch) = take(&channel, 100).await;
    assert_eq!(bodies(&batch), expected(0, 20));
    transaction.commit().await.unwrap();
    assert_eq!(channel.waiting(), 0);
}

async fn large_transactions_are_whole(io: Io, directory: PathBuf) {
    let channel = open(&io, &directory, "").await;
    let mut builder = BatchBuilder::new(Separator::None);
    let body = |i: usize| vec![b'a' + (i % 26) as u8; 1 + i * 7919 % 600_000];
    (0..40).for_each(|i| builder.push(&body(i)));
    put(&channel, builder.finish()).await.unwrap();
    for reopen in [false, true] {
        let channel = if reopen {
            channel.close().await;
            open(&io, &directory, "").await
        } else {
            channel.clone()
        };
        let mut seen = 0;
        let mut transaction = channel.begin_take().unwrap();
        loop {
            let batch = transaction.take(7).await.unwrap();
            if batch.is_empty() {
                break;
            }
            for taken in batch.bodies() {
                assert_eq!(taken, body(seen));
                seen += 1;
            }
        }
        assert_eq!(seen, 40);
        if reopen {
            transaction.commit().await.unwrap();
            assert_eq!(channel.waiting(), 0);
        }
    }
    let limited = open(&io, &directory.join("small"), "maxFileSize = 1000000").await;
    let error = put(&limited, EventBatch::single(Default::default(), vec![0; 1_000_000])).await.unwrap_err();
    assert!(matches!(error, ChannelError::TooLarge(_)), "{error}");
    put(&limited, EventBatch::single(Default::default(), vec![0; 900_000])).await.unwrap();
    put(&limited, lines(0, 3)).await.unwrap();
    assert_eq!(limited.waiting(), 4);
}

async fn a_full_channel_refuses(io: Io, directory: PathBuf) {
    let channel = open(&io, &directory, "capacity = 10\ntransactionCapacity = 10").await;
    put(&channel, lines(0, 8)).await.unwrap();
    let error = put(&channel, lines(8, 11)).await.unwrap_err().to_string();
    assert!(error.starts_with("The channel has reached it's capacity."), "{error}");
    put(&channel, lines(8, 10)).await.unwrap();
    let (transaction, batch) = take(&channel, 4).await;
    assert_eq!(batch.len(), 4);
    assert!(put(&channel, lines(10, 11)).await.is_err(), "room is given back at commit");
    transaction.commit().await.unwrap();
    put(&channel, lines(10, 14)).await.unwrap();
    assert_eq!(testing::drain_bodies(&*channel).await, expected(4, 14));
}

async fn a_transaction_has_a_limit(io: Io, directory: PathBuf) {
    let channel = open(&io, &directory, "capacity = 100\ntransactionCapacity = 10").await;
    let error = put(&channel, lines(0, 11)).await.unwrap_err().to_string();
    assert!(error.starts_with("Put queue for FileBackedTransaction of capacity 10 full"), "{error}");
    let mut transaction = channel.begin_put().unwrap();
    transaction.put(lines(0, 6)).await.unwrap();
    transaction.put(lines(6, 10)).await.unwrap();
    assert!(transaction.put(lines(10, 11)).await.is_err());
    drop(transaction);
    for i in 0..3 {
        put(&channel, lines(i * 10, i * 10 + 10)).await.unwrap();
    }
    let mut transaction = channel.begin_take().unwrap();
    assert_eq!(transaction.take(100).await.unwrap().len(), 10);
    let error = transaction.take(1).await.unwrap_err().to_string();
    assert!(error.starts_with("Take list for FileBackedTransaction, capacity 10 full"), "{error}");
    drop(transaction);
    assert_eq!(testing::drain_bodies(&*channel).await, expected(0, 30));
}

fn source_mark(key: &'static str, value: &str) -> SourceMark {
    SourceMark { source: "r1".into(), key: key.into(), value: value.to_owned().into() }
}

async fn a_second_owner_is_refused(io: Io, directory: PathBuf) {
    let channel = open(&io, &directory, "").await;
    let error = FileChannel::open(config(&directory, ""), testing::channel_context(&io)).await.err().unwrap();
    let expected = format!(
        "Cannot lock {}. The directory is already locked. [channel=c1]",
        directory.join("checkpoint").display()
    );
    assert_eq!(error.message, expected);
    channel.close().await;
    open(&io, &directory, "").await;
}

async fn left_over_logs_are_drained_and_removed(io: Io, directory: PathBuf) {
    let shared = config(&directory, "");
    for index in 0..3 {
        let channel = open_shard(&io, shared.clone(), index, 3).await;
        let mut batch = lines(index * 10, index * 10 + 10);
        batch.set_mark(source_mark(["a", "b", "c"][index], "1"));
        put(&channel, batch).await.unwrap();
        channel.close().await;
    }
    let channel = open(&io, &directory, "").await;
    assert_eq!(channel.waiting(), 30);
    assert_eq!(channel.marks("r1").len(), 3);
    put(&channel, lines(30, 31)).await.unwrap();
    let mut taken = testing::drain_bodies(&*channel).await;
    taken.sort();
    let mut all = expected(0, 31);
    all.sort();
    assert_eq!(taken, all);
    testing::expect(&io, || {
        !directory.join("data/shard-1").exists() && !directory.join("data/shard-2").exists()
    })
    .await;
    channel.close().await;
    let channel = open(&io, &directory, "").await;
    assert_eq!((channel.waiting(), channel.marks("r1").len()), (0, 3));
}

async fn a_backlog_is_read_from_disk(io: Io, directory: PathBuf) {
    let channel = open(&io, &directory, "").await;
    // More than is kept in memory, over several segments.
    for i in 0..60 {
        let mut builder = BatchBuilder::new(Separator::Newline);
        (0..1000).for_each(|j| builder.push(format!("{:0250}", i * 1000 + j).as_bytes()));
        put(&channel, builder.finish()).await.unwrap();
    }
    assert!(segments(&directory, 0).len() > 2);
    let check = async |channel: &FileChannel, from: usize, to: usize| {
        let mut next = from;
        while next < to {
            let (transaction, batch) = take(channel, 700).await;
            assert!(!batch.is_empty(), "{next}");
            for body in batch.bodies() {
                assert_eq!(body, format!("{next:0250}").as_bytes());
                next += 1;
            }
            transaction.commit().await.unwrap();
        }
        next
    };
    let next = check(&channel, 0, 20_000).await;
    crash(&io, channel).await;
    let channel = open(&io, &directory, "").await;
    assert_eq!(channel.waiting(), 60_000 - next as u64);
    check(&channel, next, 60_000).await;
    assert_eq!(channel.waiting(), 0);
}

async fn segments_are_given_back(io: Io, directory: PathBuf) {
    let channel = open(&io, &directory, "maxFileSize = 1048576").await;
    for i in 0..100 {
        put(&channel, EventBatch::single(Default::default(), vec![b'x'; 100_000])).await.unwrap();
        let (transaction, batch) = take(&channel, 10).await;
        assert_eq!(batch.len(), 1, "{i}");
        drop(batch);
        transaction.commit().await.unwrap();
    }
    testing::expect(&io, || segments(&directory, 0).len() <= 3).await;
    channel.close().await;
    let channel = open(&io, &directory, "maxFileSize = 1048576").await;
    assert_eq!(channel.waiting(), 0);
}

async fn the_other_durability_classes(io: Io, directory: PathBuf) {
    for (name, lines_) in [
        ("interval", "fsyncPerTransaction = false\nfsyncInterval = 1\nmaxFileSize = 1048576"),
        ("os", "fsyncPerTransaction = false\nfsyncInterval = 0\nmaxFileSize = 1048576"),
    ] {
        let directory = directory.join(name);
        for round in 0..3 {
            let channel = open(&io, &directory, lines_).await;
            assert_eq!(channel.waiting(), round * 3000);
            for i in 0..3 {
                let from = (round * 3000 + i * 1000) as usize;
                put(&channel, lines(from, from + 1000)).await.unwrap();
            }
            crash(&io, channel).await;
        }
        let channel = open(&io, &directory, lines_).await;
        put(&channel, EventBatch::single(Default::default(), vec![b'x'; 900_000])).await.unwrap();
        put(&channel, EventBatch::single(Default::default(), vec![b'y'; 900_000])).await.unwrap();
        let taken = testing::drain_bodies(&*channel).await;
        assert_eq!(taken[..9000], expected(0, 9000));
        assert_eq!(taken.len(), 9002);
    }
}

/// Offset and size of the frames of a segment.
fn frames(segment: &[u8]) -> Vec<(usize, usize)> {
    let mut at = 4096;
    let mut frames = Vec::new();
    while segment.get(at..at + 4) == Some(&crate::wal::frame::MAGIC) {
        let size = crate::wal::frame::u32_at(segment, at + 8) as usize;
        frames.push((at, size));
        at += size;
    }
    frames
}

/// Forgets that the kernel is still the same, and the exact end of the log with it.
fn another_boot(directory: &Path, durable: u64) {
    use crate::wal::state::State;
    let path = directory.join("data/shard-0/state");
    let mut state = State::from_page(&std::fs::read(&path).unwrap()).unwrap();
    state.boot ^= 1;
    state.durable = durable;
    let mut page = state.encode();
    page.resize(8192, 0);
    std::fs::write(path, page).unwrap();
}

async fn a_torn_tail_is_cut(io: Io, directory: PathBuf) {
    let channel = open(&io, &directory, "").await;
    for i in 0..10 {
        put(&channel, lines(i, i + 1)).await.unwrap();
    }
    let saved = directory.join("saved");
    crash(&io, channel).await;
    copy_tree(&directory.join("data"), &saved);
    let whole = std::fs::read(segments(&directory, 0).last().unwrap()).unwrap();
    let last = *frames(&whole).last().unwrap();
    let damages: [(&str, &dyn Fn(&mut Vec<u8>)); 4] = [
        ("cut", &|bytes| bytes.truncate(last.0)),
        ("cut in the middle", &|bytes| bytes.truncate(last.0 + 90)),
        ("zeros", &|bytes| bytes[last.0..last.0 + 512].fill(0)),
        ("flipped", &|bytes| bytes[last.0 + 80] ^= 4),
    ];
    for (name, damage) in damages {
        std::fs::remove_dir_all(directory.join("data")).unwrap();
        copy_tree(&saved, &directory.join("data"));
        // As after a power loss that came before the last write was acknowledged.
        another_boot(&directory, last.0 as u64);
        let path = segments(&directory, 0).pop().unwrap();
        let mut bytes = whole.clone();
        damage(&mut bytes);
        bytes.resize(whole.len(), 0);
        std::fs::write(path, bytes).unwrap();
        let channel = open(&io, &directory, "").await;
        assert_eq!(channel.waiting(), 9, "{name}");
        put(&channel, lines(100, 101)).await.unwrap();
        crash(&io, channel).await;
        let channel = open(&io, &directory, "").await;
        let mut all = expected(0, 9);
        all.push("line 100".to_owned());
        assert_eq!(testing::drain_bodies(&*channel).await, all, "{name}");
        crash(&io, channel).await;
    }
}

/// A counter by its key.
fn value(counters: &crate::metrics::ChannelCounters, key: &str) -> Option<u64> {
    counters.snapshot().into_iter().find(|(info, _)| info.key == key).map(|(_, value)| value)
}

async fn damage_stops_or_is_skipped(io: Io, directory: PathBuf) {
    let channel = open(&io, &directory, "").await;
    for i in 0..10 {
        put(&channel, lines(i * 3, i * 3 + 3)).await.unwrap();
    }
    crash(&io, channel).await;
    let path = segments(&directory, 0).pop().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    // The first frame is the snapshot of marks; hit the fifth transaction.
    let hit = frames(&bytes)[5];
    bytes[hit.0 + 90] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let saved = directory.join("saved");
    copy_tree(&directory.join("data"), &saved);
    for same_boot in [true, false] {
        std::fs::remove_dir_all(directory.join("data")).unwrap();
        copy_tree(&saved, &directory.join("data"));
        if !same_boot {
            another_boot(&directory, 0);
        }
        let channel = open(&io, &directory, "").await;
        assert_eq!(channel.waiting(), 30);
        let mut transaction = channel.begin_take().unwrap();
        assert_eq!(bodies(&transaction.take(100).await.unwrap()), expected(0, 12));
        let error = transaction.take(100).await.unwrap_err();
        assert!(matches!(error, ChannelError::Damaged(_)));
        let expected_place = format!("is damaged at offset {}: {} bytes with 3 events", hit.0, hit.1);
        assert!(error.to_string().contains(&expected_place), "{error}");
        transaction.commit().await.unwrap();
        put(&channel, lines(30, 31)).await.unwrap();
        crash(&io, channel).await;

        let counters: Arc<crate::metrics::ChannelCounters> = Arc::default();
        let context = ChannelContext { counters: counters.clone(), ..testing::channel_context(&io) };
        let skipping = config(&directory, "onDamage = skip");
        let channel = FileChannel::open(skipping.clone(), context).await.unwrap();
        assert_eq!(testing::drain_bodies(&*channel).await, expected(15, 31));
        assert_eq!(channel.waiting(), 0);
        // What was lost neither waits nor takes room.
        assert_eq!((counters.channel_size.value(), value(&counters, "SkippedEventCount")), (0, Some(3)));
        assert_eq!(skipping.budget.used(), 0);
        channel.close().await;
        let channel = open(&io, &directory, "").await;
        assert_eq!(channel.waiting(), 0);
        crash(&io, channel).await;
    }
}

async fn an_abandoned_take_goes_back(io: Io, directory: PathBuf) {
    let channel = open(&io, &directory, "").await;
    put(&channel, lines(0, 10)).await.unwrap();
    {
        let mut transaction = channel.begin_take().unwrap();
        let mut taking = transaction.take(5);
        // Polled at most once, then dropped.
        let _ = tokio::time::timeout(Duration::ZERO, &mut taking).await;
    }
    assert_eq!(testing::drain_bodies(&*channel).await, expected(0, 10));
}

async fn a_smaller_capacity_after_a_restart(io: Io, directory: PathBuf) {
    let channel = open(&io, &directory, "").await;
    put(&channel, lines(0, 30)).await.unwrap();
    channel.close().await;
    let channel = open(&io, &directory, "capacity = 10\ntransactionCapacity = 10").await;
    assert!(put(&channel, lines(30, 31)).await.is_err());
    for _ in 0..2 {
        let (transaction, _) = take(&channel, 10).await;
        transaction.commit().await.unwrap();
        assert!(put(&channel, lines(30, 31)).await.is_err());
    }
    let (transaction, _) = take(&channel, 10).await;
    transaction.commit().await.unwrap();
    put(&channel, lines(30, 40)).await.unwrap();
    assert!(put(&channel, lines(40, 41)).await.is_err());
}

#[test]
fn properties() {
    let dir = "checkpointDir = /a\ndataDirs = /b, /c\n";
    let table = [
        ("", Ok(())),
        ("capacity = 0", Err("must be above 0; 1000000 is used")),
        ("capacity = x", Err("not a whole number")),
        ("transactionCapacity = -1", Err("must be above 0; 10000 is used")),
        (
            "capacity = 5\ntransactionCapacity = 6",
            Err("transaction capacity cannot be greater than the capacity"),
        ),
        ("checkpointInterval = 0", Err("must be above 0; 30000 is used")),
        ("maxFileSize = 10", Err("too small for a log file")),
        ("useDualCheckpoints = true", Err("the backup directory is not set")),
        ("useDualCheckpoints = true\nbackupCheckpointDir = /a", Err("must not be the same directory")),
        ("useDualCheckpoints = true\nbackupCheckpointDir = /d", Ok(())),
        ("onDamage = skip", Ok(())),
        ("onDamage = ignore", Err("neither `stop` nor `skip`")),
        ("fsyncPerTransaction = false\nfsyncInterval = 7", Ok(())),
        ("use-fast-replay = true\ncompressBackupCheckpoint = true", Ok(())),
        ("encryption.activeKey = k", Err("is required for encryption and not set")),
        ("minimumRequiredSpace = 1", Ok(())),
    ];
    for (lines, result) in table {
        let (config, complaints) = testing::parse(Kind::Channel, &format!("{dir}{lines}"), parse_config);
        match result {
            Ok(()) => assert!(config.is_some() && complaints.is_empty(), "{lines}: {complaints:?}"),
            Err(text) => assert!(complaints.iter().any(|c| c.contains(text)), "{lines}: {complaints:?}"),
        }
    }
    let (config, _) = testing::parse(Kind::Channel, dir, parse_config);
    let config = config.unwrap();
    assert_eq!((config.capacity(), config.transaction_capacity()), (1_000_000, 10_000));
    assert_eq!(config.log_directory(3), Path::new("/c/shard-3"));
    assert_eq!(config.durability, Durability::Commit);
    assert_eq!(config.claims().len(), 3);
    let (config, complaints) =
        testing::parse(Kind::Channel, "checkpointDir = /a\ndataDirs = /b,/b", parse_config);
    assert!(config.is_none() && complaints[0].contains("listed twice"));
}

async fn counters_of_the_file_channel(io: Io, directory: PathBuf) {
    let backup = format!("useDualCheckpoints = true\nbackupCheckpointDir = {}/backup", directory.display());
    let shared = config(&directory, &format!("{backup}\ncheckpointInterval = 1000"));
    let counters: Arc<crate::metrics::ChannelCounters> = Arc::default();
    let context = |index| ChannelContext {
        shard: Shard { index, count: 2 },
        counters: counters.clone(),
        ..testing::channel_context(&io)
    };
    let first = FileChannel::open(shared.clone(), context(0)).await.unwrap();
    let second = FileChannel::open(shared.clone(), context(1)).await.unwrap();
    for (key, expected) in [("Open", 1), ("Closed", 0), ("Unhealthy", 0), ("Durability", 0)] {
        assert_eq!(value(&counters, key), Some(expected), "{key}");
    }
    // A directory that cannot be written to: its copies fail, and only they.
    std::fs::rename(directory.join("backup"), directory.join("gone")).unwrap();
    put(&first, lines(0, 1)).await.unwrap();
    testing::expect(&io, || value(&counters, "CheckpointBackupWriteErrorCount").is_some_and(|n| n > 0)).await;
    assert_eq!(value(&counters, "CheckpointWriteErrorCount"), Some(0));
    first.close().await;
    assert_eq!(value(&counters, "Closed"), Some(0), "another shard has it open");
    second.close().await;
    second.close().await;
    assert_eq!((value(&counters, "Open"), value(&counters, "Closed")), (Some(0), Some(1)));
    let lazy = config(&directory.join("lazy"), "fsyncPerTransaction = false\nfsyncInterval = 7");
    FileChannel::open(lazy, context(0)).await.unwrap();
    assert_eq!((value(&counters, "Durability"), value(&counters, "Open")), (Some(7), Some(1)));
}
