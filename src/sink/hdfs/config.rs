//! Properties of the `hdfs` sink.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::format::FileFormat;
use super::sequence_file::WriteFormat;
use crate::client::hdfs::Access;
use crate::codec::escape::{self, Rounding, Template};
use crate::codec::hadoop_codec::HadoopCodec;
use crate::config::tls::{ClientTls, global_truststore};
use crate::config::{ParseContext, Positive, Property, PropertySpec, Seconds};
use crate::serializer::config as serializers;

pub(super) const PATH: Property<String> = Property::required(
    "hdfs.path",
    "Directory of the files; with escapes (%Y, %{header}, %[host]). hdfs://host:port/…, file:///…, or without \
     scheme: then fs.defaultFS of HADOOP_CONF_DIR says where, and without a Hadoop configuration it is the \
     local file system.",
)
.example("hdfs://namenode:8020/flume/%Y-%m-%d");
const FILE_PREFIX: Property<String> =
    Property::optional("hdfs.filePrefix", "FlumeData", "What names begin with; with escapes.");
const FILE_SUFFIX: Property<String> = Property::absent(
    "hdfs.fileSuffix",
    "What names end with; no dot is added. Unset, it is the codec's extension if there is a codec.",
);
const IN_USE_PREFIX: Property<String> =
    Property::absent("hdfs.inUsePrefix", "What the name begins with while the file is written.");
const IN_USE_SUFFIX: Property<String> =
    Property::optional("hdfs.inUseSuffix", ".tmp", "What the name ends with while the file is written.");
const EMPTY_IN_USE_SUFFIX: Property<bool> =
    Property::optional("hdfs.emptyInUseSuffix", "false", "No hdfs.inUseSuffix at all.");
const ROLL_INTERVAL: Property<Seconds> =
    Property::optional("hdfs.rollInterval", "30", "Seconds after which a file is closed; 0 = never.");
const ROLL_SIZE: Property<u64> = Property::optional(
    "hdfs.rollSize",
    "1024",
    "Bytes of event bodies, before compression, after which the next file begins; 0 = never.",
);
const ROLL_COUNT: Property<u64> =
    Property::optional("hdfs.rollCount", "10", "Events after which the next file begins; 0 = never.");
const IDLE_TIMEOUT: Property<Seconds> = Property::optional(
    "hdfs.idleTimeout",
    "0",
    "Seconds without an event after which a file is closed; 0 = never.",
);
const BATCH_SIZE: Property<Positive> = Property::optional(
    "hdfs.batchSize",
    "100",
    "Most events of one transaction. While there is a backlog several transactions are synced together.",
);
const CODEC: Property<String> = Property::optional(
    "hdfs.codeC",
    "none",
    "Compression: gzip, bzip2, deflate, default, snappy, lz4, zstandard or none, or Hadoop's class name.",
);
const FILE_TYPE: Property<String> = Property::optional(
    "hdfs.fileType",
    "SequenceFile",
    "SequenceFile, DataStream (what the serializer writes) or CompressedStream (that, through hdfs.codeC).",
);
const WRITE_FORMAT: Property<String> =
    Property::optional("hdfs.writeFormat", "Writable", "Values of a SequenceFile: Writable or Text.");
const MAX_OPEN_FILES: Property<Positive> = Property::optional(
    "hdfs.maxOpenFiles",
    "5000",
    "Most files open at once; the one longest without an event is closed when another is needed.",
);
const MIN_BLOCK_REPLICAS: Property<u32> = Property::absent(
    "hdfs.minBlockReplicas",
    "Accepted and without effect: the client does not say how many replicas a block has. A file whose \
     DataNodes fail is given up and a new one begun.",
);
const THREADS_POOL_SIZE: Property<Positive> = Property::optional(
    "hdfs.threadsPoolSize",
    "10",
    "Accepted and without effect: calls wait without threads; at most 256 files are closed at a time.",
);
const ROLL_TIMER_POOL_SIZE: Property<Positive> =
    Property::optional("hdfs.rollTimerPoolSize", "1", "Accepted and without effect: timers need no threads.");
const CALL_TIMEOUT: Property<i64> = Property::optional(
    "hdfs.callTimeout",
    "30000",
    "Milliseconds a call to HDFS may take; 0 or less = for ever. A sync is given up earlier, after 20 times \
     the slowest recent one, 15 s at least, and never waits longer than 60 s.",
);
const CLOSE_TRIES: Property<u32> = Property::optional(
    "hdfs.closeTries",
    "0",
    "How many times hdfs.retryInterval a file that cannot be closed or renamed is tried; then it is left to \
     the next start. 0 = without end.",
);
const RETRY_INTERVAL: Property<i64> = Property::optional(
    "hdfs.retryInterval",
    "180",
    "Seconds, see hdfs.closeTries. Within it tries are 0.2 to 5 s apart. 0 or less = one interval of 10 s.",
);
const ROUND: Property<bool> =
    Property::optional("hdfs.round", "false", "Round the time in escapes down to hdfs.roundValue.");
const ROUND_VALUE: Property<i32> = Property::optional(
    "hdfs.roundValue",
    "1",
    "Multiple of hdfs.roundUnit that is rounded down to: 1 to 60, for hours 1 to 24.",
);
const ROUND_UNIT: Property<String> =
    Property::optional("hdfs.roundUnit", "second", "second, minute or hour.");
const TIME_ZONE: Property<String> = Property::absent(
    "hdfs.timeZone",
    "Zone of the time in escapes, for example Europe/Berlin; unset: this machine's.",
);
const USE_LOCAL_TIME_STAMP: Property<bool> = Property::optional(
    "hdfs.useLocalTimeStamp",
    "false",
    "Use the clock instead of the timestamp header. Events without the header get the clock's time anyway.",
);
const KERBEROS_PRINCIPAL: Property<String> =
    Property::absent("hdfs.kerberosPrincipal", "Kerberos principal; _HOST becomes this machine's name.");
const KERBEROS_KEYTAB: Property<String> =
    Property::absent("hdfs.kerberosKeytab", "File with the principal's keys; no kinit is needed.");
const PROXY_USER: Property<String> = Property::absent("hdfs.proxyUser", "User to act as.");
const USE_RAW_LOCAL: Property<bool> = Property::optional(
    "hdfs.useRawLocalFileSystem",
    "false",
    "Accepted and without effect: files on the local file system never get a checksum file beside them.",
);
const DURABILITY: Property<String> = Property::optional(
    "hdfs.durability",
    "hsync",
    "When events leave the channel: hsync (as soon as they are synced in the open file) or close (when the \
     file is closed and renamed: each event in exactly one file, and the channel must hold what one file \
     does). Not in Flume.",
);
const JOURNAL_DIR: Property<PathBuf> = Property::absent(
    "hdfs.journalDir",
    "Local directory of the list of open files, from which a restart finishes what a crash left open; unset: \
     ~/.millrace/hdfs. Not in Flume.",
);

/// Every property it reads.
pub const PROPERTIES: &[&dyn PropertySpec] = &[
    &PATH,
    &FILE_PREFIX,
    &FILE_SUFFIX,
    &IN_USE_PREFIX,
    &IN_USE_SUFFIX,
    &EMPTY_IN_USE_SUFFIX,
    &ROLL_INTERVAL,
    &ROLL_SIZE,
    &ROLL_COUNT,
    &IDLE_TIMEOUT,
    &BATCH_SIZE,
    &CODEC,
    &FILE_TYPE,
    &WRITE_FORMAT,
    &MAX_OPEN_FILES,
    &MIN_BLOCK_REPLICAS,
    &THREADS_POOL_SIZE,
    &ROLL_TIMER_POOL_SIZE,
    &CALL_TIMEOUT,
    &CLOSE_TRIES,
    &RETRY_INTERVAL,
    &ROUND,
    &ROUND_VALUE,
    &ROUND_UNIT,
    &TIME_ZONE,
    &USE_LOCAL_TIME_STAMP,
    &KERBEROS_PRINCIPAL,
    &KERBEROS_KEYTAB,
    &PROXY_USER,
    &USE_RAW_LOCAL,
    &DURABILITY,
    &JOURNAL_DIR,
    &serializers::SERIALIZER,
    &serializers::OPTIONS,
];

/// When takes are committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// When the file's data is synced.
    Hsync,
    /// When the file is closed and renamed.
    Close,
}

/// A parsed `hdfs` sink.
#[derive(Debug)]
pub(super) struct HdfsConfig {
    pub path: String,
    pub prefix: Template,
    pub suffix: String,
    pub in_use_prefix: String,
    pub in_use_suffix: String,
    pub roll_interval: Option<Duration>,
    pub roll_size_bytes: u64,
    pub roll_count: u64,
    pub idle_timeout: Option<Duration>,
    pub batch_size: usize,
    pub format: FileFormat,
    pub open_files_max: usize,
    pub finish_within: Option<Duration>,
    pub rounding: Option<Rounding>,
    pub zone: Option<TimeZone>,
    pub use_clock: bool,
    pub access: Access,
    pub durability: Durability,
    pub journal_dir: Option<PathBuf>,
    /// For schemas on `https` servers.
    pub tls: ClientTls,
}

/// Text to config.
pub(super) fn parse(cx: &mut ParseContext<'_>) -> Option<Arc<HdfsConfig>> {
    let path = cx.get(&PATH);
    if let Some(path) = &path
        && let Err(problem) = Template::new(path)
    {
        cx.error(PATH.name(), problem, None);
    }
    let prefix = cx.get(&FILE_PREFIX).and_then(|text| match Template::new(&text) {
        Ok(template) => Some(template),
        Err(problem) => {
            cx.error(FILE_PREFIX.name(), problem, None);
            None
        }
    });
    let suffix = cx.get_opt(&FILE_SUFFIX);
    let in_use_prefix = cx.get_opt(&IN_USE_PREFIX);
    let in_use_suffix = cx.get(&IN_USE_SUFFIX);
    let empty_suffix = cx.get(&EMPTY_IN_USE_SUFFIX);
    let in_use_prefix = in_use_prefix?.unwrap_or_default();
    let in_use_suffix = if empty_suffix? { String::new() } else { in_use_suffix? };
    let roll_interval = cx.get(&ROLL_INTERVAL);
    let roll_size = cx.get(&ROLL_SIZE);
    let roll_count = cx.get(&ROLL_COUNT);
    let idle_timeout = cx.get(&IDLE_TIMEOUT);
    let batch_size = cx.get(&BATCH_SIZE);
    let open_files_max = cx.get(&MAX_OPEN_FILES);
    if cx.get_opt(&MIN_BLOCK_REPLICAS)?.is_some() {
        cx.warning(
            MIN_BLOCK_REPLICAS.name(),
            "has no effect; a file whose DataNodes fail is given up anyway",
            None,
        );
    }
    cx.get(&THREADS_POOL_SIZE)?;
    cx.get(&ROLL_TIMER_POOL_SIZE)?;
    cx.get(&USE_RAW_LOCAL)?;
    let call_timeout = cx.get(&CALL_TIMEOUT);
    let close_tries = cx.get(&CLOSE_TRIES);
    let retry_interval = cx.get(&RETRY_INTERVAL);
    let rounding = rounding(cx);
    let zone = cx.get_opt(&TIME_ZONE);
    let use_clock = cx.get(&USE_LOCAL_TIME_STAMP);
    let principal = cx.get_opt(&KERBEROS_PRINCIPAL);
    let keytab = cx.get_opt(&KERBEROS_KEYTAB);
    let proxy_user = cx.get_opt(&PROXY_USER);
    let journal_dir = cx.get_opt(&JOURNAL_DIR);
    let serializer = serializers::parse(cx);
    let format = format(cx);
    let (principal, keytab) = (principal?, keytab?);
    if principal.is_some() != keytab.is_some() {
        let (set, missing) = match principal.is_some() {
            true => (KERBEROS_PRINCIPAL.name(), KERBEROS_KEYTAB.name()),
            false => (KERBEROS_KEYTAB.name(), KERBEROS_PRINCIPAL.name()),
        };
        let hint = Some(format!("set {} too", cx.full_key(missing)));
        cx.error(set, format!("needs {missing}"), hint);
        return None;
    }
    let zone = zone?.map(|name| {
        escape::time_zone(&name).unwrap_or_else(|| {
            cx.warning(
                TIME_ZONE.name(),
                "not a time zone; UTC is used, as in Flume",
                Some("for example: Europe/Berlin".into()),
            );
            TimeZone::UTC
        })
    });
    let roll_interval = Some(roll_interval?.0).filter(|d| !d.is_zero());
    let idle_timeout = Some(idle_timeout?.0).filter(|d| !d.is_zero());
    let durability = match cx.get(&DURABILITY)?.to_ascii_lowercase().as_str() {
        "hsync" => Durability::Hsync,
        "close" if roll_interval.is_none() && idle_timeout.is_none() => {
            let hint = format!("set {} = 30", cx.full_key(ROLL_INTERVAL.name()));
            cx.error(
                DURABILITY.name(),
                "needs hdfs.rollInterval or hdfs.idleTimeout above 0: events leave the channel only when a file is closed",
                Some(hint),
            );
            return None;
        }
        "close" => Durability::Close,
        _ => {
            cx.error(DURABILITY.name(), "neither hsync nor close", Some("use hsync".to_owned()));
            return None;
        }
    };
    let (format, codec) = format?;
    let format = match format.as_str() {
        "datastream" => FileFormat::DataStream(serializer?),
        "compressedstream" => FileFormat::CompressedStream(serializer?, codec?),
        _ => {
            let write_format = match cx.get(&WRITE_FORMAT)?.as_str() {
                "Writable" | "org.apache.flume.sink.hdfs.HDFSWritableSerializer$Builder" => {
                    WriteFormat::Writable
                }
                "Text" | "org.apache.flume.sink.hdfs.HDFSTextSerializer$Builder" => WriteFormat::Text,
                _ => {
                    let hint = Some("use Writable or Text, spelled like this".to_owned());
                    cx.error(WRITE_FORMAT.name(), "not a format of values", hint);
                    return None;
                }
            };
            FileFormat::SequenceFile(write_format, codec)
        }
    };
    let suffix = suffix?.unwrap_or_else(|| codec.map_or("", HadoopCodec::extension).to_owned());
    let (tries, retry) = (close_tries?, retry_interval?);
    let finish_within = match (tries, retry) {
        (_, ..=0) => Some(Duration::from_secs(10)),
        (0, _) => None,
        (tries, retry) => Some(Duration::from_secs((retry as u64).saturating_mul(u64::from(tries)))),
    };
    let path = path.filter(|path| Template::new(path).is_ok());
    Some(Arc::new(HdfsConfig {
        path: path?,
        prefix: prefix?,
        suffix,
        in_use_prefix,
        in_use_suffix,
        roll_interval,
        roll_size_bytes: roll_size?,
        roll_count: roll_count?,
        idle_timeout,
        batch_size: batch_size?.0,
        format,
        open_files_max: open_files_max?.0,
        finish_within,
        rounding: rounding?,
        zone,
        use_clock: use_clock?,
        access: Access {
            call_timeout: u64::try_from(call_timeout?).ok().filter(|ms| *ms > 0).map(Duration::from_millis),
            principal,
            keytab,
            proxy_user: proxy_user?,
        },
        durability,
        journal_dir: journal_dir?,
        tls: ClientTls { truststore: global_truststore(cx.globals()), ..ClientTls::default() },
    }))
}

/// `hdfs.round*`. Outer `None` only after a complaint.
fn rounding(cx: &mut ParseContext<'_>) -> Option<Option<Rounding>> {
    let (round, value, unit) = (cx.get(&ROUND), cx.get(&ROUND_VALUE), cx.get(&ROUND_UNIT));
    let (round, value, unit) = (round?, value?, unit?.to_ascii_lowercase());
    if !round {
        return Some(None);
    }
    let max = if unit == "hour" { 24 } else { 60 };
    let (1..) = value else {
        cx.error(
            ROUND_VALUE.name(),
            format!("not a number from 1 to {max}"),
            Some(format!("for example: {} = 10", cx.full_key(ROUND_VALUE.name()))),
        );
        return None;
    };
    let rounding = match unit.as_str() {
        "second" => Rounding::Second,
        "minute" => Rounding::Minute,
        "hour" => Rounding::Hour,
        _ => {
            cx.warning(
                ROUND_UNIT.name(),
                "not a unit; times are not rounded, as in Flume",
                Some("use second, minute or hour".into()),
            );
            return Some(None);
        }
    };
    if value > max {
        cx.error(ROUND_VALUE.name(), format!("not a number from 1 to {max}"), None);
        return None;
    }
    Some(Some(rounding(value as i8)))
}

/// `hdfs.fileType` in small letters and `hdfs.codeC`. `None` only after a complaint.
fn format(cx: &mut ParseContext<'_>) -> Option<(String, Option<HadoopCodec>)> {
    let name = cx.get(&CODEC)?;
    let codec = match HadoopCodec::named(&name) {
        _ if name.eq_ignore_ascii_case("none") => None,
        Some(codec) => Some(codec),
        None => {
            let lzo = name.to_ascii_lowercase().contains("lzo");
            let problem =
                if lzo { "LZO is not part of this program" } else { "not a codec this program has" };
            let hint = Some("use gzip, bzip2, deflate, default, snappy, lz4, zstandard or none".to_owned());
            cx.error(CODEC.name(), problem, hint);
            return None;
        }
    };
    let file_type = cx.get(&FILE_TYPE)?.to_ascii_lowercase();
    match (file_type.as_str(), codec) {
        ("datastream", Some(_)) => {
            let hint = format!("set {} = CompressedStream", cx.full_key(FILE_TYPE.name()));
            cx.error(CODEC.name(), "a DataStream is not compressed", Some(hint));
            None
        }
        ("compressedstream", None) => {
            let hint = format!("add: {} = gzip", cx.full_key(CODEC.name()));
            cx.error(FILE_TYPE.name(), "needs hdfs.codeC", Some(hint));
            None
        }
        ("datastream" | "compressedstream" | "sequencefile", _) => Some((file_type, codec)),
        _ => {
            let hint = Some("use SequenceFile, DataStream or CompressedStream".to_owned());
            cx.error(FILE_TYPE.name(), "not a type of file", hint);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;
    use crate::testing;

    #[test]
    fn settings() {
        // What is added to a path, whether it is accepted, and a word of the complaint if there is one.
        let table = [
            ("", true, ""),
            ("hdfs.fileType = datastream", true, ""),
            ("hdfs.fileType = CompressedStream", false, "hdfs.codeC"),
            ("hdfs.fileType = CompressedStream\nhdfs.codeC = gzip", true, ""),
            ("hdfs.fileType = DataStream\nhdfs.codeC = gzip", false, "not compressed"),
            ("hdfs.fileType = DataStream\nhdfs.codeC = none", true, ""),
            ("hdfs.fileType = Parquet", false, "not a type"),
            ("hdfs.codeC = lzop", false, "LZO"),
            ("hdfs.codeC = rar", false, "not a codec"),
            ("hdfs.writeFormat = text", false, "not a format"),
            ("hdfs.writeFormat = Text", true, ""),
            ("hdfs.batchSize = 0", false, "above 0"),
            ("hdfs.rollInterval = -1", false, "whole number"),
            ("hdfs.round = true\nhdfs.roundValue = 61", false, "1 to 60"),
            ("hdfs.round = true\nhdfs.roundValue = 0", false, "1 to 60"),
            ("hdfs.round = true\nhdfs.roundUnit = hour\nhdfs.roundValue = 25", false, "1 to 24"),
            ("hdfs.round = true\nhdfs.roundUnit = hour\nhdfs.roundValue = 24", true, ""),
            ("hdfs.round = true\nhdfs.roundUnit = week", true, "not rounded"),
            ("hdfs.round = false\nhdfs.roundValue = 99", true, ""),
            ("hdfs.timeZone = Europe/Berlin", true, ""),
            ("hdfs.timeZone = Nowhere", true, "UTC is used"),
            ("hdfs.filePrefix = %[x]", false, "%[x]"),
            ("hdfs.minBlockReplicas = 1", true, "no effect"),
            ("hdfs.kerberosPrincipal = p", false, "hdfs.kerberosKeytab"),
            ("hdfs.kerberosPrincipal = p\nhdfs.kerberosKeytab = k", true, ""),
            ("hdfs.durability = close", true, ""),
            ("hdfs.durability = close\nhdfs.rollInterval = 0", false, "hdfs.rollInterval"),
            ("hdfs.durability = never", false, "neither"),
            ("hdfs.callTimeout = 0", true, ""),
            ("serializer = nonsense\nhdfs.fileType = DataStream", false, "not a serializer"),
        ];
        for (more, accepted, word) in table {
            let (config, complaints) =
                testing::parse(Kind::Sink, &format!("hdfs.path = /x/%Y\n{more}"), parse);
            assert_eq!(config.is_some(), accepted, "{more}: {complaints:?}");
            match word {
                "" => assert!(complaints.is_empty(), "{more}: {complaints:?}"),
                word => assert!(complaints.iter().any(|c| c.contains(word)), "{more}: {complaints:?}"),
            }
        }
        let (config, complaints) = testing::parse(Kind::Sink, "hdfs.path = /%[host]", parse);
        assert!(config.is_none() && complaints[0].contains("%[host]"));
        assert!(testing::parse(Kind::Sink, "", parse).0.is_none());
    }

    #[test]
    fn names_and_limits() {
        let read =
            |lines: &str| testing::parse(Kind::Sink, &format!("hdfs.path = /x\n{lines}"), parse).0.unwrap();
        let gzip = "hdfs.fileType = CompressedStream\nhdfs.codeC = gzip\n";
        assert_eq!(read(gzip).suffix, ".gz");
        assert_eq!(read(&format!("{gzip}hdfs.fileSuffix = .log")).suffix, ".log");
        assert_eq!(read("").in_use_suffix, ".tmp");
        assert_eq!(read("hdfs.emptyInUseSuffix = true\nhdfs.inUseSuffix = .x").in_use_suffix, "");
        assert_eq!(read("hdfs.callTimeout = -1").access.call_timeout, None);
        assert_eq!(read("").finish_within, None);
        assert_eq!(read("hdfs.closeTries = 2").finish_within, Some(Duration::from_secs(360)));
        assert_eq!(read("hdfs.retryInterval = 0").finish_within, Some(Duration::from_secs(10)));
    }
}
