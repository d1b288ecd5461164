//! The source on a real directory, with a channel that forgets and with one that keeps marks.

use std::fs;
use std::io::Write;
use std::rc::Rc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::*;
use crate::channel::memory::MemoryChannel;
use crate::channel::{Channel, ChannelError, PutTransaction, TakeTransaction};
use crate::config::Kind;
use crate::event::{EventBatch, SourceMark};
use crate::io::stop::{Phase, StopHandle};
use crate::io::{EngineKind, run_local, stop};
use crate::testing;

/// A memory channel that keeps marks, as a durable one does, and outlives its sources.
struct Durable {
    events: Rc<MemoryChannel>,
    marks: Rc<RefCell<Vec<SourceMark>>>,
    /// While somebody else holds it, nothing is committed.
    medium: Arc<Semaphore>,
}

struct DurablePut {
    put: Box<dyn PutTransaction>,
    own: Vec<SourceMark>,
    marks: Rc<RefCell<Vec<SourceMark>>>,
    medium: Arc<Semaphore>,
}

impl PutTransaction for DurablePut {
    fn put(&mut self, batch: EventBatch) -> LocalBoxFuture<'_, Result<(), ChannelError>> {
        self.own.extend_from_slice(batch.marks());
        self.put.put(batch)
    }
    fn commit(self: Box<Self>) -> LocalBoxFuture<'static, Result<(), ChannelError>> {
        Box::pin(async move {
            let _medium = self.medium.acquire().await;
            self.put.commit().await?;
            let mut marks = self.marks.borrow_mut();
            for mark in self.own {
                marks.retain(|m| m.key != mark.key);
                if !mark.value.is_empty() {
                    marks.push(mark);
                }
            }
            Ok(())
        })
    }
}

impl Channel for Durable {
    fn name(&self) -> &str {
        self.events.name()
    }
    fn transaction_capacity(&self) -> usize {
        self.events.transaction_capacity()
    }
    fn begin_put(&self) -> Result<Box<dyn PutTransaction>, ChannelError> {
        let (put, marks, medium) = (self.events.begin_put()?, self.marks.clone(), self.medium.clone());
        Ok(Box::new(DurablePut { put, own: Vec::new(), marks, medium }))
    }
    fn begin_take(&self) -> Result<Box<dyn TakeTransaction>, ChannelError> {
        self.events.begin_take()
    }
    fn wait_ready(&self) -> LocalBoxFuture<'_, ()> {
        self.events.wait_ready()
    }
    fn marks(&self, _source: &str) -> Vec<SourceMark> {
        self.marks.borrow().clone()
    }
    fn is_durable(&self) -> bool {
        true
    }
    fn close(&self) -> LocalBoxFuture<'_, ()> {
        self.events.close()
    }
}

struct Bench {
    io: Io,
    dir: TempDir,
    channel: Rc<dyn Channel>,
    medium: Arc<Semaphore>,
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
    /// As `kill -9`: nothing is written any more.
    fn kill(self) {
        self.task.abort();
    }
}

fn bench<F: Future<Output = ()>>(test: impl FnOnce(Bench) -> F) {
    run_local(EngineKind::Portable, |io| async move {
        let events = testing::memory_channel(&io, 100_000);
        let medium = Arc::new(Semaphore::new(1));
        let channel: Rc<dyn Channel> =
            Rc::new(Durable { events, marks: Rc::default(), medium: medium.clone() });
        test(Bench { io, dir: tempfile::tempdir().unwrap(), channel, medium }).await;
    })
    .unwrap();
}

/// Without marks: the position file has to do.
fn forgetful_bench<F: Future<Output = ()>>(test: impl FnOnce(Bench) -> F) {
    run_local(EngineKind::Portable, |io| async move {
        let channel: Rc<dyn Channel> = testing::memory_channel(&io, 100_000);
        let medium = Arc::new(Semaphore::new(1));
        test(Bench { io, dir: tempfile::tempdir().unwrap(), channel, medium }).await;
    })
    .unwrap();
}

impl Bench {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    fn append(&self, name: &str, text: &str) {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(self.path(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }
    fn settings(&self, lines: &str) -> String {
        let dir = self.dir.path().display();
        format!(
            "filegroups = f1\nfilegroups.f1 = {dir}/app.*\npositionFile = {dir}/state/position.json\n\
             backoffSleepIncrement = 10\nmaxBackoffSleep = 20\n{lines}"
        )
    }
    fn config(&self, lines: &str) -> Arc<dyn SourceConfig> {
        let settings = testing::settings(Kind::Source, &self.settings(lines));
        let mut diagnostics = Vec::new();
        let config = parse(&mut ParseContext::new(&settings, &mut diagnostics));
        config.unwrap_or_else(|| panic!("{diagnostics:?}"))
    }
    async fn start(&self, lines: &str) -> Running {
        let cx = testing::source_context(&self.io, self.channel.clone());
        let source = self.config(lines).open(cx).await.map_err(|e| e.message).unwrap();
        let (handle, stop) = stop::channel();
        Running { stop: handle, task: crate::io::spawn(source.run(stop)) }
    }
    async fn expect(&self, expected: &[&str]) {
        let bodies = testing::expect_bodies(&self.io, &*self.channel, expected.len()).await;
        assert_eq!(bodies, expected);
    }
    /// Nothing more arrives although a later line does.
    async fn expect_only(&self, name: &str, expected: &[&str]) {
        self.append(name, "<end>\n");
        let mut all = expected.to_vec();
        all.push("<end>");
        self.expect(&all).await;
    }
    async fn position_of(&self, name: &str) -> Option<u64> {
        let text = fs::read(self.path("state/position.json")).ok()?;
        let entries = table::parse_file(&text).unwrap();
        entries.into_iter().find(|(_, _, path)| *path == self.path(name)).map(|(_, pos, _)| pos)
    }
}

#[test]
fn properties() {
    for (lines, complaint) in [
        ("", "filegroups: is required"),
        ("filegroups = f1", "no group has a path"),
        ("filegroups = f1\nfilegroups.f1 = app.log", "not an absolute path"),
        ("filegroups = f1\nfilegroups.f1 = /var/log/", "is a directory"),
        ("filegroups = f1\nfilegroups.f1 = /var/log/[", "not a regular expression"),
        ("filegroups = f1\nfilegroups.f1 = /a/b\nbatchSize = 0", "batchSize = \"0\""),
        ("filegroups = f1\nfilegroups.f1 = /a/b\nidleTimeout = soon", "idleTimeout = \"soon\""),
    ] {
        let (config, complaints) = testing::parse(Kind::Source, lines, parse);
        assert!(config.is_none(), "{lines}");
        assert!(complaints.iter().any(|c| c.contains(complaint)), "{lines}: {complaints:?}");
    }
    let lines = "filegroups = f1 f2\nfilegroups.f1 = /a/b\nfilegroups.f3 = /c/d";
    let (config, complaints) = testing::parse(Kind::Source, lines, parse);
    assert!(config.is_some());
    assert!(
        complaints[0].contains("group f2 has no path") && complaints[1].contains("filegroups.f3"),
        "{complaints:?}"
    );
    assert_eq!(config.unwrap().batch_size(), Some(100));
}

#[test]
fn lines_are_events_and_only_the_named_files_are_read() {
    bench(|b| async move {
        b.append("app.log", "one\r\n\ntwo\nunfin");
        b.append("other.log", "no\n");
        let source = b.start("").await;
        b.expect(&["one", "", "two"]).await;
        b.append("app.log", "ished\n");
        b.expect(&["unfinished"]).await;
        b.append("app2.log", "new file\n");
        b.expect(&["new file"]).await;
        source.stop().await;
    });
}

#[test]
fn headers_are_flumes() {
    bench(|b| async move {
        b.append("app.log", "ab\r\ncd\n");
        let lines = "headers.f1.a.b = x\nheaders.f2.c = y\nfileHeader = true\nfileHeaderKey = path\nbyteOffsetHeader = true";
        let source = b.start(lines).await;
        b.channel.wait_ready().await;
        let batch = testing::drain(&*b.channel).await.remove(0);
        let path = b.path("app.log").display().to_string();
        let expected: Vec<_> = vec![("byteoffset", "4"), ("a.b", "x"), ("path", path.as_str())];
        assert_eq!(batch.headers(1).collect::<Vec<_>>(), expected);
        assert_eq!(batch.header(0, "byteoffset"), Some("0"));
        source.stop().await;
    });
}

#[test]
fn a_renamed_file_goes_on_and_is_not_read_again() {
    bench(|b| async move {
        b.append("app.log", "1\n");
        let source = b.start("").await;
        b.expect(&["1"]).await;
        let mut old = fs::OpenOptions::new().append(true).open(b.path("app.log")).unwrap();
        fs::rename(b.path("app.log"), b.path("app.log.1")).unwrap();
        old.write_all(b"2\n").unwrap();
        b.expect(&["2"]).await;
        b.append("app.log", "3\n");
        b.expect(&["3"]).await;
        // Out of the pattern: still read to its end.
        fs::rename(b.path("app.log.1"), b.path("old")).unwrap();
        old.write_all(b"4\n").unwrap();
        b.expect(&["4"]).await;
        b.expect_only("app.log", &[]).await;
        source.stop().await;
    });
}

#[test]
fn a_deleted_file_is_read_to_its_end_and_forgotten() {
    bench(|b| async move {
        b.append("app.log", "1\n");
        let source = b.start("").await;
        b.expect(&["1"]).await;
        let mut open = fs::OpenOptions::new().append(true).open(b.path("app.log")).unwrap();
        fs::remove_file(b.path("app.log")).unwrap();
        open.write_all(b"2\nrest").unwrap();
        b.expect(&["2", "rest"]).await;
        let deadline = b.io.now() + Duration::from_secs(10);
        while !b.channel.marks("r1").is_empty() {
            assert!(b.io.now() < deadline, "the mark is still there");
            b.io.sleep(Duration::from_millis(10)).await;
        }
        source.stop().await;
        assert_eq!(b.position_of("app.log").await, None);
    });
}

#[test]
fn truncation_is_noticed() {
    bench(|b| async move {
        b.append("app.log", "first\nsecond\n");
        let source = b.start("").await;
        b.expect(&["first", "second"]).await;
        fs::write(b.path("app.log"), "new\n").unwrap();
        b.expect(&["new"]).await;
        // Longer than before, so that only the content tells.
        fs::write(b.path("app.log"), "much longer than before\nand more\n").unwrap();
        b.expect(&["much longer than before", "and more"]).await;
        source.stop().await;
    });
}

#[test]
fn copytruncate_loses_and_repeats_nothing() {
    for copy in ["app.log.1", "copy-of-app"] {
        bench(|b| async move {
            let long = "x".repeat(300);
            b.append("app.log", &format!("{long}\n"));
            let source = b.start("").await;
            b.expect(&[&long]).await;
            // Written, copied and truncated before the source can look: the task only runs at an await.
            b.append("app.log", "unread\n");
            fs::copy(b.path("app.log"), b.path(copy)).unwrap();
            fs::write(b.path("app.log"), "").unwrap();
            b.append("app.log", "after\n");
            let mut bodies = testing::expect_bodies(&b.io, &*b.channel, 2).await;
            bodies.sort();
            assert_eq!(bodies, ["after", "unread"], "{copy}");
            b.expect_only("app.log", &[]).await;
            source.stop().await;
        });
    }
}

#[test]
fn lines_that_end_alike_do_not_hide_a_truncation() {
    bench(|b| async move {
        // Lines of one length: before the position there is the same in the new content, and more behind it.
        let lines = |content: &str| -> Vec<String> {
            (0..4).map(|i| format!("{content}{i}{}", "x".repeat(300))).collect()
        };
        let (old, new) = (lines("old"), lines("new"));
        b.append("app.log", &format!("{}\n", old[0]));
        let source = b.start("").await;
        b.expect(&[&old[0]]).await;
        b.append("app.log", &format!("{}\n{}\n", old[1], old[2]));
        fs::copy(b.path("app.log"), b.path("app.log.1")).unwrap();
        fs::write(b.path("app.log"), "").unwrap();
        b.append("app.log", &format!("{}\n", new.join("\n")));
        let mut bodies = testing::expect_bodies(&b.io, &*b.channel, 6).await;
        bodies.sort();
        let mut expected = [new, old[1..3].to_vec()].concat();
        expected.sort();
        assert_eq!(bodies, expected);
        source.stop().await;
    });
}

#[test]
fn a_copy_is_known_from_its_first_byte_on() {
    bench(|b| async move {
        let long = "x".repeat(300);
        b.append("app.log", &format!("{long}\n"));
        let source = b.start("").await;
        b.expect(&[&long]).await;
        // The copy is seen while it is still empty.
        b.append("app.log.1", "");
        b.expect_only("app.log", &[]).await;
        fs::copy(b.path("app.log"), b.path("app.log.1")).unwrap();
        b.expect_only("app.log", &[]).await;
        fs::write(b.path("app.log"), "").unwrap();
        b.append("app.log", "after\n");
        b.expect(&["after"]).await;
        b.expect_only("app.log", &[]).await;
        source.stop().await;
    });
}

#[test]
fn a_copy_is_known_before_what_was_read_is_committed() {
    bench(|b| async move {
        let medium = b.medium.clone().acquire_owned().await.unwrap();
        let long = "x".repeat(300);
        b.append("app.log", &format!("{long}\n"));
        let source = b.start("").await;
        b.io.sleep(Duration::from_millis(100)).await;
        fs::copy(b.path("app.log"), b.path("app.log.1")).unwrap();
        fs::write(b.path("app.log"), "after\n").unwrap();
        b.io.sleep(Duration::from_millis(100)).await;
        drop(medium);
        b.expect(&[&long, "after"]).await;
        b.expect_only("app.log", &[]).await;
        source.stop().await;
    });
}

#[test]
fn a_copy_is_known_after_a_kill_behind_the_truncation() {
    bench(|b| async move {
        let long = "x".repeat(300);
        b.append("app.log", &format!("{long}\n"));
        let source = b.start("").await;
        b.expect(&[&long]).await;
        // No group matches the copy yet, so nothing was noted of it.
        fs::copy(b.path("app.log"), b.path("copy")).unwrap();
        fs::write(b.path("app.log"), "after\n").unwrap();
        b.expect(&["after"]).await;
        source.kill();
        b.append("copy", "unread\n");
        fs::rename(b.path("copy"), b.path("app.log.1")).unwrap();
        let source = b.start("").await;
        b.expect(&["unread"]).await;
        b.expect_only("app.log", &[]).await;
        source.stop().await;
    });
}

#[test]
fn truncation_while_nobody_looked_is_noticed() {
    bench(|b| async move {
        let long = "x".repeat(300);
        b.append("app.log", &format!("{long}\n"));
        let source = b.start("").await;
        b.expect(&[&long]).await;
        source.kill();
        b.append("app.log", "unread\n");
        fs::copy(b.path("app.log"), b.path("old")).unwrap();
        fs::write(b.path("app.log"), "y".repeat(400) + "\n").unwrap();
        let source = b.start("").await;
        b.expect(&["unread", &"y".repeat(400)]).await;
        source.stop().await;
    });
}

#[test]
fn marks_say_where_to_go_on() {
    bench(|b| async move {
        b.append("app.log", "1\n2\n");
        let source = b.start("").await;
        b.expect(&["1", "2"]).await;
        // Killed before any position file was written; renamed meanwhile.
        source.kill();
        assert_eq!(b.position_of("app.log").await, None);
        fs::rename(b.path("app.log"), b.path("app.log.1")).unwrap();
        b.append("app.log.1", "3\n");
        b.append("app.log", "4\n");
        let source = b.start("").await;
        b.expect(&["3", "4"]).await;
        source.stop().await;
    });
}

#[test]
fn the_position_file_says_where_to_go_on() {
    forgetful_bench(|b| async move {
        b.append("app.log", "1\n2\n");
        let source = b.start("").await;
        b.expect(&["1", "2"]).await;
        source.stop().await;
        assert_eq!(b.position_of("app.log").await, Some(4));
        b.append("app.log", "3\n");
        let source = b.start("").await;
        b.expect_only("app.log", &["3"]).await;
        source.stop().await;
        // Shorter than the position: Flume begins at the start, too.
        fs::write(b.path("app.log"), "a\n").unwrap();
        let source = b.start("").await;
        b.expect(&["a"]).await;
        source.stop().await;
    });
}

#[test]
fn skip_to_end_skips_what_is_there_at_start() {
    bench(|b| async move {
        b.append("app.log", "old\n");
        let source = b.start("skipToEnd = true").await;
        b.append("app2.log", "new file\n");
        let deadline = b.io.now() + Duration::from_secs(10);
        while b.channel.marks("r1").is_empty() {
            assert!(b.io.now() < deadline, "no mark");
            b.io.sleep(Duration::from_millis(5)).await;
        }
        b.append("app.log", "new\n");
        let bodies = testing::expect_bodies(&b.io, &*b.channel, 1).await;
        assert!(bodies.contains(&"new".to_owned()) && !bodies.contains(&"old".to_owned()), "{bodies:?}");
        source.stop().await;
    });
}

#[test]
fn an_idle_file_gives_its_last_line() {
    bench(|b| async move {
        b.append("app.log", "one\nrest");
        let source = b.start("idleTimeout = 30").await;
        b.expect(&["one", "rest"]).await;
        b.append("app.log", " of it\n");
        b.expect(&[" of it"]).await;
        source.stop().await;
    });
}

#[test]
fn a_full_channel_makes_it_wait() {
    run_local(EngineKind::Portable, |io| async move {
        let channel: Rc<dyn Channel> = testing::memory_channel(&io, 7);
        let b = Bench { io, dir: tempfile::tempdir().unwrap(), channel, medium: Arc::new(Semaphore::new(1)) };
        let lines: String = (0..200).map(|i| format!("{i}\n")).collect();
        b.append("app.log", &lines);
        let source = b.start("").await;
        let expected: Vec<String> = (0..200).map(|i| i.to_string()).collect();
        b.expect(&expected.iter().map(String::as_str).collect::<Vec<_>>()).await;
        source.stop().await;
    })
    .unwrap();
}

#[test]
fn a_line_may_be_longer_than_a_read() {
    bench(|b| async move {
        let long = "x".repeat(3 * file::READ_BYTES);
        let longer = "y".repeat(file::LINE_BYTES_MAX + 10);
        b.append("app.log", &format!("{long}\n{longer}\nend\n"));
        let source = b.start("").await;
        let bodies = testing::expect_bodies(&b.io, &*b.channel, 4).await;
        assert_eq!(bodies.concat(), format!("{long}{longer}end"));
        source.stop().await;
    });
}

#[test]
fn every_file_has_one_shard() {
    bench(|b| async move {
        let config = b.config("");
        let mut running = Vec::new();
        for index in 0..3 {
            let mut cx = testing::source_context(&b.io, b.channel.clone());
            cx.shard = crate::component::Shard { index, count: 3 };
            let source = config.clone().open(cx).await.map_err(|e| e.message).unwrap();
            let (handle, stop) = stop::channel();
            running.push(Running { stop: handle, task: crate::io::spawn(source.run(stop)) });
        }
        for i in 0..20 {
            b.append(&format!("app{i}"), &format!("{i}\n"));
        }
        let mut bodies = testing::expect_bodies(&b.io, &*b.channel, 20).await;
        bodies.sort_by_key(|t| t.parse::<u32>().unwrap());
        assert_eq!(bodies, (0..20).map(|i| i.to_string()).collect::<Vec<_>>());
        for running in running {
            running.stop().await;
        }
        // All shards' files, by the last one to finish.
        for i in 0..20 {
            assert_eq!(b.position_of(&format!("app{i}")).await, Some(if i < 10 { 2 } else { 3 }));
        }
    });
}

#[test]
fn what_cannot_be_opened_is_said() {
    bench(|b| async move {
        let dir = b.dir.path().display().to_string();
        fs::create_dir(b.path("logs")).unwrap();
        b.append("bad.json", "{");
        for (lines, property, message) in [
            (format!("filegroups.f1 = {dir}/missing/a"), "filegroups.", "cannot look into the directory"),
            (format!("filegroups.f1 = {dir}/logs"), "filegroups.", "is a directory, not a file"),
            (
                format!("filegroups.f1 = {dir}/x\npositionFile = {dir}/bad.json"),
                "positionFile",
                "not a JSON array",
            ),
            (format!("filegroups.f1 = {dir}/x\npositionFile = {dir}/logs"), "positionFile", "is a directory"),
        ] {
            let config = b.config(&lines);
            let cx = testing::source_context(&b.io, b.channel.clone());
            let error = config.open(cx).await.map(drop).unwrap_err();
            assert_eq!(error.property, property, "{lines}");
            assert!(error.message.contains(message) && error.hint.is_some(), "{lines}: {error:?}");
        }
    });
}
