//! `millrace channel …` on logs that the library wrote, whole and damaged.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use millrace::channel::file::payload::Part;
use millrace::event::{BatchBuilder, Separator};
use millrace::io::{EngineKind, Io, run_local};
use millrace::wal::cipher::{Key, Keys};
use millrace::wal::{Durability, Log, LogOptions, OnDamage};

use crate::util::{flume_ng, millrace, output, scratch};

fn options(directory: &Path) -> LogOptions {
    LogOptions {
        directory: directory.to_owned(),
        channel: "c1".into(),
        shard: 0,
        segment_size_max: 64 << 10,
        transaction_size_max: 1 << 20,
        minimum_space: 1 << 20,
        durability: Durability::Commit,
        state_interval: Duration::from_secs(30),
        copies: Vec::new(),
        on_damage: OnDamage::Stop,
        take_only: false,
        keys: Arc::default(),
    }
}

/// Ten events of 300 bytes in one transaction: `line <n>`, a blank, filling.
async fn put_ten(log: &Log, from: usize) {
    let mut builder = BatchBuilder::new(Separator::Newline);
    for n in from..from + 10 {
        builder.push(format!("line {n} {}", "x".repeat(300)).as_bytes());
        builder.header("n", &n.to_string());
    }
    builder.common_mut().insert("host", "web1");
    let batch = builder.finish();
    let mut parts = Vec::new();
    Part::split(&batch, &mut parts);
    let mark = ("k".into(), from.to_string().into());
    log.append(&parts, &[mark]).await.expect("append").await.expect("commit");
}

fn run<F: Future<Output = T>, T>(body: impl FnOnce(Io) -> F) -> T {
    run_local(EngineKind::Portable, body).expect("an engine")
}

/// A log of `tens` x 10 events below `dir`, of which the first `acked` are acknowledged.
fn make(dir: &Path, tens: usize, acked: u64) -> PathBuf {
    let shard = dir.join("shard-0");
    run(|io| async move {
        let (log, _) = Log::open(&io, options(&shard)).await.expect("open");
        for ten in 0..tens {
            put_ten(&log, ten * 10).await;
        }
        log.next().await.expect("next");
        log.ack(0, acked);
        log.acked();
        log.close().await;
    });
    dir.join("shard-0")
}

fn channel(args: &[&str]) -> (i32, String, String) {
    let mut command = millrace();
    command.arg("channel").args(args);
    output(command)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Numbers of the events that `cat` prints, and the positions of their frames.
fn cat(dir: &Path) -> Vec<(u64, u64)> {
    let (code, out, err) = channel(&["cat", "--json", text(dir)]);
    assert_eq!(code, 0, "{err}");
    let events = out.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    events
        .map(|event| {
            let body = event["body"].as_str().expect("a body");
            let number: u64 = body.split(' ').nth(1).expect("a number").parse().expect("a number");
            assert_eq!(event["headers"]["n"], number.to_string());
            assert_eq!(event["headers"]["host"], "web1");
            (number, event["position"].as_u64().expect("a position"))
        })
        .collect()
}

fn numbers(dir: &Path) -> Vec<u64> {
    cat(dir).into_iter().map(|(number, _)| number).collect()
}

fn flip(shard: &Path, needle: &str) -> PathBuf {
    for entry in fs::read_dir(shard).expect("the shard").flatten() {
        let path = entry.path();
        let mut bytes = fs::read(&path).expect("a file");
        if path.extension().is_some_and(|e| e == "seg")
            && let Some(at) = bytes.windows(needle.len()).position(|w| w == needle.as_bytes())
        {
            bytes[at] ^= 1;
            fs::write(&path, bytes).expect("write");
            return path;
        }
    }
    panic!("{needle} is nowhere below {}", shard.display());
}

#[test]
fn status_and_cat() {
    let dir = scratch();
    make(dir.path(), 100, 15);
    let (code, out, err) = channel(&["status", "--json", text(dir.path())]);
    assert_eq!((code, err.as_str()), (0, ""));
    let status: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(status["events"], 985);
    assert_eq!(status["shard"], "shard-0");
    assert!(status["bytes"].as_u64().is_some_and(|b| b > 985 * 300 && b < 2_000_000), "{status}");
    assert!(status["oldestAgeSeconds"].as_u64().is_some_and(|s| s < 600), "{status}");
    assert!(status["files"].as_u64().is_some_and(|f| f > 3), "{status}");
    let (code, out, _) = channel(&["status", text(dir.path())]);
    assert!(code == 0 && out.contains("shard-0") && out.contains("985"), "{out}");

    assert_eq!(numbers(dir.path()), (15..1000).collect::<Vec<_>>());
    let (code, out, _) = channel(&["cat", "--limit", "2", "--all", text(&dir.path().join("shard-0"))]);
    assert_eq!((code, out.lines().count()), (0, 2));
    // The first file may have been given back by now.
    assert!(out.contains(" shard-0 #") && out.contains("host=web1} line "), "{out}");

    let to = dir.path().join("bodies");
    let (code, out, err) = channel(&["export", text(dir.path()), "--to", text(&to)]);
    assert!(code == 0 && out.starts_with("985 events written"), "{out}{err}");
    let bodies = fs::read_to_string(&to).expect("bodies");
    assert_eq!(bodies.lines().count(), 985);
    assert!(bodies.starts_with("line 15 xxx") && bodies.ends_with("x\n"));
    let (code, _, err) = channel(&["export", text(dir.path()), "--to", text(&to)]);
    assert!(code == 2 && err.contains("does not exist"), "{err}");
}

#[test]
fn beside_an_owner() {
    let dir = scratch();
    let shard = dir.path().join("shard-0");
    run(|io| async move {
        let (log, _) = Log::open(&io, options(&shard)).await.expect("open");
        put_ten(&log, 0).await;
        let path = shard.clone();
        let looks = tokio::task::spawn_blocking(move || {
            assert_eq!(numbers(&path), (0..10).collect::<Vec<_>>());
            (channel(&["status", "--json", text(&path)]), channel(&["fsck", text(&path)]))
        });
        let (status, fsck) = looks.await.expect("looks");
        assert!(status.0 == 0 && status.1.contains("\"events\":10"), "{status:?}");
        assert!(fsck.0 == 2 && fsck.2.contains("stop the agent first"), "{fsck:?}");
        log.close().await;
    });
}

#[test]
fn damage_is_found_and_the_rest_salvaged() {
    let dir = scratch();
    let old = dir.path().join("old");
    let shard = make(&old, 100, 0);
    let (code, out, err) = channel(&["fsck", text(&old)]);
    assert!(code == 0 && out.contains("clean: 1000 events"), "{out}{err}");
    let mut tool = flume_ng();
    tool.args(["tool", "fcintegritytool", "-l", text(&old)]);
    assert_eq!(output(tool).0, 0);

    let file = flip(&shard, "line 505 ");
    let (code, out, err) = channel(&["fsck", text(&old)]);
    assert!(code == 1 && out.contains("DAMAGED") && out.contains(text(&file)), "{out}{err}");
    assert!(out.contains("with 10 events") && err.contains("10 waiting events cannot be read"), "{out}{err}");
    assert!(err.contains("millrace channel salvage"), "{err}");
    let (code, out, _) = channel(&["cat", text(&old)]);
    assert_eq!((code, out.lines().count()), (1, 990));

    let new = dir.path().join("new");
    let (code, out, err) = channel(&["salvage", text(&old), "--to", text(&new)]);
    assert!(code == 0 && out.contains("990 events copied"), "{out}{err}");
    assert!(out.contains("1 place with 10 events"), "{out}");
    assert_eq!(numbers(&new), (0..500).chain(510..1000).collect::<Vec<_>>());
    let (code, out, _) = channel(&["fsck", text(&new)]);
    assert!(code == 0 && out.contains("clean"), "{out}");
    // The sources' positions came along.
    let shard = new.join("shard-0");
    run(|io| async move {
        let (log, found) = Log::open(&io, options(&shard)).await.expect("open");
        assert_eq!(found.events, 990);
        log.with_marks(|marks| assert_eq!(marks.iter().next().expect("a mark").1, "990"));
        log.close().await;
    });
    let (code, _, err) = channel(&["salvage", text(&old), "--to", text(&new)]);
    assert!(code == 2 && err.contains("exists already"), "{err}");
}

#[test]
fn a_lost_header_and_a_lost_state_are_told() {
    let dir = scratch();
    let shard = make(dir.path(), 100, 0);
    fs::write(shard.join("state"), [7; 8192]).expect("write");
    let file = shard.join("0000000002.seg");
    let mut bytes = fs::read(&file).expect("a segment");
    bytes[..100].fill(0xff);
    fs::write(&file, bytes).expect("write");
    let (code, out, _) = channel(&["fsck", text(dir.path())]);
    assert!(code == 1 && out.contains("consumer's position is missing"), "{out}");
    assert!(out.contains("0000000002.seg: the header is damaged"), "{out}");
    assert_eq!(numbers(dir.path()).len(), 1000);
    assert_eq!(channel(&["status", text(dir.path())]).0, 1);
}

#[test]
fn a_log_is_cut_with_a_backup() {
    for cut_at in [0_u64, 10, 500, 990] {
        let dir = scratch();
        let shard = make(dir.path(), 100, 0);
        let place = cat(dir.path()).iter().find(|(n, _)| *n == cut_at).expect("the event").1;
        let (code, _, err) = channel(&["truncate-to", text(&shard), "--position", &(place + 8).to_string()]);
        assert!(code == 2 && err.contains(&format!("use --position {place}")), "{err}");
        let (code, out, err) = channel(&["truncate-to", text(dir.path()), "--position", &place.to_string()]);
        assert!(code == 0 && out.contains("kept in"), "{out}{err}");
        assert!(out.contains(&format!("{} events", 1000 - cut_at)), "{out}");
        assert_eq!(numbers(dir.path()), (0..cut_at).collect::<Vec<_>>());
        let (code, out, _) = channel(&["fsck", text(dir.path())]);
        assert_eq!(code, 0, "{out}");
        // An agent goes on from there.
        run(|io| async move {
            let (log, found) = Log::open(&io, options(&shard)).await.expect("open");
            assert_eq!(found.events, cut_at);
            put_ten(&log, cut_at as usize).await;
            log.close().await;
        });
        assert_eq!(numbers(dir.path()), (0..cut_at + 10).collect::<Vec<_>>());
        let (code, out, _) = channel(&["fsck", text(dir.path())]);
        assert_eq!(code, 0, "{out}");
    }
    let dir = scratch();
    let shard = make(dir.path(), 1, 0);
    let (code, _, err) = channel(&["truncate-to", text(&shard), "--position", "99999999"]);
    assert!(code == 2 && err.contains("ends at position"), "{err}");
}

#[test]
fn other_directories_are_refused() {
    let dir = scratch();
    let (code, _, err) = channel(&["status", text(dir.path())]);
    assert!(code == 2 && err.contains("holds no file channel"), "{err}");
    fs::write(dir.path().join("log-1"), "").expect("write");
    let (code, _, err) = channel(&["cat", text(dir.path())]);
    assert!(code == 2 && err.contains("millrace channel import"), "{err}");
    let (code, _, err) = channel(&["fsck", text(&dir.path().join("nowhere"))]);
    assert!(code == 2 && err.contains("cannot be read"), "{err}");
}

/// Copies a directory written by Apache Flume, so that a test may change it.
fn flume_channel(name: &str, to: &Path) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/flume-file-channel").join(name);
    for file in crate::util::files(&from) {
        let target = to.join(file.strip_prefix(&from).expect("below"));
        fs::create_dir_all(target.parent().expect("a parent")).expect("a directory");
        fs::copy(&file, &target).expect("a copy");
    }
}

#[test]
fn channels_of_flume_are_imported() {
    for name in
        ["fc-checkpoint", "fc-no-checkpoint", "fc-killed", "fc-killed-inflight", "fc-interrupted-roll"]
    {
        let dir = scratch();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        flume_channel(name, &old);
        let (code, out, err) = channel(&["import", text(&old), "--to", text(&new)]);
        assert!(code == 0 && out.contains("7 events imported"), "{name}: {out}{err}");
        assert_eq!(out.contains("without a checkpoint"), !name.contains("killed") && name != "fc-checkpoint");
        let (code, out, err) = channel(&["cat", "--json", text(&new)]);
        assert_eq!(code, 0, "{err}");
        let events = out.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
        for (event, n) in events.zip(3..) {
            assert_eq!(event["body"], format!("{n:010} xxxxxxxxx"), "{name}");
            assert_eq!(event["headers"], serde_json::json!({"n": n.to_string(), "host": "web1"}), "{name}");
        }
        assert_eq!(out.lines().count(), 7);
        assert_eq!(channel(&["fsck", text(&new)]).0, 0);
        // Once more, from the data directory; the new one is taken.
        let data = old.join("data");
        let (code, _, err) = channel(&["import", text(&data), "--to", text(&new)]);
        assert!(code == 2 && err.contains("exists already"), "{err}");
    }
}

/// Three logs under three keys of a Java key store, as Flume wrote them.
#[test]
fn an_encrypted_channel_of_flume_is_imported() {
    let dir = scratch();
    let store = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/keystore/flume.jceks");
    fs::write(dir.path().join("store"), "storePassword").expect("a password");
    let mut flow = format!(
        "a1.sources = r1\na1.sources.r1.type = seq\na1.sources.r1.channels = c1\na1.channels = c1\na1.channels.c1.type = file\n\
         a1.channels.c1.encryption.activeKey = key-1\na1.channels.c1.encryption.cipherProvider = AESCTRNOPADDING\n\
         a1.channels.c1.encryption.keyProvider = JCEKSFILE\n\
         a1.channels.c1.encryption.keyProvider.keyStoreFile = {}\n\
         a1.channels.c1.encryption.keyProvider.keyStorePasswordFile = {}\n\
         a1.channels.c1.encryption.keyProvider.keys = key-0 key-1 key-2\n",
        text(&store),
        text(&dir.path().join("store")),
    );
    for key in ["key-0", "key-1", "key-2"] {
        let password = dir.path().join(key);
        fs::write(&password, format!("keyPassword{key}")).expect("a password");
        let line =
            format!("a1.channels.c1.encryption.keyProvider.keys.{key}.passwordFile = {}\n", text(&password));
        flow.push_str(&line);
    }
    let with_keys = dir.path().join("flow.properties");
    fs::write(&with_keys, &flow).expect("a flow");
    let keys = ["--keys-of", "a1.c1", "--flow", text(&with_keys)];
    let old_keys = ["--old-keys-of", "a1.c1", "--old-flow", text(&with_keys)];
    let old = dir.path().join("old");
    flume_channel("fc-encrypted", &old);
    let import = |to: &str, keys: &[&str]| {
        let to = dir.path().join(to);
        let (code, out, err) = channel(&[&["import", text(&old), "--to", text(&to)], keys].concat());
        (code, format!("{out}{err}"), to)
    };

    let (code, said, to) = import("none", &[]);
    assert!(
        code == 2 && said.contains("is encrypted with key \"key-") && said.contains("--keys-of"),
        "{said}"
    );
    assert!(!to.exists());
    // With the old one's keys only to read, and without its checkpoint; and as the flow has them, encrypted again.
    for (name, keys, cat_keys) in [("plain", &old_keys, &[][..]), ("encrypted", &keys, &keys[..])] {
        let (code, said, to) = import(name, keys);
        assert!(code == 0 && said.contains("7 events imported"), "{name}: {said}");
        assert_eq!(said.contains("without a checkpoint"), name == "encrypted", "{said}");
        let (code, out, err) = channel(&[&["cat", "--json", text(&to)], cat_keys].concat());
        assert_eq!((code, out.lines().count()), (0, 7), "{name}: {err}");
        for (line, n) in out.lines().zip(3..) {
            let event: serde_json::Value = serde_json::from_str(line).expect("JSON");
            assert_eq!(event["body"], format!("{n:010} xxxxxxxxx"), "{name}");
            assert_eq!(event["headers"], serde_json::json!({"n": n.to_string(), "host": "web1"}), "{name}");
        }
        assert_eq!(channel(&["cat", text(&to)]).0, if name == "plain" { 0 } else { 2 });
        let _ = fs::remove_dir_all(old.join("checkpoint"));
    }

    fs::write(dir.path().join("key-0"), "wrong").expect("a password");
    let (code, said, to) = import("wrong", &keys);
    assert!(code == 2 && said.contains("key key-0: the password does not fit") && !to.exists(), "{said}");
    fs::write(dir.path().join("key-0"), "keyPasswordkey-0").expect("a password");
    // Another key of the same name: CTR opens everything, and what comes out is nonsense.
    let meta = old.join("data/log-1.meta");
    let mut bytes = fs::read(&meta).expect("the metadata");
    let at = bytes.windows(5).position(|w| w == b"key-0").expect("its key");
    bytes[at + 4] = b'1';
    fs::write(&meta, bytes).expect("write");
    let (code, said, to) = import("other", &keys);
    assert!(code == 2 && said.contains("log-1") && said.contains("nonsense") && !to.exists(), "{said}");
}

#[test]
fn a_damaged_channel_of_flume_is_not_imported_in_silence() {
    let dir = scratch();
    let old = dir.path().join("old");
    flume_channel("fc-no-checkpoint", &old);
    let log = old.join("data/log-1");
    let mut bytes = fs::read(&log).expect("the log");
    let at = bytes.windows(10).position(|w| w == b"0000000006").expect("event 6");
    bytes[at + 12] ^= 1;
    fs::write(&log, bytes).expect("write");
    let new = dir.path().join("new");
    let (code, _, err) = channel(&["import", text(&old), "--to", text(&new)]);
    assert!(code == 1 && err.contains("checksum") && err.contains("--skip-damaged"), "{err}");
    let (code, out, err) = channel(&["import", text(&old), "--to", text(&new), "--skip-damaged"]);
    assert!(code == 0 && out.contains("6 events imported") && out.contains("1 event left out"), "{out}{err}");

    // A log whose second record starts with nonsense.
    let mut bytes = fs::read(&log).expect("the log");
    bytes[0x56] = 0x11;
    fs::write(&log, bytes).expect("write");
    let new = dir.path().join("other");
    let (code, out, err) = channel(&["import", text(&old), "--to", text(&new)]);
    assert!(code == 1 && out.contains("log-1: cannot be read from offset 86"), "{out}{err}");
    assert!(!new.exists() && err.contains("--skip-damaged"), "{err}");

    let (code, _, err) = channel(&["import", text(dir.path()), "--to", text(&new)]);
    assert!(code == 2 && err.contains("holds no file channel of Flume"), "{err}");
}

#[test]
fn an_encrypted_channel_opens_with_its_key() {
    let dir = scratch();
    let key = dir.path().join("c1.key");
    fs::write(&key, "5a".repeat(32)).expect("a key");
    let wrong = dir.path().join("wrong.key");
    fs::write(&wrong, "5b".repeat(32)).expect("a key");
    let shard = dir.path().join("data/shard-0");
    let keys = Keys(vec![Key::new("c1.key", vec![0x5a; 32]).expect("a key")]);
    run(|io| async move {
        let options = LogOptions { keys: Arc::new(keys), ..options(&shard) };
        let (log, _) = Log::open(&io, options).await.expect("open");
        put_ten(&log, 0).await;
        log.close().await;
    });
    let data = dir.path().join("data");
    let (code, out, _) = channel(&["status", "--json", text(&data)]);
    assert!(code == 0 && out.contains("\"events\":10"), "{out}");
    for args in [&["cat", text(&data)][..], &["cat", text(&data), "--key-file", text(&wrong)]] {
        let (code, out, err) = channel(args);
        assert!(code == 2 && out.is_empty() && err.contains("--key-file"), "{out}{err}");
    }
    let (code, out, err) =
        channel(&["cat", text(&data), "--key-file", text(&wrong), "--key-file", text(&key)]);
    assert!(code == 0 && out.lines().count() == 10 && out.contains("line 9 "), "{out}{err}");
    let (code, out, _) = channel(&["fsck", text(&data)]);
    assert!(code == 0 && out.contains("encrypted: only the checksums"), "{out}");
    let (code, out, _) = channel(&["fsck", text(&data), "--key-file", text(&key)]);
    assert!(code == 0 && !out.contains("encrypted"), "{out}");

    // The keys as the flow has them; what is salvaged is encrypted again.
    let flow = dir.path().join("flow.properties");
    let channel_of = format!(
        "a1.sources = r1\na1.sources.r1.type = seq\na1.sources.r1.channels = c1\na1.channels = c1\na1.channels.c1.type = file\na1.channels.c1.encryption.keyFile = {}\n",
        text(&key)
    );
    fs::write(&flow, channel_of).expect("a flow");
    let new = dir.path().join("new");
    let (code, out, err) =
        channel(&["salvage", text(&data), "--to", text(&new), "--keys-of", "a1.c1", "--flow", text(&flow)]);
    assert!(code == 0 && out.contains("10 events copied"), "{out}{err}");
    assert_eq!(channel(&["cat", text(&new)]).0, 2);
    let (code, out, _) = channel(&["cat", text(&new), "--key-file", text(&key)]);
    assert!(code == 0 && out.lines().count() == 10, "{out}");
}
