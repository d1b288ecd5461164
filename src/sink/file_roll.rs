//! `file_roll` sink: events to files in a local directory, a new file every so often.
//!
//! Flume: `org.apache.flume.sink.RollingFileSink`, `PathManager`. As in Flume a file begins at every interval
//! even if no event came. Unlike Flume's, what is committed was synced to disk, and after a failed write the
//! file is cut back to its last committed event before the next one begins.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::{
    DeliveryError, EventSchema, Group, Lanes, OpenError, Schemas, Sink, SinkConfig, SinkContext, SinkEntry,
    Status,
};
use crate::client::hdfs::Access;
use crate::config::tls::{ClientTls, global_truststore};
use crate::config::{ParseContext, Positive, Property, PropertySpec, Seconds};
use crate::event::EventBatch;
use crate::io::{File, FileType, LocalBoxFuture, OpenOptions, machine};
use crate::serializer::config::{self as serializer, FileTraits, SerializerConfig};
use crate::serializer::output::{EventSerializer, Output};

const DIRECTORY: Property<PathBuf> =
    Property::required("sink.directory", "Where the files go. It must exist; it is not created.")
        .example("/var/log/flume");
const ROLL_INTERVAL: Property<Seconds> = Property::optional(
    "sink.rollInterval",
    "30",
    "Seconds after which a new file begins, also when no event came; 0 = never.",
);
const BATCH_SIZE: Property<Positive> =
    Property::optional("sink.batchSize", "100", "Most events of one transaction.");
const SERIALIZER: Property<String> = Property::optional(
    "sink.serializer",
    "TEXT",
    "How events become bytes: TEXT, HEADER_AND_TEXT, avro_event, or Flume's class name of its Builder, among \
     them `org.apache.flume.sink.hdfs.AvroEventSerializer$Builder` for bodies that are Avro data already.",
);
const SERIALIZER_OPTIONS: Property<String> = Property::family(
    "sink.serializer.",
    "Options of the serializer: appendNewline; syncIntervalBytes and compressionCodec for avro_event; for \
     AvroEventSerializer schemaURL too.",
)
.members(|get| {
    let mut members = serializer::options(get("sink.serializer"))?;
    members.iter_mut().for_each(|(prefix, _)| prefix.insert_str(0, "sink."));
    Some(members)
});
const PATH_MANAGER: Property<String> = Property::optional(
    "sink.pathManager",
    "DEFAULT",
    "How files are named: DEFAULT (<start in ms>-<number>) or ROLLTIME (<yyyyMMddHHmmss>-<number>), in any case.",
);
const PREFIX: Property<String> =
    Property::absent("sink.pathManager.prefix", "What the names of the files begin with.");
const EXTENSION: Property<String> =
    Property::absent("sink.pathManager.extension", "What the names end with; the dot before it is added.");

/// Every property it reads.
pub const PROPERTIES: &[&dyn PropertySpec] = &[
    &DIRECTORY,
    &ROLL_INTERVAL,
    &BATCH_SIZE,
    &SERIALIZER,
    &SERIALIZER_OPTIONS,
    &PATH_MANAGER,
    &PREFIX,
    &EXTENSION,
];

/// Its row of the registry.
pub const ENTRY: SinkEntry = SinkEntry {
    name: "file_roll",
    class: "org.apache.flume.sink.RollingFileSink",
    summary: "Writes events to files in a local directory, a new one every interval.",
    lanes: Lanes::One,
    properties: PROPERTIES,
    parse,
};

/// Files of different schemas kept open; with more the longest open go.
const FILES_MAX: usize = 16;
/// Names tried for one file if others stand in the way.
const NAMES_MAX: u32 = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PathManager {
    Default,
    RollTime,
}

struct FileRollConfig {
    directory: PathBuf,
    roll_interval: Option<Duration>,
    batch_size: usize,
    serializer: SerializerConfig,
    path_manager: PathManager,
    prefix: String,
    extension: String,
    tls: ClientTls,
}

/// Text to config.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<Arc<dyn SinkConfig>> {
    let directory = cx.get(&DIRECTORY);
    let roll_interval = cx.get(&ROLL_INTERVAL);
    let batch_size = cx.get(&BATCH_SIZE);
    let serializer = serializer::parse(&mut cx.below("sink."));
    let prefix = cx.get_opt(&PREFIX);
    let extension = cx.get_opt(&EXTENSION);
    let manager = cx.get(&PATH_MANAGER)?;
    let manager = manager.strip_prefix("org.apache.flume.formatter.output.").unwrap_or(&manager);
    let path_manager = match manager.to_ascii_lowercase().as_str() {
        "default" | "defaultpathmanager$builder" => PathManager::Default,
        "rolltime" | "rolltimepathmanager$builder" => PathManager::RollTime,
        _ => {
            let hint = Some("use DEFAULT or ROLLTIME".to_owned());
            cx.error(PATH_MANAGER.name(), "not a path manager this program has", hint);
            return None;
        }
    };
    Some(Arc::new(FileRollConfig {
        directory: directory?,
        roll_interval: Some(roll_interval?.0).filter(|interval| !interval.is_zero()),
        batch_size: batch_size?.0,
        serializer: serializer?,
        path_manager,
        prefix: prefix?.unwrap_or_default(),
        extension: extension?.map(|e| format!(".{}", e.strip_prefix('.').unwrap_or(&e))).unwrap_or_default(),
        tls: ClientTls { truststore: global_truststore(cx.globals()), ..ClientTls::default() },
    }))
}

impl SinkConfig for FileRollConfig {
    fn batch_size(&self) -> Option<usize> {
        Some(self.batch_size)
    }
    fn open(self: Arc<Self>, cx: SinkContext) -> LocalBoxFuture<'static, Result<Box<dyn Sink>, OpenError>> {
        Box::pin(async move {
            let shown = self.directory.display().to_string();
            let refuse =
                |what: &str, hint: String| Err(OpenError::new(DIRECTORY.name(), &shown, what).hint(hint));
            match cx.io.metadata(&self.directory).await {
                Ok(found) if found.file_type == FileType::Directory => {}
                Ok(_) => return refuse("is not a directory", "name a directory".to_owned()),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    return refuse("does not exist", format!("create it: mkdir -p {shown}"));
                }
                Err(error) => {
                    return refuse(&format!("cannot be used: {error}"), "check its permissions".into());
                }
            }
            let next_roll = self.roll_interval.map(|interval| cx.io.now() + interval);
            let zone = machine::time_zone();
            let start_ms = cx.io.unix_time().as_millis();
            let body = self.serializer.avro_body();
            let schemas = body.map(|options| {
                Schemas::new(&cx.io, options.schema_url.clone(), Access::default(), self.tls.clone())
            });
            let mut sink = FileRoll {
                config: self,
                cx,
                zone,
                start_ms,
                number: 0,
                second: String::new(),
                next_roll,
                files: Vec::new(),
                schemas,
            };
            // A directory that cannot be written to is found now, not with the first event.
            if let Err(error) = sink.begin_file().await {
                let hint = "check permissions and free space".to_owned();
                return Err(OpenError::new(DIRECTORY.name(), shown, error.to_string()).hint(hint));
            }
            Ok(Box::new(sink) as Box<dyn Sink>)
        })
    }
}

struct Current {
    path: PathBuf,
    file: Rc<dyn File>,
    serializer: Box<dyn EventSerializer>,
    /// Of all its events, if the serializer needs one.
    schema: Option<Rc<EventSchema>>,
    out: Output,
    /// Start of the file is yet to be written.
    begun: bool,
    /// Holds events of the takes under way.
    touched: bool,
    /// Bytes committed; the file may be longer after a failed or cancelled write.
    committed: u64,
    /// Bytes written behind those.
    written: u64,
    writing: bool,
}

struct FileRoll {
    config: Arc<FileRollConfig>,
    cx: SinkContext,
    zone: TimeZone,
    start_ms: u128,
    number: u32,
    second: String,
    next_roll: Option<Duration>,
    /// One, but for one of each schema.
    files: Vec<Current>,
    /// If the serializer needs the schemas of events.
    schemas: Option<Schemas>,
}

impl FileRoll {
    fn next_name(&mut self) -> String {
        let stem = match self.config.path_manager {
            PathManager::Default => self.start_ms.to_string(),
            PathManager::RollTime => {
                let now = self.cx.io.unix_time();
                let now = Timestamp::from_second(now.as_secs() as i64).unwrap_or(Timestamp::UNIX_EPOCH);
                let second = now.to_zoned(self.zone.clone()).strftime("%Y%m%d%H%M%S").to_string();
                if second != self.second {
                    self.number = 0;
                    self.second.clone_from(&second);
                }
                second
            }
        };
        self.number += 1;
        let lane = if self.cx.lanes > 1 { format!("-{}", self.cx.lane) } else { String::new() };
        format!("{}{stem}{lane}-{}{}", self.config.prefix, self.number, self.config.extension)
    }

    /// Sees that a file is open, as Flume does without an event; a file with a schema waits for its first.
    async fn begin_file(&mut self) -> std::io::Result<()> {
        if self.schemas.is_none() {
            self.file_for(None).await?;
        }
        Ok(())
    }

    /// Index of the open file for events of this schema.
    async fn file_for(&mut self, schema: Option<&Rc<EventSchema>>) -> std::io::Result<usize> {
        let id = schema.map(|s| s.id);
        if let Some(index) = self.files.iter().position(|f| f.schema.as_ref().map(|s| s.id) == id) {
            return Ok(index);
        }
        if self.files.len() >= FILES_MAX
            && let Some(oldest) = self.files.iter().position(|f| !f.touched)
        {
            let oldest = self.files.remove(oldest);
            self.close(oldest).await;
        }
        let counters = self.cx.counters.clone();
        for _ in 0..NAMES_MAX {
            let name = self.next_name();
            let path = self.config.directory.join(name);
            match self.cx.io.open(&path, OpenOptions::CREATE_NEW).await {
                Ok(file) => {
                    self.cx.io.sync_dir(&self.config.directory).await?;
                    let random = [self.cx.io.random(), self.cx.io.random()];
                    let text = schema.map(|s| s.text.clone());
                    let serializer = self.config.serializer.build(FileTraits { random, schema: text });
                    tracing::debug!(sink = %self.cx.name, file = %path.display(), "opened");
                    self.files.push(Current {
                        path,
                        file,
                        serializer,
                        schema: schema.cloned(),
                        out: Output::default(),
                        begun: false,
                        touched: false,
                        committed: 0,
                        written: 0,
                        writing: false,
                    });
                    counters.connection_created.add(1);
                    return Ok(self.files.len() - 1);
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    counters.connection_failed.add(1);
                    return Err(std::io::Error::new(error.kind(), format!("{}: {error}", path.display())));
                }
            }
        }
        Err(std::io::Error::other(format!("{NAMES_MAX} names in a row are taken")))
    }

    /// Ends a file; cuts off what a failed write left behind.
    async fn close(&self, current: Current) {
        if current.writing {
            let cut = async {
                current.file.set_len(current.committed).await?;
                current.file.sync_data().await
            };
            if let Err(error) = cut.await {
                tracing::warn!(sink = %self.cx.name, file = %current.path.display(), %error, committed_bytes = current.committed,
                    "the file may end with events that are delivered again: it could not be cut back");
            }
        }
        self.cx.counters.connection_closed.add(1);
    }

    async fn close_all(&mut self) {
        for current in std::mem::take(&mut self.files) {
            self.close(current).await;
        }
    }

    /// Ends the files that hold events whose takes are rolled back.
    async fn give_up_touched(&mut self) {
        let (lost, kept) = std::mem::take(&mut self.files).into_iter().partition(|f| f.touched);
        self.files = kept;
        let lost: Vec<Current> = lost;
        for current in lost {
            self.close(current).await;
        }
    }

    async fn roll_if_due(&mut self) {
        let now = self.cx.io.now();
        if let (Some(due), Some(interval)) = (self.next_roll, self.config.roll_interval)
            && now >= due
        {
            self.close_all().await;
            // A fixed rate, but no file for intervals that were slept through.
            let mut next = due + interval;
            if next <= now {
                next = now + interval;
            }
            self.next_roll = Some(next);
        }
    }

    async fn run(&mut self) -> Result<Status, DeliveryError> {
        // A cancelled delivery left events behind that were rolled back.
        self.give_up_touched().await;
        self.roll_if_due().await;
        let delivered = self.deliver().await;
        if delivered.is_err() {
            self.give_up_touched().await;
        }
        delivered
    }

    async fn deliver(&mut self) -> Result<Status, DeliveryError> {
        self.begin_file().await.map_err(|e| failed(&self.cx.name, &e))?;
        let (channel, io, counters) = (self.cx.channel.clone(), self.cx.io.clone(), self.cx.counters.clone());
        let mut group = Group::default();
        while let Some(batches) = group.next(&*channel, self.config.batch_size, &io, &counters).await? {
            for batch in &batches {
                counters.event_drain_attempt.add(batch.len() as u64);
                let Some(schemas) = &mut self.schemas else {
                    self.append(batch, 0, batch.len(), None).await?;
                    continue;
                };
                let mut from = 0;
                for run in schemas.runs(batch).await.map_err(|e| failed(&self.cx.name, &e))? {
                    self.append(batch, from, run.to, Some(&run.schema)).await?;
                    from = run.to;
                }
            }
        }
        if group.is_empty() {
            return Ok(Status::Empty);
        }
        for current in self.files.iter_mut().filter(|f| f.touched) {
            current.serializer.flush(&mut current.out);
            current.writing = true;
            if let Err(error) = write(current).await {
                counters.event_write_fail.add(1);
                let path = current.path.display();
                return Err(failed(&self.cx.name, &format!("{path}: {error}; a new file begins")));
            }
        }
        for current in self.files.iter_mut().filter(|f| f.touched) {
            current.committed += current.written;
            (current.written, current.writing, current.touched) = (0, false, false);
        }
        group.commit(&counters).await?;
        Ok(Status::Ready)
    }

    /// Appends events `from..to` to the file of their schema.
    async fn append(
        &mut self,
        batch: &EventBatch,
        from: usize,
        to: usize,
        schema: Option<&Rc<EventSchema>>,
    ) -> Result<(), DeliveryError> {
        let index = self.file_for(schema).await.map_err(|e| failed(&self.cx.name, &e))?;
        let Some(current) = self.files.get_mut(index) else { return Ok(()) };
        current.touched = true;
        if !current.begun {
            current.begun = true;
            current.serializer.begin(&mut current.out);
        }
        current.serializer.append(batch, from, to, &mut current.out);
        Ok(())
    }
}

fn failed(name: &str, problem: &dyn std::fmt::Display) -> DeliveryError {
    DeliveryError::Destination(format!("sink {name}: {problem}"))
}

/// Writes what a file has buffered and makes it durable.
async fn write(current: &mut Current) -> std::io::Result<()> {
    for piece in current.out.take() {
        let size = piece.len() as u64;
        current.file.write_at(piece, current.committed + current.written).await?;
        current.written += size;
    }
    current.file.sync_data().await
}

impl Sink for FileRoll {
    fn process(&mut self) -> LocalBoxFuture<'_, Result<Status, DeliveryError>> {
        Box::pin(self.run())
    }
    fn tick(&mut self) -> LocalBoxFuture<'_, ()> {
        Box::pin(async {
            self.roll_if_due().await;
            if let Err(error) = self.begin_file().await {
                tracing::warn!(sink = %self.cx.name, %error, "cannot begin a file");
            }
        })
    }
    fn stop(&mut self) -> LocalBoxFuture<'_, ()> {
        Box::pin(self.close_all())
    }
    fn describe(&self) -> String {
        format!("writes to files in {}", Path::display(&self.config.directory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;
    use crate::io::{EngineKind, Io, run_local};
    use crate::testing;

    fn run<F: Future<Output = ()>>(test: impl FnOnce(Io, PathBuf) -> F) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        run_local(EngineKind::Portable, |io| test(io, path)).unwrap();
    }

    fn config(dir: &Path, more: &str) -> Arc<dyn SinkConfig> {
        let lines = format!("sink.directory = {}\n{more}", dir.display());
        let (config, complaints) = testing::parse(Kind::Sink, &lines, parse);
        assert!(complaints.is_empty(), "{complaints:?}");
        config.unwrap()
    }

    fn files(dir: &Path) -> Vec<(String, String)> {
        let mut files: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let content = std::fs::read_to_string(entry.path()).unwrap();
                (entry.file_name().into_string().unwrap(), content)
            })
            .collect();
        files.sort();
        files
    }

    #[test]
    fn settings() {
        let table = [
            ("", false),
            ("sink.directory = /x", true),
            ("sink.directory = /x\nsink.rollInterval = 0", true),
            ("sink.directory = /x\nsink.rollInterval = -1", false),
            ("sink.directory = /x\nsink.batchSize = 0", false),
            ("sink.directory = /x\nsink.serializer = nonsense", false),
            (
                "sink.directory = /x\nsink.serializer = avro_event\nsink.serializer.compressionCodec = snappy",
                true,
            ),
            ("sink.directory = /x\nsink.pathManager = RollTime", true),
            ("sink.directory = /x\nsink.pathManager = daily", false),
        ];
        for (lines, accepted) in table {
            let (config, complaints) = testing::parse(Kind::Sink, lines, parse);
            assert_eq!((config.is_some(), complaints.is_empty()), (accepted, accepted), "{lines}");
        }
    }

    #[test]
    fn writes_lines_and_names_files_as_flume() {
        run(|io, dir| async move {
            let channel = testing::memory_channel(&io, 10);
            testing::put(&*channel, &[], &["a", "b", "c"]).await;
            let config = config(
                &dir,
                "sink.batchSize = 2\nsink.pathManager.prefix = p\nsink.pathManager.extension = log",
            );
            let cx = testing::sink_context(&io, channel.clone());
            let counters = cx.counters.clone();
            let mut sink = config.open(cx).await.unwrap();
            assert_eq!(sink.process().await.unwrap(), Status::Ready);
            assert_eq!(sink.process().await.unwrap(), Status::Empty);
            sink.stop().await;
            let files = files(&dir);
            assert_eq!(files.len(), 1);
            let (stem, number) = files[0].0.strip_suffix(".log").unwrap().split_once('-').unwrap();
            assert!(stem.strip_prefix('p').unwrap().parse::<u64>().is_ok() && number == "1", "{files:?}");
            assert_eq!(files[0].1, "a\nb\nc\n");
            assert_eq!((counters.event_drain_success.value(), counters.connection_closed.value()), (3, 1));
        });
    }

    #[test]
    fn an_empty_file_every_interval() {
        run(|io, dir| async move {
            let channel = testing::memory_channel(&io, 10);
            let config = config(&dir, "sink.rollInterval = 1\nsink.pathManager = ROLLTIME");
            let mut sink = config.open(testing::sink_context(&io, channel)).await.unwrap();
            let deadline = io.now() + Duration::from_secs(10);
            while files(&dir).len() < 3 {
                assert!(io.now() < deadline, "{:?}", files(&dir));
                sink.tick().await;
                io.sleep(Duration::from_millis(20)).await;
            }
            assert!(files(&dir).iter().all(|(name, content)| name.len() >= 16 && content.is_empty()));
        });
    }

    #[test]
    fn a_cancelled_write_is_cut_back() {
        run(|io, dir| async move {
            let channel = testing::memory_channel(&io, 10);
            let config: Arc<dyn SinkConfig> = config(&dir, "");
            let mut sink = config.open(testing::sink_context(&io, channel.clone())).await.unwrap();
            testing::put(&*channel, &[], &["kept"]).await;
            assert_eq!(sink.process().await.unwrap(), Status::Ready);
            testing::put(&*channel, &[], &["cancelled"]).await;
            // Polled until the write is under way, then dropped.
            let mut process = sink.process();
            let longer = || files(&dir)[0].1.len() > 5;
            while !longer() {
                let polled =
                    std::future::poll_fn(|cx| std::task::Poll::Ready(process.as_mut().poll(cx).is_ready()));
                assert!(!polled.await || longer());
                tokio::task::yield_now().await;
                if longer() {
                    break;
                }
            }
            drop(process);
            sink.stop().await;
            let waiting = testing::drain_bodies(&*channel).await;
            let content = files(&dir).remove(0).1;
            assert_eq!(
                content.lines().chain(waiting.iter().map(String::as_str)).collect::<Vec<_>>(),
                ["kept", "cancelled"]
            );
        });
    }

    #[test]
    fn a_missing_directory_is_refused_with_the_remedy() {
        run(|io, dir| async move {
            let config = config(&dir.join("missing"), "");
            let channel = testing::memory_channel(&io, 10);
            let error = config.open(testing::sink_context(&io, channel)).await.err().unwrap();
            assert_eq!(error.property, "sink.directory");
            assert!(
                error.message.contains("does not exist")
                    && error.hint.unwrap().starts_with("create it: mkdir -p")
            );
        });
    }
    #[test]
    fn avro_bodies_get_a_file_for_each_schema() {
        run(|io, dir| async move {
            let channel = testing::memory_channel(&io, 1000);
            let config = config(
                &dir,
                "sink.serializer = org.apache.flume.sink.hdfs.AvroEventSerializer$Builder\n\
                 sink.serializer.compressionCodec = deflate\nsink.batchSize = 2",
            );
            let mut sink = config.open(testing::sink_context(&io, channel.clone())).await.unwrap();
            assert!(files(&dir).is_empty(), "a file has a schema, so there is none before an event");
            let literal = |text: &'static str| [("flume.avro.schema.literal", text)];
            for _ in 0..2 {
                testing::put(&*channel, &literal("\"long\""), &["\x02", "\x04"]).await;
                testing::put(&*channel, &literal("\"string\""), &["\x04ab"]).await;
            }
            while sink.process().await.unwrap() == Status::Ready {}
            testing::put(&*channel, &[], &["\x02"]).await;
            let problem = sink.process().await.unwrap_err().to_string();
            assert!(problem.contains("sink k1: cannot write an event without a schema"), "{problem}");
            assert_eq!(channel.len(), 1, "it stays in the channel");
            // More schemas than files may be open: all are written nevertheless.
            testing::drain(&*channel).await;
            for size in 1..=FILES_MAX * 2 {
                let schema = format!("{{\"type\":\"fixed\",\"name\":\"f\",\"size\":{size}}}");
                let headers = [("flume.avro.schema.literal", schema.as_str())];
                testing::put(&*channel, &headers, &["x".repeat(size).as_str()]).await;
            }
            while sink.process().await.unwrap() == Status::Ready {}
            sink.stop().await;
            let mut found: Vec<_> = std::fs::read_dir(&dir)
                .unwrap()
                .map(|entry| testing::avro_file(&std::fs::read(entry.unwrap().path()).unwrap()))
                .collect();
            found.sort();
            let long: Vec<&[u8]> = vec![b"\x02", b"\x04", b"\x02", b"\x04"];
            let string: Vec<&[u8]> = vec![b"\x04ab", b"\x04ab"];
            let shown =
                |at: usize| (found[at].0.as_str(), found[at].1.iter().map(Vec::as_slice).collect::<Vec<_>>());
            assert_eq!(shown(0), ("\"long\"", long));
            assert_eq!(shown(1), ("\"string\"", string));
            assert_eq!(found.len(), 2 + FILES_MAX * 2);
            assert!(found[2..].iter().all(|(_, data)| data.len() == 1));
        });
    }

    #[test]
    fn a_cancelled_write_leaves_no_event_twice_in_a_container() {
        run(|io, dir| async move {
            let channel = testing::memory_channel(&io, 10);
            let config: Arc<dyn SinkConfig> = config(&dir, "sink.serializer = avro_event");
            let mut sink = config.open(testing::sink_context(&io, channel.clone())).await.unwrap();
            testing::put(&*channel, &[], &["one"]).await;
            let mut process = sink.process();
            let polled =
                std::future::poll_fn(|cx| std::task::Poll::Ready(process.as_mut().poll(cx).is_ready()));
            let done = polled.await;
            drop(process);
            assert!(!done && channel.len() == 1, "cancelled before it was committed");
            while sink.process().await.unwrap() == Status::Ready {}
            sink.stop().await;
            let read =
                |entry: std::io::Result<std::fs::DirEntry>| std::fs::read(entry.unwrap().path()).unwrap();
            let contents: Vec<Vec<u8>> = std::fs::read_dir(&dir).unwrap().map(read).collect();
            let data: Vec<Vec<u8>> =
                contents.iter().filter(|c| !c.is_empty()).flat_map(|c| testing::avro_file(c).1).collect();
            assert_eq!(data, [b"\x00\x06one"]);
        });
    }
}
