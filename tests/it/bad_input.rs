//! What is wrong at the start is said: component, property, value, what to do; and the exit code tells
//! a bad flow (2) from a world that does not fit it (1).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::util::{Start, millrace, output, scratch};

const REST: &str = "a1.sinks = k1\na1.sinks.k1.type = null\na1.sinks.k1.channel = c1\n";

fn spool(dir: &Path, spool_dir: &str, channel: &str) -> String {
    let flow = format!(
        "a1.sources = r1\na1.channels = c1\na1.sources.r1.type = spooldir\na1.sources.r1.channels = c1\n\
         a1.sources.r1.spoolDir = {spool_dir}\n{channel}{REST}"
    );
    flow.replace("{dir}", &dir.display().to_string())
}

const MEMORY: &str = "a1.channels.c1.type = memory\n";
const FILE: &str = "a1.channels.c1.type = file\na1.channels.c1.checkpointDir = {dir}/checkpoint\n\
     a1.channels.c1.dataDirs = {dir}/data\na1.channels.c1.minimumRequiredSpace = 1048576\n";

fn tail(path: &str) -> String {
    format!(
        "a1.sources = r1\na1.channels = c1\na1.sources.r1.type = TAILDIR\na1.sources.r1.channels = c1\n\
         a1.sources.r1.filegroups = g\na1.sources.r1.filegroups.g = {path}\n\
         a1.sources.r1.positionFile = {{dir}}/state/positions.json\n{MEMORY}{REST}"
    )
}

/// Runs the agent, which must end by itself; the exit code and what it says.
fn run(dir: &Path, flow: &str) -> (i32, String) {
    let path = dir.join("bad.properties");
    fs::write(&path, flow.replace("{dir}", &dir.display().to_string())).expect("the flow");
    let mut command = millrace();
    command.current_dir(dir).env("HOME", dir).args(["agent", "-n", "a1", "-c", ".", "-f"]).arg(&path);
    let (code, _, error) = output(command);
    (code, error)
}

/// Each part must be in the message.
fn says(dir: &Path, flow: &str, code: i32, parts: &[&str]) {
    let (found, message) = run(dir, flow);
    for part in parts {
        let part = part.replace("{dir}", &dir.display().to_string());
        assert!(message.contains(&part), "{part:?} is not said by:\n{message}\nflow:\n{flow}");
    }
    assert_eq!(found, code, "{message}");
    assert!(!message.contains("panicked"), "{message}");
}

#[test]
fn a_flow_that_cannot_be_is_told_with_two() {
    let dir = scratch();
    let good = spool(dir.path(), "{dir}", MEMORY);
    for (from, to, parts) in [
        (
            "= spooldir",
            "= spoldir",
            &["a1.sources.r1.type = \"spoldir\"", "unknown source type", "= spooldir"][..],
        ),
        ("r1.channels = c1", "r1.channels = c9", &["a1.sources.r1.channels = \"c9\"", "no channel", "= c1"]),
        ("k1.channel = c1", "k1.channel = c9", &["a1.sinks.k1.channel = \"c9\"", "no channel", "= c1"]),
        ("a1.sources.r1.spoolDir", "# a1.sources.r1.spoolDir", &["a1.sources.r1.spoolDir", "add"]),
        ("= memory", "= memory\na1.channels.c1.capacity = many", &["a1.channels.c1.capacity = \"many\""]),
    ] {
        assert!(good.contains(from), "{from}");
        says(dir.path(), &good.replace(from, to), 2, parts);
    }
    let relative = tail("logs/app.log");
    says(
        dir.path(),
        &relative,
        2,
        &["a1.sources.r1.filegroups.g = \"logs/app.log\"", "not an absolute path"],
    );
}

#[test]
fn what_is_not_there_or_not_a_file_is_told_with_one() {
    let dir = scratch();
    fs::create_dir(dir.path().join("logs")).expect("a directory");
    fs::write(dir.path().join("a.txt"), "a\n").expect("a file");
    let spool = |spool_dir: &str| spool(dir.path(), spool_dir, MEMORY);
    for (flow, parts) in [
        (spool("{dir}/none"), &["a1.sources.r1.spoolDir = \"{dir}/none\"", "mkdir -p {dir}/none"][..]),
        (spool("{dir}/a.txt"), &["a1.sources.r1.spoolDir = \"{dir}/a.txt\"", "not a directory"]),
        (tail("{dir}/none/app.log"), &["a1.sources.r1.filegroups.", "{dir}/none", "mkdir -p {dir}/none"]),
        (tail("{dir}/logs"), &["a1.sources.r1.filegroups.", "is a directory, not a file", "{dir}/logs/.*"]),
    ] {
        says(dir.path(), &flow, 1, parts);
    }
}

#[test]
fn an_unreadable_file_is_told_with_one() {
    let dir = scratch();
    let secret = dir.path().join("secret.log");
    fs::write(&secret, "a\n").expect("a file");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).expect("chmod");
    if fs::File::open(&secret).is_ok() {
        // Root may read everything, except what is no file to read from.
        let socket = dir.path().join("socket.log");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        let flow = tail("{dir}/socket.log");
        says(dir.path(), &flow, 1, &["a1.sources.r1.filegroups.", "cannot read {dir}/socket.log"]);
        return;
    }
    says(
        dir.path(),
        &tail("{dir}/secret.log"),
        1,
        &["a1.sources.r1.filegroups.", "{dir}/secret.log", "chmod"],
    );
}

#[test]
fn a_disk_that_is_full_at_the_start_is_told_with_one() {
    let dir = scratch();
    // More than any disk has.
    let flow = spool(dir.path(), "{dir}/in", FILE).replace("= 1048576", "= 9000000000000000");
    fs::create_dir(dir.path().join("in")).expect("a directory");
    fs::write(dir.path().join("in/a.txt"), "a\n").expect("a file");
    let parts = ["a1.channels.c1.minimumRequiredSpace = \"9000000000000000\"", "bytes left", "make room"];
    says(dir.path(), &flow, 1, &parts);
    // Nothing was taken, so nothing is lost.
    assert!(dir.path().join("in/a.txt").exists());
    let logs = fs::read_dir(dir.path().join("data"))
        .map_or(0, |d| d.flatten().filter(|e| e.file_name().to_string_lossy().starts_with("shard-")).count());
    assert_eq!(logs, 0, "a log was begun");
}

#[test]
fn a_channel_with_logs_starts_on_a_full_disk_so_that_it_can_be_drained() {
    let dir = scratch();
    fs::create_dir(dir.path().join("in")).expect("a directory");
    let flow = spool(dir.path(), "{dir}/in", FILE);
    let agent = Start::new(dir.path(), flow.clone()).started();
    assert_eq!(agent.stop().code(), Some(0));
    let agent = Start::new(dir.path(), flow.replace("= 1048576", "= 9000000000000000")).started();
    agent.wait_log("bytes left");
    assert_eq!(agent.stop().code(), Some(0));
}

#[test]
fn a_second_process_on_a_channels_directory_is_told_with_one() {
    let (dir, other) = (scratch(), scratch());
    fs::create_dir(dir.path().join("in")).expect("a directory");
    let flow = spool(dir.path(), "{dir}/in", FILE);
    let first = Start::new(dir.path(), flow.clone()).started();
    // A spool directory of its own, so that the channel is all they share.
    let theirs = format!("spoolDir = {}", other.path().display());
    let flow = flow.replace(&format!("spoolDir = {}/in", dir.path().display()), &theirs);
    says(dir.path(), &flow, 1, &["a1.channels.c1.", "already locked", "stop the other agent"]);
    assert_eq!(first.stop().code(), Some(0));
}
