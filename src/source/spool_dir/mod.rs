//! `spooldir` source: the files put into a directory, each read once.
//!
//! Flume: `org.apache.flume.source.SpoolDirectorySource`. Each file belongs to one shard, by a hash of its
//! device and inode. The position behind an event is committed with it, and a file is marked as done only
//! after its last event is committed, so that an event goes into the channels exactly once, whenever the
//! process is killed.
//!
//! Beyond Flume: a file that cannot be read, or was changed while it was read, is set aside with its reason
//! and the others go on; Flume's source dies of it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use self::work::Worker;
use super::{Claim, OpenError, Placement, Source, SourceConfig, SourceContext, SourceEntry, SourceError};
use crate::codec::charset::Charset;
use crate::codec::charset_lines::OnMalformed;
use crate::config::{Millis, ParseContext, Pattern, Positive, Property, PropertySpec, PropertyValue};
use crate::io::stop::Stop;
use crate::io::{FileType, LocalBoxFuture, OpenOptions};
use crate::serializer::deserializer::avro::SchemaHeader;
use crate::serializer::deserializer::line::LineOptions;
use crate::serializer::deserializer::{Format, TextInput};

mod meta;
#[cfg(test)]
mod tests;
mod work;

const SPOOL_DIR: Property<PathBuf> =
    Property::required("spoolDir", "Directory to read files from.").example("/var/spool/flume");
const FILE_SUFFIX: Property<String> =
    Property::optional("fileSuffix", ".COMPLETED", "What is appended to the name of a file that was read.");
const DELETE_POLICY: Property<DeletePolicy> =
    Property::optional("deletePolicy", "never", "`immediate`: delete a file that was read instead.");
const FILE_HEADER: Property<bool> =
    Property::optional("fileHeader", "false", "Header with the absolute path of the file.");
const FILE_HEADER_KEY: Property<String> = Property::optional("fileHeaderKey", "file", "Name of that header.");
const BASENAME_HEADER: Property<bool> =
    Property::optional("basenameHeader", "false", "Header with the name of the file.");
const BASENAME_HEADER_KEY: Property<String> =
    Property::optional("basenameHeaderKey", "basename", "Name of that header.");
const INCLUDE_PATTERN: Property<Pattern> =
    Property::optional("includePattern", "^.*$", "Regular expression the whole name of a file must match.");
const IGNORE_PATTERN: Property<Pattern> = Property::optional(
    "ignorePattern",
    "^$",
    "Regular expression of names to leave alone; wins over includePattern, holds for directories too.",
);
const TRACKER_DIR: Property<PathBuf> = Property::optional(
    "trackerDir",
    ".flumespool",
    "Directory for the position file and the markers of trackingPolicy tracker_dir; relative to spoolDir.",
);
const TRACKING_POLICY: Property<TrackingPolicy> = Property::optional(
    "trackingPolicy",
    "rename",
    "How a file that was read is marked: `rename`, or `tracker_dir` for an empty file in trackerDir.",
);
const CONSUME_ORDER: Property<ConsumeOrder> =
    Property::optional("consumeOrder", "oldest", "`oldest`, `youngest` or `random`.");
const POLL_DELAY: Property<Millis> =
    Property::optional("pollDelay", "500", "How long to wait for new files.");
const RECURSIVE: Property<bool> = Property::optional(
    "recursiveDirectorySearch",
    "false",
    "Read the directories below, too; those whose name begins with a dot are left alone.",
);
const MAX_BACKOFF: Property<Millis> =
    Property::optional("maxBackoff", "4000", "Longest wait before a full channel is tried again.");
const BATCH_SIZE: Property<Positive> = Property::optional(
    "batchSize",
    "100",
    "Events of one batch. While there is a backlog, as many as a transaction may have.",
);
const INPUT_CHARSET: Property<Charset> =
    Property::optional("inputCharset", "UTF-8", "Character set of the files.");
const DECODE_ERROR_POLICY: Property<DecodeErrors> = Property::optional(
    "decodeErrorPolicy",
    "FAIL",
    "Bytes that are no text: `FAIL` sets the file aside, `REPLACE` puts U+FFFD, `IGNORE` leaves them out.",
);
const DESERIALIZER: Property<Deserializers> = Property::optional(
    "deserializer",
    "LINE",
    "What an event is: `LINE`, `AVRO`, or the class name of one of them or of the BlobDeserializer.",
);
const MAX_LINE_LENGTH: Property<Positive> = Property::optional(
    "deserializer.maxLineLength",
    "2048",
    "LINE: longest event in characters; the rest of the line is the next event.",
);
const OUTPUT_CHARSET: Property<Charset> =
    Property::optional("deserializer.outputCharset", "UTF-8", "LINE: character set of bodies.");
const SCHEMA_TYPE: Property<SchemaType> = Property::optional(
    "deserializer.schemaType",
    "HASH",
    "AVRO: `HASH` sets flume.avro.schema.hash, `LITERAL` sets flume.avro.schema.literal.",
);
const MAX_BLOB_LENGTH: Property<Positive> = Property::optional(
    "deserializer.maxBlobLength",
    "100000000",
    "BlobDeserializer: bytes of one event; a longer file becomes several.",
);
const BUFFER_MAX_LINES: Property<String> = Property::absent("bufferMaxLines", "Ignored, as in Flume.");
const BUFFER_MAX_LINE_LENGTH: Property<Positive> =
    Property::absent("bufferMaxLineLength", "Old name of deserializer.maxLineLength.");

/// Every property the spooldir source reads.
pub const PROPERTIES: &[&dyn PropertySpec] = &[
    &SPOOL_DIR,
    &FILE_SUFFIX,
    &DELETE_POLICY,
    &FILE_HEADER,
    &FILE_HEADER_KEY,
    &BASENAME_HEADER,
    &BASENAME_HEADER_KEY,
    &INCLUDE_PATTERN,
    &IGNORE_PATTERN,
    &TRACKER_DIR,
    &TRACKING_POLICY,
    &CONSUME_ORDER,
    &POLL_DELAY,
    &RECURSIVE,
    &MAX_BACKOFF,
    &BATCH_SIZE,
    &INPUT_CHARSET,
    &DECODE_ERROR_POLICY,
    &DESERIALIZER,
    &MAX_LINE_LENGTH,
    &OUTPUT_CHARSET,
    &SCHEMA_TYPE,
    &MAX_BLOB_LENGTH,
    &BUFFER_MAX_LINES,
    &BUFFER_MAX_LINE_LENGTH,
];

/// Row of the registry.
pub const ENTRY: SourceEntry = SourceEntry {
    name: "spooldir",
    class: "org.apache.flume.source.SpoolDirectorySource",
    summary: "The files put into a directory, each read once.",
    placement: Placement::EveryShard,
    properties: PROPERTIES,
    parse,
};

macro_rules! choice {
    ($(#[$doc:meta])* $name:ident: $kind:literal { $($variant:ident = $($text:literal)|+),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum $name { $($variant),+ }
        impl PropertyValue for $name {
            const KIND: &'static str = $kind;
            const EXAMPLE: &'static str = "";
            fn parse(text: &str) -> Result<Self, String> {
                $(if [$($text),+].iter().any(|t| t.eq_ignore_ascii_case(text)) {
                    return Ok(Self::$variant);
                })+
                Err(format!("not one of {}", $kind))
            }
        }
    };
}

choice! {
    /// What becomes of a file that was read.
    DeletePolicy: "never, immediate" { Never = "never", Immediate = "immediate" }
}
choice! {
    /// How a file that was read is marked.
    TrackingPolicy: "rename, tracker_dir" { Rename = "rename", TrackerDir = "tracker_dir" }
}
choice! {
    /// Which file is next.
    ConsumeOrder: "oldest, youngest, random" { Oldest = "oldest", Youngest = "youngest", Random = "random" }
}
choice! {
    /// What to do with bytes that are no text.
    DecodeErrors: "FAIL, REPLACE, IGNORE" { Fail = "FAIL", Replace = "REPLACE", Ignore = "IGNORE" }
}
choice! {
    /// How an Avro schema is given.
    SchemaType: "HASH, LITERAL" { Hash = "HASH", Literal = "LITERAL" }
}
choice! {
    /// Known deserializers.
    Deserializers: "LINE, AVRO, org.apache.flume.sink.solr.morphline.BlobDeserializer$Builder" {
        Line = "LINE" | "org.apache.flume.serialization.LineDeserializer$Builder",
        Avro = "AVRO" | "org.apache.flume.serialization.AvroEventDeserializer$Builder",
        Blob = "org.apache.flume.sink.solr.morphline.BlobDeserializer$Builder",
    }
}

/// What becomes of a file that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    Rename,
    Track,
    Delete,
}

/// A spooldir source's settings and what its shards share.
#[derive(Debug)]
struct SpoolConfig {
    directory: PathBuf,
    tracker: PathBuf,
    suffix: String,
    done: Done,
    file_header: Option<String>,
    basename_header: Option<String>,
    include: Pattern,
    ignore: Pattern,
    order: ConsumeOrder,
    poll_delay: Duration,
    recursive: bool,
    max_backoff: Duration,
    batch_size: usize,
    text: TextInput,
    format: Format,
    shared: Mutex<work::Known>,
    opened: tokio::sync::watch::Sender<usize>,
}

/// Reads the settings of a spooldir source.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<Arc<dyn SourceConfig>> {
    let directory = cx.get(&SPOOL_DIR);
    let suffix = cx.get(&FILE_SUFFIX);
    let delete = cx.get(&DELETE_POLICY);
    let file_header = cx.get(&FILE_HEADER);
    let file_header_key = cx.get(&FILE_HEADER_KEY);
    let basename_header = cx.get(&BASENAME_HEADER);
    let basename_header_key = cx.get(&BASENAME_HEADER_KEY);
    let include = cx.get(&INCLUDE_PATTERN);
    let ignore = cx.get(&IGNORE_PATTERN);
    let tracker = cx.get(&TRACKER_DIR);
    let tracking = cx.get(&TRACKING_POLICY);
    let order = cx.get(&CONSUME_ORDER);
    let poll_delay = cx.get(&POLL_DELAY);
    let recursive = cx.get(&RECURSIVE);
    let max_backoff = cx.get(&MAX_BACKOFF);
    let batch_size = cx.get(&BATCH_SIZE);
    let charset = cx.get(&INPUT_CHARSET);
    let decode_errors = cx.get(&DECODE_ERROR_POLICY);
    let deserializer = cx.get(&DESERIALIZER);
    let line_max = cx.get(&MAX_LINE_LENGTH);
    let old_line_max = cx.get_opt(&BUFFER_MAX_LINE_LENGTH);
    let output = cx.get(&OUTPUT_CHARSET);
    let schema_type = cx.get(&SCHEMA_TYPE);
    let blob_max = cx.get(&MAX_BLOB_LENGTH);
    let (delete, tracking) = (delete?, tracking?);
    if delete == DeletePolicy::Immediate && tracking == TrackingPolicy::TrackerDir {
        cx.error(
            TRACKING_POLICY.name(),
            "tracker_dir goes with deletePolicy never only: a deleted file needs no marker",
            Some(format!("set {} = rename", cx.full_key(TRACKING_POLICY.name()))),
        );
        return None;
    }
    let directory = directory?;
    let format = match deserializer? {
        Deserializers::Line => {
            let written = cx.raw(MAX_LINE_LENGTH.name()).is_some();
            let old = old_line_max?.filter(|_| !written);
            Format::Line(LineOptions { chars_max: old.or(line_max)?.0, output: output? })
        }
        Deserializers::Avro => Format::Avro(match schema_type? {
            SchemaType::Hash => SchemaHeader::Hash,
            SchemaType::Literal => SchemaHeader::Literal,
        }),
        Deserializers::Blob => Format::Blob(blob_max?.0.min(u32::MAX as usize / 2)),
    };
    Some(Arc::new(SpoolConfig {
        tracker: directory.join(tracker?),
        directory,
        suffix: suffix?,
        done: match (delete, tracking) {
            (DeletePolicy::Immediate, _) => Done::Delete,
            (_, TrackingPolicy::TrackerDir) => Done::Track,
            (_, TrackingPolicy::Rename) => Done::Rename,
        },
        file_header: file_header?.then_some(file_header_key?),
        basename_header: basename_header?.then_some(basename_header_key?),
        include: include?,
        ignore: ignore?,
        order: order?,
        poll_delay: poll_delay?.0,
        recursive: recursive?,
        max_backoff: max_backoff?.0,
        batch_size: batch_size?.0,
        text: TextInput {
            charset: charset?,
            on_malformed: match decode_errors? {
                DecodeErrors::Fail => OnMalformed::Fail,
                DecodeErrors::Replace => OnMalformed::Replace,
                DecodeErrors::Ignore => OnMalformed::Ignore,
            },
        },
        format,
        shared: Mutex::default(),
        opened: tokio::sync::watch::Sender::new(0),
    }))
}

impl SourceConfig for SpoolConfig {
    fn claims(&self) -> Vec<Claim> {
        vec![Claim::Path(self.directory.clone())]
    }
    fn batch_size(&self) -> Option<usize> {
        Some(self.batch_size)
    }
    fn open(
        self: Arc<Self>,
        cx: SourceContext,
    ) -> LocalBoxFuture<'static, Result<Box<dyn Source>, OpenError>> {
        Box::pin(async move {
            if cx.shard.index == 0 {
                self.check(&cx).await?;
            }
            let mut worker = Worker::new(self.clone(), &cx);
            worker.load(cx.channels.marks(&cx.name)).await;
            self.opened.send_modify(|count| *count += 1);
            Ok(Box::new(SpoolDir { config: self, worker, shards: cx.shard.count }) as Box<dyn Source>)
        })
    }
}

impl SpoolConfig {
    /// The directory must be there, and the program must be able to mark files as read.
    async fn check(&self, cx: &SourceContext) -> Result<(), OpenError> {
        let shown = self.directory.display().to_string();
        let error = |message: String| OpenError::new(SPOOL_DIR.name(), &shown, message);
        match cx.io.metadata(&self.directory).await {
            Ok(metadata) if metadata.file_type == FileType::Directory => {}
            Ok(_) => {
                return Err(error("is not a directory".to_owned())
                    .hint("spoolDir is the directory files are put into"));
            }
            Err(e) => {
                return Err(error(format!("cannot look into the directory: {e}"))
                    .hint(format!("create it (mkdir -p {shown}), or correct spoolDir")));
            }
        }
        cx.io.read_dir(&self.directory).await.map_err(|e| {
            error(format!("cannot look into the directory: {e}"))
                .hint("let the user this program runs as read it (chmod, or its group)")
        })?;
        if self.done != Done::Track {
            // Hidden, so that no shard takes it for a file to read.
            let canary =
                self.directory.join(format!(".flume-spooldir-perm-check-{:016x}.canary", cx.io.random()));
            let tried = match cx.io.open(&canary, OpenOptions::CREATE_NEW).await {
                Ok(_) => cx.io.remove_file(&canary).await,
                Err(e) => Err(e),
            };
            tried.map_err(|e| {
                error(format!("cannot rename files in the directory: {e}")).hint(
                    "let the user this program runs as write there, or set trackingPolicy = tracker_dir and a trackerDir elsewhere",
                )
            })?;
        }
        cx.io.create_dir_all(&self.tracker).await.map_err(|e| {
            OpenError::new(
                TRACKER_DIR.name(),
                self.tracker.display().to_string(),
                format!("cannot create the directory: {e}"),
            )
            .hint("set trackerDir to a directory this program may write to")
        })
    }
}

struct SpoolDir {
    config: Arc<SpoolConfig>,
    worker: Worker,
    shards: usize,
}

impl Source for SpoolDir {
    fn run(mut self: Box<Self>, stop: Stop) -> LocalBoxFuture<'static, Result<(), SourceError>> {
        Box::pin(async move {
            let mut opened = self.config.opened.subscribe();
            if stop.or(opened.wait_for(|count| *count >= self.shards)).await.is_some() {
                self.worker.run(&stop).await;
            }
            Ok(())
        })
    }
    fn describe(&self) -> String {
        format!("reads files put into {}", self.config.directory.display())
    }
}
