//! What an operator sees when the disk fails or fills up: on the simulated disk, and on a small ext4 image.

use std::future::Future;

use super::*;
use crate::channel::{ChannelError, TakeTransaction};
use crate::component::Shard;
use crate::config::Kind;
use crate::event::{BatchBuilder, EventBatch, Separator};
use crate::io::sim::{Disk, Fault, Operation, Outcome, World};
use crate::io::{EngineKind, run_local};
use crate::testing;

/// Runs a test in one life on a simulated disk.
fn on_sim<F: Future<Output = ()>>(seed: u64, test: impl FnOnce(Io, Disk) -> F) {
    let world = World::new(seed);
    let disk = world.disk.clone();
    assert_eq!(world.run(|io| test(io, disk)), Outcome::Finished(()));
}

async fn open(io: &Io, directory: &Path, lines: &str) -> Rc<FileChannel> {
    let text = format!(
        "checkpointDir = {0}/checkpoint\ndataDirs = {0}/data\nkeep-alive = 0\nminimumRequiredSpace = 1048576\n{lines}",
        directory.display()
    );
    let (config, complaints) = testing::parse(Kind::Channel, &text, parse_config);
    assert_eq!(complaints, [""; 0]);
    let shard = Shard { index: 0, count: 1 };
    let context = ChannelContext { shard, ..testing::channel_context(io) };
    FileChannel::open(Arc::new(config.unwrap()), context).await.unwrap()
}

/// Lets tasks that still hold the channel end, as they would in a process that is killed.
async fn crash(io: &Io, channel: Rc<FileChannel>) {
    let lock = channel.directory().join(crate::wal::LOCK_FILE);
    drop(channel);
    testing::expect(io, || io.lock(&lock).is_ok()).await;
}

/// One event of about this size, whose number comes out first.
fn event(number: usize, size: usize) -> EventBatch {
    let mut builder = BatchBuilder::new(Separator::Newline);
    builder.push(format!("{number:08}{}", "x".repeat(size)).as_bytes());
    builder.finish()
}
fn numbers(batch: &EventBatch) -> Vec<usize> {
    batch.bodies().map(|b| std::str::from_utf8(&b[..8]).unwrap().parse().unwrap()).collect()
}

async fn put(channel: &FileChannel, batch: EventBatch) -> Result<(), ChannelError> {
    let mut transaction = channel.begin_put()?;
    transaction.put(batch).await?;
    transaction.commit().await
}

/// Takes and commits up to so many events.
async fn take(channel: &FileChannel, count: usize) -> Vec<usize> {
    let mut taken = Vec::new();
    while taken.len() < count {
        let mut transaction: Box<dyn TakeTransaction> = channel.begin_take().unwrap();
        let batch = transaction.take(count - taken.len()).await.unwrap();
        if batch.is_empty() {
            break;
        }
        taken.extend(numbers(&batch));
        transaction.commit().await.unwrap();
    }
    taken
}

fn count(channel: &FileChannel, key: &str) -> u64 {
    let all = channel.counters().snapshot();
    all.into_iter().find(|(info, _)| info.key == key).map_or(0, |(_, value)| value)
}

#[test]
fn a_failed_write_latches_puts_and_takes_go_on() {
    for (class, operation) in
        [("", Operation::Write), ("fsyncPerTransaction = false\nfsyncInterval = 1", Operation::Sync)]
    {
        for seed in 0..5 {
            on_sim(seed, |io, disk| async move {
                let directory = Path::new("/flume");
                let channel = open(&io, directory, class).await;
                for i in 0..5 {
                    put(&channel, event(i, 300)).await.unwrap();
                }
                let waiting = if operation == Operation::Write { 5 } else { 6 };
                disk.add_fault(Fault {
                    path_contains: "shard-0/next".into(),
                    count: u64::MAX,
                    ..Fault::next(operation)
                });
                if operation == Operation::Write {
                    let error = put(&channel, event(5, 300)).await.unwrap_err();
                    assert!(matches!(error, ChannelError::Latched(_)), "{error}");
                } else {
                    // Acknowledged by the class; then the sync fails.
                    put(&channel, event(5, 300)).await.unwrap();
                    testing::expect(&io, || channel.begin_put().is_err()).await;
                }
                disk.clear_faults();
                // The disk works again, but nobody knows what it holds.
                let error = put(&channel, event(6, 300)).await.unwrap_err().to_string();
                for part in
                    ["[channel=c1]", "/flume/data/shard-0/", ".seg failed", "opened again", "(os error 5)"]
                {
                    assert!(error.contains(part), "{error}");
                }
                assert_eq!(count(&channel, "ChannelSize"), waiting);
                assert_eq!(take(&channel, 3).await, [0, 1, 2]);
                assert_eq!(count(&channel, "ChannelSize"), waiting - 3);
                channel.close().await;
                crash(&io, channel).await;

                let channel = open(&io, directory, class).await;
                put(&channel, event(7, 300)).await.unwrap();
                let taken = take(&channel, 100).await;
                // The put that failed may be there or not.
                let without: Vec<_> = taken.iter().filter(|n| **n != 5).copied().collect();
                assert_eq!(without, [3, 4, 7]);
                assert_eq!(channel.waiting(), 0);
            });
        }
    }
}

#[test]
fn the_next_file_that_cannot_be_made_is_no_reason_to_latch() {
    on_sim(3, |io, disk| async move {
        let directory = Path::new("/flume");
        let channel = open(&io, directory, "maxFileSize = 262144").await;
        let mut put_numbers = Vec::new();
        let mut refused = 0;
        for i in 0..60 {
            if i == 10 {
                disk.add_fault(Fault { count: 3, ..Fault::next(Operation::Allocate) });
            }
            match put(&channel, event(i, 20_000)).await {
                Ok(()) => put_numbers.push(i),
                Err(error) => {
                    refused += 1;
                    assert!(error.to_string().contains("next.tmp"), "{error}");
                }
            }
        }
        assert!((1..=3).contains(&refused), "{refused} puts were refused");
        assert_eq!(take(&channel, 100).await, put_numbers);
    });
}

/// Fills the disk, empties the channel a little, gives space back.
async fn fill_up(io: &Io, directory: &Path, make_room: impl Fn()) {
    let channel = open(io, directory, "maxFileSize = 1048576").await;
    let mut written = 0;
    let error = loop {
        match put(&channel, event(written, 50_000)).await {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 2000, "the disk does not fill up");
    };
    assert!(matches!(error, ChannelError::NoSpace(_)), "{error}");
    let text = error.to_string();
    let data = directory.join("data/shard-0").display().to_string();
    assert!(text.starts_with("Put failed due to IO error [channel=c1]"), "{text}");
    assert!(text.contains("Usable space exhausted, only ") && text.contains(&data), "{text}");
    let numbers: Vec<u64> =
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect();
    let (free, needed) = (numbers[1], numbers[2]);
    assert!(free < needed, "{text}");
    assert!(channel.begin_put().is_ok(), "it is not latched");
    assert_eq!(count(&channel, "Unhealthy"), 0);
    // The sink goes on, and its position is kept although the disk is full.
    assert_eq!(take(&channel, 2).await, [0, 1]);
    crash(io, channel).await;
    let channel = open(io, directory, "maxFileSize = 1048576").await;
    assert_eq!(channel.waiting(), written as u64 - 2);
    assert!(put(&channel, event(9999, 50_000)).await.is_err());
    // Space returns: no restart, no order from outside.
    make_room();
    let mut next = written;
    let deadline = io.now() + Duration::from_secs(30);
    while next < written + 10 {
        match put(&channel, event(next, 50_000)).await {
            Ok(()) => next += 1,
            Err(error) => {
                assert!(io.now() < deadline, "still refused: {error}");
                io.sleep(Duration::from_millis(50)).await;
            }
        }
    }
    assert_eq!(take(&channel, 100_000).await, (2..next).collect::<Vec<_>>());
    // What the sink delivers gives room as well.
    channel.close().await;
}

#[test]
fn a_full_disk_stops_puts_until_there_is_space() {
    on_sim(1, |io, disk| async move {
        disk.set_capacity(12 << 20);
        fill_up(&io, Path::new("/flume"), || disk.set_capacity(40 << 20)).await;
    });
}

#[test]
fn deliveries_make_room_on_a_full_disk() {
    on_sim(2, |io, disk| async move {
        disk.set_capacity(12 << 20);
        let channel = open(&io, Path::new("/flume"), "maxFileSize = 1048576").await;
        let (mut first, mut next, mut refused) = (0, 0, 0);
        while next < 1000 {
            match put(&channel, event(next, 50_000)).await {
                Ok(()) => next += 1,
                Err(_) => {
                    refused += 1;
                    assert!(refused < 1000, "no room after deliveries");
                    let taken = take(&channel, 40).await;
                    assert_eq!(taken, (first..first + taken.len()).collect::<Vec<_>>());
                    first += taken.len();
                    io.sleep(Duration::from_millis(300)).await;
                }
            }
        }
        assert!(refused > 3);
    });
}

/// Damage that no sink has reached is counted soon after the start, and what is still to be checked as well.
#[test]
fn what_waited_is_verified_in_the_background() {
    on_sim(3, |io, disk| async move {
        let directory = Path::new("/flume");
        let channel = open(&io, directory, "maxFileSize = 1048576").await;
        for i in 0..60 {
            put(&channel, event(i, 50_000)).await.unwrap();
        }
        assert_eq!(count(&channel, "UnverifiedBytes"), 0, "what this process wrote is verified");
        crash(&io, channel).await;
        let file = directory.join("data/shard-0/0000000002.seg");
        assert!(disk.damage(&file, |bytes| {
            let at = bytes.windows(8).position(|w| w == b"00000030").unwrap();
            bytes[at + 100] ^= 1;
        }));
        let channel = open(&io, directory, "maxFileSize = 1048576").await;
        assert!(count(&channel, "UnverifiedBytes") > 60 * 50_000);
        testing::expect(&io, || count(&channel, "UnverifiedBytes") == 0).await;
        assert_eq!(count(&channel, "DamagedPlaceCount"), 1);
        assert_eq!(take(&channel, 30).await, (0..30).collect::<Vec<_>>());
        // Stopped in the middle: nothing is left to count, nothing holds the directory.
        crash(&io, channel).await;
        let channel = open(&io, directory, "maxFileSize = 1048576").await;
        channel.close().await;
        crash(&io, channel).await;
    });
}

/// A small ext4 file system in a file. Unmounted and removed when dropped.
struct Image {
    mount: PathBuf,
    _directory: tempfile::TempDir,
}

impl Image {
    /// Needs root and loop devices; an error says what is missing.
    fn new(size: &str) -> Result<Self, String> {
        let directory = tempfile::tempdir().map_err(|e| e.to_string())?;
        let (file, mount) = (directory.path().join("image"), directory.path().join("mount"));
        std::fs::create_dir(&mount).map_err(|e| e.to_string())?;
        let run = |program: &str, arguments: &[&std::ffi::OsStr]| {
            let done = std::process::Command::new(program).args(arguments).output();
            let done = done.map_err(|e| format!("{program}: {e}"))?;
            if done.status.success() {
                return Ok(());
            }
            Err(format!("{program}: {}", String::from_utf8_lossy(&done.stderr).trim()))
        };
        let os = std::ffi::OsStr::new;
        run("truncate", &[os("-s"), os(size), file.as_os_str()])?;
        run("mkfs.ext4", &[os("-q"), os("-F"), os("-m"), os("0"), file.as_os_str()])?;
        run("mount", &[os("-o"), os("loop"), file.as_os_str(), mount.as_os_str()])?;
        Ok(Self { mount, _directory: directory })
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let done = std::process::Command::new("umount").arg("-l").arg(&self.mount).status();
        assert!(done.is_ok_and(|s| s.success()) || std::thread::panicking(), "cannot unmount");
    }
}

/// The real thing. Where no image can be mounted (no root, no loop devices) the simulated disk above stands
/// for it; `REQUIRE_EXT4=1` makes that a failure.
#[test]
fn a_full_ext4_image_stops_puts_until_there_is_space() {
    let image = match Image::new("40M") {
        Ok(image) => image,
        Err(reason) => {
            assert!(std::env::var_os("REQUIRE_EXT4").is_none_or(|v| v != "1"), "{reason}");
            eprintln!("skipped: a full ext4 image: {reason}");
            return;
        }
    };
    let ballast = image.mount.join("ballast");
    std::fs::write(&ballast, vec![1; 20 << 20]).unwrap();
    for kind in [EngineKind::Portable, EngineKind::Uring] {
        if kind == EngineKind::Uring && crate::io::probe::io_uring().is_err() {
            continue;
        }
        let directory = image.mount.join(kind.to_string());
        run_local(kind, |io| async {
            let io = io;
            fill_up(&io, &directory, || std::fs::remove_file(&ballast).unwrap()).await;
        })
        .unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
        std::fs::write(&ballast, vec![1; 20 << 20]).unwrap();
    }
}
