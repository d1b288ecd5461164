//! A start with much waiting: time to the first take, and resident memory, after `kill -9`.
//!
//! A process fills a file channel through the channel's own transactions and is killed. A second one opens the
//! channel, takes the first events, waits while everything is verified in the background, and then delivers all of it.
//! Memory is what the kernel counts: `RssAnon` and the pages of mapped files. Aims: the first take within 50 ms of
//! the opening, and 64 MiB, whatever waits.
//!
//! ```text
//! cargo bench --bench recovery       RECOVERY_GB=10  BENCH_DIR=/some/disk  RECOVERY_FLOW='fsyncPerTransaction = false'
//! ```

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace::channel::{Channel, ChannelContext, file};
use millrace::component::Shard;
use millrace::config::{ComponentSettings, Kind, Location, ParseContext, Setting};
use millrace::event::{BatchBuilder, Separator};
use millrace::io::{EngineKind, Io, probe, run_local};
use millrace::metrics::ChannelCounters;

type Failure = Box<dyn Error>;

/// Lines of 500 bytes, 1000 a transaction.
const LINE: usize = 500;
const LINES: usize = 1000;
const FIRST_TAKE_MAX: Duration = Duration::from_millis(50);
const MEMORY_MAX_KIB: u64 = 64 << 10;

fn main() -> Result<(), Failure> {
    let variable = |name: &str| std::env::var(name).ok();
    let gigabytes: f64 = variable("RECOVERY_GB").map_or(Ok(10.0), |text| text.parse())?;
    match (variable("RECOVERY_PART").as_deref(), variable("RECOVERY_DIR")) {
        (Some("fill"), Some(dir)) => {
            return run(&dir, |io, channel| fill(io, channel, (gigabytes * 1e9) as u64));
        }
        (Some("open"), Some(dir)) => return open(Path::new(&dir)),
        _ => {}
    }
    // Criterion's flags, which `cargo bench` passes to every bench, mean nothing here.
    let below =
        variable("BENCH_DIR").map_or_else(|| std::env::current_dir().unwrap_or_default(), PathBuf::from);
    let dir = tempfile::Builder::new().prefix("recovery-").tempdir_in(below)?;
    println!(
        "recovery: {gigabytes} GB in lines of {LINE} bytes, killed with kill -9, below {}",
        dir.path().display()
    );
    let part = |name: &str| -> Result<std::process::Child, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command.env("RECOVERY_PART", name).env("RECOVERY_DIR", dir.path());
        Ok(command.stdout(Stdio::piped()).spawn()?)
    };
    let mut filler = part("fill")?;
    let mut line = String::new();
    BufReader::new(filler.stdout.take().ok_or("no output")?).read_line(&mut line)?;
    // SIGKILL: nothing is closed.
    filler.kill()?;
    filler.wait()?;
    print!("{line}");
    if !line.starts_with("filled") {
        return Err("the channel could not be filled".into());
    }
    let mut opener = part("open")?;
    for line in BufReader::new(opener.stdout.take().ok_or("no output")?).lines() {
        println!("{}", line?);
    }
    if opener.wait()?.success() { Ok(()) } else { Err("an aim was missed".into()) }
}

/// Runs a part with the channel open.
fn run<F: Future<Output = Result<(), Failure>>>(
    dir: &str,
    part: impl FnOnce(Io, Rc<dyn Channel>) -> F,
) -> Result<(), Failure> {
    run_local(engine(), |io| async move {
        let (channel, _) = open_channel(&io, Path::new(dir)).await?;
        part(io, channel).await
    })?
}

fn engine() -> EngineKind {
    if probe::io_uring().is_ok() { EngineKind::Uring } else { EngineKind::Portable }
}

async fn open_channel(io: &Io, dir: &Path) -> Result<(Rc<dyn Channel>, Arc<ChannelCounters>), Failure> {
    let location = |line| Location { file: "bench".into(), line };
    let text = format!(
        "checkpointDir = {0}/checkpoint\ndataDirs = {0}/data\ncapacity = 1000000000\ntransactionCapacity = {LINES}\n\
         minimumRequiredSpace = 1048576\n{1}",
        dir.display(),
        std::env::var("RECOVERY_FLOW").unwrap_or_default()
    );
    let entries = text.lines().zip(1..).filter_map(|(line, number)| {
        let (key, value) = line.split_once('=')?;
        let (value, location) = (value.trim().to_owned(), location(number));
        Some((key.trim().to_owned(), Setting { value, location, is_secret: false }))
    });
    let settings = ComponentSettings {
        agent: "a1".into(),
        kind: Kind::Channel,
        name: "c1".into(),
        settings: entries.collect(),
        listed: None,
        globals: Default::default(),
    };
    let mut complaints = Vec::new();
    let config = file::parse(&mut ParseContext::new(&settings, &mut complaints));
    let config = config.ok_or_else(|| complaints.iter().map(ToString::to_string).collect::<String>())?;
    let counters = Arc::<ChannelCounters>::default();
    let shard = Shard { index: 0, count: 1 };
    let context = ChannelContext {
        name: "c1".into(),
        agent: "a1".into(),
        shard,
        io: io.clone(),
        counters: counters.clone(),
    };
    Ok((config.open(context).await.map_err(|error| error.message)?, counters))
}

async fn fill(_io: Io, channel: Rc<dyn Channel>, bytes: u64) -> Result<(), Failure> {
    let (start, mut written) = (Instant::now(), 0);
    let mut open = std::collections::VecDeque::new();
    while written < bytes {
        let mut builder = BatchBuilder::with_capacity(Separator::Newline, LINES * LINE, LINES);
        let line = [b'x'; LINE - 1];
        (0..LINES).for_each(|_| builder.push(&line));
        let mut transaction = channel.begin_put()?;
        transaction.put(builder.finish()).await?;
        open.push_back(millrace::io::spawn(transaction.commit()));
        written += (LINES * LINE) as u64;
        if open.len() >= 32
            && let Some(commit) = open.pop_front()
        {
            commit.await??;
        }
    }
    for commit in open {
        commit.await??;
    }
    let rate = written as f64 / start.elapsed().as_secs_f64() / 1e9;
    println!("filled           {} events, {rate:.2} GB/s", written / LINE as u64);
    std::future::pending::<()>().await;
    Ok(())
}

/// Resident memory in KiB: the process's own, and pages of mapped files.
#[derive(Clone, Copy, Default)]
struct Memory {
    anonymous: u64,
    mapped: u64,
}

impl Memory {
    fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0)
        };
        Self { anonymous: field("RssAnon:"), mapped: field("RssFile:") + field("RssShmem:") }
    }
    fn most(self, other: Self) -> Self {
        if other.sum() > self.sum() { other } else { self }
    }
    fn sum(self) -> u64 {
        self.anonymous + self.mapped
    }
}

impl std::fmt::Display for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mib = |kib: u64| kib as f64 / 1024.0;
        write!(
            f,
            "{:.1} MiB resident ({:.1} of its own, {:.1} of files)",
            mib(self.sum()),
            mib(self.anonymous),
            mib(self.mapped)
        )
    }
}

fn value(counters: &ChannelCounters, key: &str) -> u64 {
    counters.snapshot().into_iter().find(|(info, _)| info.key == key).map_or(0, |(_, value)| value)
}

fn open(dir: &Path) -> Result<(), Failure> {
    let missed = run_local(engine(), |io| async move {
        let before = Memory::now();
        let start = Instant::now();
        let (channel, counters) = open_channel(&io, dir).await?;
        let opened = start.elapsed();
        let mut transaction = channel.begin_take()?;
        let first = transaction.take(LINES).await?;
        let taken = start.elapsed();
        let memory = Memory::now();
        drop(transaction);
        if first.is_empty() {
            return Err("nothing waits".into());
        }
        println!("before           {before}");
        println!("opened           {opened:.1?} with {} events waiting", counters.channel_size.value());
        println!(
            "first take       {taken:.1?} after the start of the opening (aim {FIRST_TAKE_MAX:?})   {memory}"
        );

        // Nothing is taken; what waits is verified.
        let (mut most, start) = (memory, Instant::now());
        let waiting = value(&counters, "UnverifiedBytes");
        while value(&counters, "UnverifiedBytes") > 0 {
            io.sleep(Duration::from_millis(10)).await;
            most = most.most(Memory::now());
        }
        let rate = waiting as f64 / start.elapsed().as_secs_f64() / 1e9;
        println!("verified         {:.2} GB, {rate:.2} GB/s, at most {most}", waiting as f64 / 1e9);
        let quiet = most;

        let (mut most, start, mut events, mut sample) = (Memory::default(), Instant::now(), 0_u64, 0_u32);
        loop {
            let mut transaction = channel.begin_take()?;
            let batch = transaction.take(LINES).await?;
            if batch.is_empty() {
                break;
            }
            events += batch.len() as u64;
            drop(batch);
            transaction.commit().await?;
            sample += 1;
            if sample.is_multiple_of(256) {
                most = most.most(Memory::now());
            }
        }
        let rate = (events * LINE as u64) as f64 / start.elapsed().as_secs_f64() / 1e9;
        println!(
            "delivered        {events} events, {rate:.2} GB/s, at most {most} (aim {} MiB)",
            MEMORY_MAX_KIB >> 10
        );
        channel.close().await;
        let missed = taken > FIRST_TAKE_MAX || quiet.most(most).sum() > MEMORY_MAX_KIB;
        Ok::<bool, Failure>(missed)
    })??;
    if missed { Err("an aim was missed".into()) } else { Ok(()) }
}
