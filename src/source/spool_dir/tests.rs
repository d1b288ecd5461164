//! The source on a real directory.

use std::fs;
use std::rc::Rc;

use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;
use crate::channel::Channel;
use crate::config::Kind;
use crate::io::stop::{Phase, StopHandle};
use crate::io::{EngineKind, Io, run_local, stop};
use crate::testing;

struct Bench {
    io: Io,
    dir: TempDir,
    channel: Rc<dyn Channel>,
}

struct Running {
    stop: StopHandle,
    task: JoinHandle<Result<(), SourceError>>,
}

impl Running {
    async fn stop(self) {
        self.stop.request(Phase::Stopping);
        self.task.await.unwrap().unwrap();
    }
}

fn bench<F: Future<Output = ()>>(capacity: usize, test: impl FnOnce(Bench) -> F) {
    run_local(EngineKind::Portable, |io| async move {
        let channel: Rc<dyn Channel> = testing::memory_channel(&io, capacity);
        test(Bench { io, dir: tempfile::tempdir().unwrap(), channel }).await;
    })
    .unwrap();
}

impl Bench {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    /// Puts a file there at once, as one has to.
    fn put(&self, name: &str, text: impl AsRef<[u8]>) {
        let hidden = self.path(".incoming");
        fs::write(&hidden, text).unwrap();
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::rename(hidden, self.path(name)).unwrap();
    }
    async fn open(&self, lines: &str) -> Result<Box<dyn Source>, OpenError> {
        let lines =
            format!("spoolDir = {}\npollDelay = 5\nmaxBackoff = 20\n{lines}", self.dir.path().display());
        let settings = testing::settings(Kind::Source, &lines);
        let mut diagnostics = Vec::new();
        let config = parse(&mut ParseContext::new(&settings, &mut diagnostics));
        let config = config.unwrap_or_else(|| panic!("{diagnostics:?}"));
        config.open(testing::source_context(&self.io, self.channel.clone())).await
    }
    async fn start(&self, lines: &str) -> Running {
        let source = self.open(lines).await.map_err(|e| e.message).unwrap();
        let (handle, stop) = stop::channel();
        Running { stop: handle, task: crate::io::spawn(source.run(stop)) }
    }
    async fn expect(&self, expected: &[&str]) {
        let bodies = testing::expect_bodies(&self.io, &*self.channel, expected.len()).await;
        assert_eq!(bodies, expected);
    }
    async fn until(&self, what: &str, mut check: impl FnMut() -> bool) {
        let deadline = self.io.now() + Duration::from_secs(10);
        while !check() {
            assert!(self.io.now() < deadline, "not within 10 s: {what}");
            self.io.sleep(Duration::from_millis(5)).await;
        }
    }
    async fn until_done(&self, name: &str) {
        let done = self.path(&format!("{name}.COMPLETED"));
        self.until(name, || done.exists()).await;
    }
}

#[test]
fn properties() {
    for (lines, complaint) in [
        ("", "spoolDir: is required"),
        ("spoolDir = /s\ndeletePolicy = later", "not one of never, immediate"),
        ("spoolDir = /s\ntrackingPolicy = none", "not one of rename, tracker_dir"),
        ("spoolDir = /s\nconsumeOrder = first", "not one of oldest"),
        ("spoolDir = /s\ndecodeErrorPolicy = shrug", "not one of FAIL"),
        ("spoolDir = /s\ndeserializer = JSON", "not one of LINE, AVRO"),
        ("spoolDir = /s\ninputCharset = klingon", "inputCharset = \"klingon\""),
        ("spoolDir = /s\nignorePattern = (", "ignorePattern = \"(\""),
        (
            "spoolDir = /s\ndeletePolicy = immediate\ntrackingPolicy = tracker_dir",
            "goes with deletePolicy never",
        ),
    ] {
        let (config, complaints) = testing::parse(Kind::Source, lines, parse);
        assert!(config.is_none(), "{lines}");
        assert!(complaints.iter().any(|c| c.contains(complaint)), "{lines}: {complaints:?}");
    }
}

#[test]
fn files_are_read_once_oldest_first_and_renamed() {
    bench(100, |b| async move {
        for (index, name) in ["z", "a", "m"].iter().enumerate() {
            b.put(name, format!("{name}1\n{name}2"));
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1000 + index as u64);
            fs::File::options().write(true).open(b.path(name)).unwrap().set_modified(time).unwrap();
        }
        b.put("old.COMPLETED", "no\n");
        b.put(".hidden", "no\n");
        b.put("skip.tmp", "no\n");
        b.put("sub/deep", "no\n");
        let source = b.start("ignorePattern = .*\\.tmp\nbasenameHeader = true\nfileHeader = true").await;
        b.channel.wait_ready().await;
        let batch = testing::drain(&*b.channel).await.remove(0);
        assert_eq!(batch.bodies().collect::<Vec<_>>(), [b"z1", b"z2"]);
        assert_eq!(batch.header(0, "basename"), Some("z"));
        assert_eq!(batch.header(1, "file"), Some(b.path("z").to_str().unwrap()));
        b.expect(&["a1", "a2", "m1", "m2"]).await;
        b.until_done("m").await;
        b.put("late", "late\n");
        b.expect(&["late"]).await;
        source.stop().await;
        assert!(b.path("sub/deep").exists() && b.path("skip.tmp").exists());
    });
}

use std::time::SystemTime;

#[test]
fn directories_below_are_read_if_asked() {
    bench(100, |b| async move {
        b.put("sub/deep/f", "x\n");
        b.put(".dot/f", "no\n");
        let source = b.start("recursiveDirectorySearch = true").await;
        b.expect(&["x"]).await;
        b.until_done("sub/deep/f").await;
        source.stop().await;
        assert!(b.path(".dot/f").exists());
    });
}

#[test]
fn other_ways_to_mark_a_file() {
    bench(100, |b| async move {
        b.put("f", "x\n");
        let source = b.start("deletePolicy = immediate").await;
        b.expect(&["x"]).await;
        b.until("deleted", || !b.path("f").exists()).await;
        source.stop().await;
        b.put("g", "y\n");
        let source = b.start("trackingPolicy = tracker_dir\nfileSuffix = .done").await;
        b.expect(&["y"]).await;
        b.until("tracked", || b.path(".flumespool/g.done").exists()).await;
        source.stop().await;
        let source = b.start("trackingPolicy = tracker_dir\nfileSuffix = .done").await;
        b.put("h", "z\n");
        b.expect(&["z"]).await;
        source.stop().await;
        assert!(b.path("g").exists());
    });
}

#[test]
fn an_empty_file_is_an_empty_event() {
    bench(100, |b| async move {
        b.put("f", "");
        let source = b.start("").await;
        b.expect(&[""]).await;
        b.until_done("f").await;
        source.stop().await;
    });
}

#[test]
fn a_bad_file_is_set_aside_and_the_others_go_on() {
    bench(100, |b| async move {
        b.put("bad", b"good\nb\xFFd\n");
        b.put("taken", "t\n");
        b.put("taken.COMPLETED", "in the way\n");
        let source = b.start("").await;
        let mut bodies = testing::expect_bodies(&b.io, &*b.channel, 2).await;
        bodies.sort();
        assert_eq!(bodies, ["good", "t"]);
        b.put("next", "n\n");
        b.expect(&["n"]).await;
        source.stop().await;
        assert!(b.path("bad").exists() && b.path("taken").exists());
        assert_eq!(fs::read(b.path("taken.COMPLETED")).unwrap(), b"in the way\n");
    });
}

#[test]
fn a_file_changed_while_it_is_read_is_set_aside() {
    bench(10, |b| async move {
        let lines: String = (0..30).map(|i| format!("{i}\n")).collect();
        b.put("f", &lines);
        let source = b.start("").await;
        // The channel is full after ten lines: the file is being read.
        b.channel.wait_ready().await;
        let mut file = fs::OpenOptions::new().append(true).open(b.path("f")).unwrap();
        std::io::Write::write_all(&mut file, b"more\n").unwrap();
        assert_eq!(testing::expect_bodies(&b.io, &*b.channel, 30).await.len(), 30);
        b.put("next", "n\n");
        b.expect(&["n"]).await;
        source.stop().await;
        assert!(b.path("f").exists() && !b.path("f.COMPLETED").exists());
    });
}

#[test]
fn it_goes_on_where_it_stopped() {
    bench(10, |b| async move {
        let lines: String = (0..25).map(|i| format!("{i:02}\n")).collect();
        b.put("f", &lines);
        let source = b.start("").await;
        b.channel.wait_ready().await;
        source.stop().await;
        assert!(b.path(".flumespool/.flumespool-main.meta").exists());
        let first = testing::drain_bodies(&*b.channel).await;
        assert_eq!(first.len(), 10);
        let source = b.start("").await;
        let rest = testing::expect_bodies(&b.io, &*b.channel, 15).await;
        let all: Vec<String> = first.into_iter().chain(rest).collect();
        assert_eq!(all, (0..25).map(|i| format!("{i:02}")).collect::<Vec<_>>());
        b.until_done("f").await;
        source.stop().await;
    });
}

#[test]
fn other_formats() {
    bench(100, |b| async move {
        let blob = "deserializer = org.apache.flume.sink.solr.morphline.BlobDeserializer$Builder\ndeserializer.maxBlobLength = 4";
        b.put("f", "ab\ncdef");
        let source = b.start(blob).await;
        b.expect(&["ab\nc", "def"]).await;
        b.until_done("f").await;
        source.stop().await;
        b.put("g", b"caf\xE9 long\n");
        let source = b.start("inputCharset = ISO-8859-1\nbufferMaxLineLength = 4").await;
        b.expect(&["café", " lon", "g"]).await;
        source.stop().await;
        b.put("h", "not avro");
        let source = b.start("deserializer = AVRO").await;
        b.put("i", "nor this");
        b.io.sleep(Duration::from_millis(50)).await;
        source.stop().await;
        assert!(b.path("h").exists() && b.path("i").exists());
    });
}

#[test]
fn what_cannot_be_opened_is_said() {
    bench(100, |b| async move {
        b.put("file", "x");
        for (name, message) in [("missing", "cannot look into"), ("file", "is not a directory")] {
            let error =
                b.open(&format!("spoolDir = {}", b.path(name).display())).await.map(drop).unwrap_err();
            assert_eq!(error.property, "spoolDir");
            assert!(error.message.contains(message) && error.hint.is_some(), "{error:?}");
        }
        let error =
            b.open(&format!("trackerDir = {}/t", b.path("file").display())).await.map(drop).unwrap_err();
        assert_eq!(error.property, "trackerDir");
    });
}
