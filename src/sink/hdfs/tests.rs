//! The sink on the local disk: names, rolling, durability, failure, recovery.

use std::path::Path;

use super::*;
use crate::channel::memory::MemoryChannel;
use crate::config::Kind;
use crate::event::BatchBuilder;
use crate::io::{EngineKind, run_local};
use crate::metrics::SinkCounters;
use crate::testing;

struct Bench {
    io: Io,
    dir: tempfile::TempDir,
    channel: Rc<MemoryChannel>,
}

fn run<F: Future<Output = ()>>(test: impl FnOnce(Bench) -> F) {
    run_local(EngineKind::Portable, |io| {
        let channel = testing::memory_channel(&io, 10_000);
        test(Bench { io, dir: tempfile::tempdir().unwrap(), channel })
    })
    .unwrap();
}

const PLAIN: &str =
    "hdfs.fileType = DataStream\nhdfs.rollInterval = 0\nhdfs.rollSize = 0\nhdfs.rollCount = 0\n";

impl Bench {
    /// A sink writing below `out`, with its journal beside.
    async fn sink(&self, path: &str, more: &str) -> (Box<dyn Sink>, Arc<SinkCounters>) {
        let dir = self.dir.path().display();
        let lines = format!("hdfs.path = file://{dir}/out{path}\nhdfs.journalDir = {dir}/journal\n{more}");
        let (config, complaints) = testing::parse(Kind::Sink, &lines, parse);
        assert!(complaints.is_empty(), "{complaints:?}");
        let cx = testing::sink_context(&self.io, self.channel.clone());
        let counters = cx.counters.clone();
        (config.unwrap().open(cx).await.unwrap(), counters)
    }
    async fn put(&self, headers: &[(&str, &str)], bodies: &[&str]) {
        testing::put(&*self.channel, headers, bodies).await;
    }
    /// Files below `out`, by path without the number in their names, with their contents.
    fn files(&self) -> Vec<(String, String)> {
        let mut files = Vec::new();
        let out = self.dir.path().join("out");
        walk(&out, &mut |path| {
            let name = path.strip_prefix(&out).unwrap().to_str().unwrap();
            let parts: Vec<&str> = name.split('.').filter(|p| p.parse::<u64>().is_err()).collect();
            files
                .push((parts.join("."), String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned()));
        });
        files.sort();
        files
    }
    async fn expect_files(&self, expected: &[(&str, &str)]) {
        let expected: Vec<_> = expected.iter().map(|(n, c)| ((*n).to_owned(), (*c).to_owned())).collect();
        let deadline = self.io.now() + Duration::from_secs(10);
        while self.files() != expected {
            assert!(self.io.now() < deadline, "{:#?}", self.files());
            self.io.sleep(Duration::from_millis(5)).await;
        }
    }
}

fn walk(dir: &Path, found: &mut impl FnMut(&Path)) {
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { walk(&path, found) } else { found(&path) }
    }
}

async fn drain(sink: &mut dyn Sink) {
    while sink.process().await.unwrap() == Status::Ready {}
}

#[test]
fn a_file_has_its_final_name_when_it_is_complete() {
    run(|b| async move {
        let (mut sink, counters) = b
            .sink(
                "/%Y/%{kind}",
                &format!("{PLAIN}hdfs.filePrefix = p\nhdfs.fileSuffix = .log\nhdfs.inUsePrefix = _"),
            )
            .await;
        b.put(&[("timestamp", "1349687103456"), ("kind", "a")], &["one", "two"]).await;
        drain(&mut *sink).await;
        assert_eq!(b.files(), [("2012/a/_p.log.tmp".to_owned(), "one\ntwo\n".to_owned())]);
        assert!(b.channel.is_empty());
        b.put(&[("timestamp", "1349687103456"), ("kind", "a")], &["three"]).await;
        drain(&mut *sink).await;
        sink.stop().await;
        assert_eq!(b.files(), [("2012/a/p.log".to_owned(), "one\ntwo\nthree\n".to_owned())]);
        let counts =
            [&counters.connection_created, &counters.connection_closed, &counters.event_drain_success];
        assert_eq!(counts.map(|c| c.value()), [1, 1, 3]);
    });
}

#[test]
fn files_roll_by_count_and_size_before_an_append() {
    run(|b| async move {
        let (mut sink, _) = b
            .sink(
                "/c",
                "hdfs.fileType = DataStream\nhdfs.rollInterval = 0\nhdfs.rollSize = 0\nhdfs.rollCount = 2",
            )
            .await;
        b.put(&[], &["1", "2", "3", "4"]).await;
        drain(&mut *sink).await;
        // The fourth event fills the second file; it is closed only when a fifth arrives.
        b.expect_files(&[("c/FlumeData", "1\n2\n"), ("c/FlumeData.tmp", "3\n4\n")]).await;
        b.put(&[], &["5"]).await;
        drain(&mut *sink).await;
        b.expect_files(&[("c/FlumeData", "1\n2\n"), ("c/FlumeData", "3\n4\n"), ("c/FlumeData.tmp", "5\n")])
            .await;
        sink.stop().await;
    });
    run(|b| async move {
        let (mut sink, _) = b
            .sink(
                "/s",
                "hdfs.fileType = DataStream\nhdfs.rollInterval = 0\nhdfs.rollSize = 5\nhdfs.rollCount = 0",
            )
            .await;
        b.put(&[], &["aaa", "bb", "c", "ddddddd", "e"]).await;
        drain(&mut *sink).await;
        sink.stop().await;
        b.expect_files(&[
            ("s/FlumeData", "aaa\nbb\n"),
            ("s/FlumeData", "c\nddddddd\n"),
            ("s/FlumeData", "e\n"),
        ])
        .await;
    });
}

#[test]
fn files_close_by_interval_and_when_idle() {
    for property in ["hdfs.rollInterval = 1", "hdfs.idleTimeout = 1"] {
        run(|b| async move {
            let (mut sink, _) = b
                .sink(
                    "",
                    &format!("{}{property}", PLAIN.replace("hdfs.rollInterval = 0\n", ""))
                        .replace("hdfs.idleTimeout = 1", "hdfs.rollInterval = 0\nhdfs.idleTimeout = 1"),
                )
                .await;
            b.put(&[], &["x"]).await;
            drain(&mut *sink).await;
            sink.tick().await;
            assert_eq!(b.files()[0].0, "FlumeData.tmp");
            let deadline = b.io.now() + Duration::from_secs(10);
            while b.files()[0].0 != "FlumeData" {
                assert!(b.io.now() < deadline);
                sink.tick().await;
                b.io.sleep(Duration::from_millis(20)).await;
            }
            sink.stop().await;
        });
    }
}

#[test]
fn events_of_one_batch_go_to_the_buckets_of_their_headers() {
    run(|b| async move {
        let (mut sink, counters) = b.sink("/%{k}", &format!("{PLAIN}hdfs.maxOpenFiles = 1")).await;
        let mut builder = BatchBuilder::default();
        for (key, body) in [("a", "1"), ("a", "2"), ("b", "3"), ("a", "4"), ("../../x", "5")] {
            builder.push(body.as_bytes());
            builder.header("k", key);
        }
        let mut transaction = crate::channel::Channel::begin_put(&*b.channel).unwrap();
        transaction.put(builder.finish()).await.unwrap();
        transaction.commit().await.unwrap();
        drain(&mut *sink).await;
        sink.stop().await;
        // With room for one bucket each change of key closes a file; a header cannot leave the directory.
        let expected = [
            ("__/__/x/FlumeData", "5\n"),
            ("a/FlumeData", "1\n2\n"),
            ("a/FlumeData", "4\n"),
            ("b/FlumeData", "3\n"),
        ];
        b.expect_files(&expected).await;
        assert_eq!(counters.connection_created.value(), 4);
    });
}

#[test]
fn a_crash_leaves_nothing_open_and_no_torn_line() {
    run(|b| async move {
        let (mut sink, _) = b.sink("", PLAIN).await;
        b.put(&[], &["committed"]).await;
        drain(&mut *sink).await;
        // As after kill -9: nothing was told to stop.
        drop(sink);
        let tmp = std::fs::read_dir(b.dir.path().join("out")).unwrap().next().unwrap().unwrap().path();
        let mut torn = std::fs::read(&tmp).unwrap();
        torn.extend(b"never acknow");
        std::fs::write(&tmp, torn).unwrap();
        let (mut sink, _) = b.sink("", PLAIN).await;
        b.expect_files(&[("FlumeData", "committed\n")]).await;
        b.put(&[], &["next"]).await;
        drain(&mut *sink).await;
        sink.stop().await;
        b.expect_files(&[("FlumeData", "committed\n"), ("FlumeData", "next\n")]).await;
    });
}

#[test]
fn a_file_of_the_final_name_is_never_overwritten() {
    run(|b| async move {
        let (mut sink, _) = b.sink("", PLAIN).await;
        b.put(&[], &["mine"]).await;
        drain(&mut *sink).await;
        let tmp = std::fs::read_dir(b.dir.path().join("out")).unwrap().next().unwrap().unwrap().path();
        std::fs::write(tmp.with_extension(""), "somebody's").unwrap();
        sink.stop().await;
        b.expect_files(&[("FlumeData", "mine\n"), ("FlumeData", "somebody's")]).await;
    });
}

#[test]
fn a_failed_delivery_rolls_back_and_is_repeated() {
    run(|b| async move {
        let (mut sink, counters) = b.sink("/%{d}", PLAIN).await;
        let out = b.dir.path().join("out");
        std::fs::create_dir(&out).unwrap();
        std::fs::write(out.join("d"), "in the way").unwrap();
        b.put(&[("d", "d")], &["1", "2"]).await;
        assert_eq!(sink.process().await.unwrap(), Status::Backoff);
        assert_eq!((counters.event_write_fail.value(), counters.connection_failed.value()), (1, 1));
        assert_eq!(b.channel.len(), 2);
        std::fs::remove_file(out.join("d")).unwrap();
        drain(&mut *sink).await;
        sink.stop().await;
        b.expect_files(&[("d/FlumeData", "1\n2\n")]).await;
    });
}

#[test]
fn events_stay_in_the_channel_until_the_close_if_asked_to() {
    let close = "hdfs.fileType = DataStream\nhdfs.rollInterval = 60\nhdfs.rollSize = 0\nhdfs.rollCount = 3\nhdfs.durability = close\nhdfs.batchSize = 2";
    run(|b| async move {
        let (mut sink, counters) = b.sink("", close).await;
        b.put(&[], &["1", "2"]).await;
        drain(&mut *sink).await;
        assert_eq!(counters.event_drain_success.value(), 0);
        // As after kill -9: the file is removed and the events are delivered again.
        drop(sink);
        assert_eq!(b.channel.len(), 2);
        let (mut sink, counters) = b.sink("", close).await;
        b.expect_files(&[]).await;
        drain(&mut *sink).await;
        b.put(&[], &["3", "4"]).await;
        drain(&mut *sink).await;
        b.put(&[], &["5"]).await;
        drain(&mut *sink).await;
        sink.stop().await;
        assert_eq!(counters.event_drain_success.value(), 5);
        b.expect_files(&[("FlumeData", "1\n2\n3\n4\n"), ("FlumeData", "5\n")]).await;
    });
}

#[test]
fn other_types_of_file() {
    run(|b| async move {
        let gzip = PLAIN.replace("DataStream", "CompressedStream\nhdfs.codeC = gzip");
        let (mut sink, _) = b.sink("", &gzip).await;
        b.put(&[], &["a", "b"]).await;
        drain(&mut *sink).await;
        b.put(&[], &["c"]).await;
        drain(&mut *sink).await;
        sink.stop().await;
        let path = std::fs::read_dir(b.dir.path().join("out")).unwrap().next().unwrap().unwrap().path();
        assert_eq!(path.extension().unwrap(), "gz");
        let data = std::fs::read(path).unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut flate2::read::MultiGzDecoder::new(&data[..]), &mut text).unwrap();
        assert_eq!(text, "a\nb\nc\n");
    });
    run(|b| async move {
        let (mut sink, _) = b.sink("", &PLAIN.replace("DataStream", "SequenceFile")).await;
        b.put(&[("timestamp", "7")], &["body"]).await;
        drain(&mut *sink).await;
        sink.stop().await;
        assert!(b.files()[0].1.starts_with("SEQ\u{6}!org.apache.hadoop.io.LongWritable"));
    });
}

#[test]
fn avro_bodies_get_a_file_for_each_schema() {
    run(|b| async move {
        let schema = b.dir.path().join("int.avsc");
        std::fs::write(&schema, "\"int\"").unwrap();
        let serializer = format!(
            "{PLAIN}serializer = org.apache.flume.sink.hdfs.AvroEventSerializer$Builder\nserializer.compressionCodec = xz\n\
             serializer.schemaURL = file://{}",
            schema.display()
        );
        let (mut sink, _) = b.sink("/%{k}", &serializer).await;
        let literal = ("flume.avro.schema.literal", "\"string\"");
        for _ in 0..2 {
            b.put(&[("k", "a")], &["\x02", "\x04"]).await;
            b.put(&[("k", "a"), literal], &["\x04ab"]).await;
            b.put(&[("k", "b"), literal], &["\x02c"]).await;
            drain(&mut *sink).await;
        }
        b.put(&[("k", "a"), ("flume.avro.schema.literal", "{}")], &["x"]).await;
        let problem = sink.process().await.unwrap_err().to_string();
        assert!(problem.contains("flume.avro.schema.literal of an event is no Avro schema"), "{problem}");
        assert_eq!(b.channel.len(), 1);
        sink.stop().await;
        let mut found = Vec::new();
        let out = b.dir.path().join("out");
        walk(&out, &mut |path| {
            let directory = path.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
            assert_eq!(path.extension().unwrap().to_str().unwrap().parse::<u64>().err(), None, "{path:?}");
            let (schema, data) = testing::avro_file(&std::fs::read(path).unwrap());
            found.push((directory, schema, data.concat()));
        });
        found.sort();
        let expected = [
            ("a", "\"int\"", &b"\x02\x04\x02\x04"[..]),
            ("a", "\"string\"", b"\x04ab\x04ab"),
            ("b", "\"string\"", b"\x02c\x02c"),
        ];
        let expected = expected.map(|(k, schema, data)| (k.to_owned(), schema.to_owned(), data.to_vec()));
        assert_eq!(found, expected);
    });
}

#[test]
fn a_path_through_a_file_is_refused_at_the_start() {
    run(|b| async move {
        let file = b.dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let lines = format!("hdfs.path = {}/%Y", file.display());
        let config = testing::parse(Kind::Sink, &lines, parse).0.unwrap();
        let error = config.open(testing::sink_context(&b.io, b.channel.clone())).await.err().unwrap();
        assert_eq!(error.property, "hdfs.path");
        assert!(error.message.contains("is not a directory"), "{}", error.message);
    });
}

#[test]
fn paths_are_cleaned() {
    let long = "x".repeat(300);
    let table = [
        ("/a//b/./c/", "/a/b/c"),
        ("a/b", "a/b"),
        ("/a/../b", "/a/__/b"),
        ("/", "/"),
        ("/a\0b", "/a_b"),
        (&format!("/{long}"), &format!("/{}", &long[..255])),
    ];
    for (path, expected) in table {
        assert_eq!(clean_path(path), expected);
    }
    assert_eq!(short("short"), "short");
    assert_eq!(short(&long).len(), NAME_BYTES_MAX);
    assert_eq!(short("").len(), 0);
}
