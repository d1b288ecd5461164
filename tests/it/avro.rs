//! Hops between two of ours, and the command line client.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use crate::util::{Start, eventually, free_port, millrace, scratch};

/// An avro source in front of a file_roll sink.
fn receiver(port: u16, out: &Path) -> String {
    format!(
        "a1.sources = r1\na1.channels = c1\na1.sinks = k1\na1.sources.r1.type = avro\na1.sources.r1.channels = c1\n\
         a1.sources.r1.bind = 127.0.0.1\na1.sources.r1.port = {port}\na1.channels.c1.type = memory\n\
         a1.channels.c1.capacity = 100000\na1.channels.c1.transactionCapacity = 1000\na1.sinks.k1.type = file_roll\n\
         a1.sinks.k1.channel = c1\na1.sinks.k1.sink.rollInterval = 0\na1.sinks.k1.sink.directory = {}\n",
        out.display()
    )
}

fn received(out: &Path) -> Vec<String> {
    let files = fs::read_dir(out).into_iter().flatten().flatten();
    let texts = files.map(|f| fs::read_to_string(f.path()).unwrap_or_default());
    let mut lines: Vec<String> =
        texts.flat_map(|t| t.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    lines.sort();
    lines
}

fn wait_for(out: &Path, mut expected: Vec<String>) {
    expected.sort();
    eventually("the lines arrive", || (received(out).len() >= expected.len()).then_some(()));
    assert!(received(out) == expected, "{} lines instead of {}", received(out).len(), expected.len());
}

#[test]
fn the_command_line_client_sends_files_directories_and_standard_input() {
    let dir = scratch();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let port = free_port();
    let agent = Start::new(dir.path(), receiver(port, &out)).started();
    let port = port.to_string();

    let file: Vec<String> = (0..5000).map(|i| format!("file {i}")).collect();
    // The last line has no end, and one ends as on Windows.
    fs::write(dir.path().join("lines"), file.join("\n").replacen('\n', "\r\n", 1)).unwrap();
    let run = |args: &[&str]| {
        let mut command = millrace();
        command.current_dir(dir.path()).arg("avro-client").args(args);
        command
    };
    let sent = run(&["-H", "127.0.0.1", "-p", &port, "-F", "lines"]).output().unwrap();
    assert!(sent.status.success(), "{sent:?}");

    fs::create_dir(dir.path().join("spool")).unwrap();
    fs::write(dir.path().join("spool/a"), "spool a\n").unwrap();
    fs::write(dir.path().join("spool/b"), "spool b\n").unwrap();
    fs::write(dir.path().join("spool/c.COMPLETED"), "not again\n").unwrap();
    fs::write(dir.path().join("rpc.properties"), format!("hosts = h1 h2\nhosts.h1 = 127.0.0.1:{}\nhosts.h2 = localhost:{port}\nclient.type = default_failover\ncompression-type = zstd\n", free_port())).unwrap();
    let sent = run(&["-P", "rpc.properties", "--dirname", "spool"]).output().unwrap();
    assert!(sent.status.success(), "{sent:?}");
    assert!(dir.path().join("spool/a.COMPLETED").exists() && dir.path().join("spool/b.COMPLETED").exists());

    let mut child = run(&["--host", "127.0.0.1", "--port", &port]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"standard input\n").unwrap();
    assert!(child.wait().unwrap().success());

    let others = ["spool a", "spool b", "standard input"].map(str::to_owned);
    wait_for(&out, file.into_iter().chain(others).collect());
    assert!(agent.stop().success());

    let sent = run(&["-H", "127.0.0.1", "-p", &port, "-F", "lines"]).output().unwrap();
    assert_eq!(sent.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&sent.stderr).contains("cannot connect to 127.0.0.1"), "{sent:?}");
    let sent = run(&["-F", "lines"]).output().unwrap();
    assert_eq!(sent.status.code(), Some(2));
}

#[test]
fn what_a_hop_takes_it_delivers() {
    for compression in ["none", "zstd"] {
        let (sender, target) = (scratch(), scratch());
        let out = target.path().join("out");
        fs::create_dir(&out).unwrap();
        let (netcat, port) = (free_port(), free_port());
        let receiving = Start::new(target.path(), receiver(port, &out)).started();
        let flow = format!(
            "a1.sources = r1\na1.channels = c1\na1.sinks = k1\na1.sources.r1.type = netcat\na1.sources.r1.channels = c1\n\
             a1.sources.r1.bind = 127.0.0.1\na1.sources.r1.port = {netcat}\na1.sources.r1.ack-every-event = false\n\
             a1.channels.c1.type = memory\na1.channels.c1.capacity = 100000\na1.sinks.k1.type = avro\na1.sinks.k1.channel = c1\n\
             a1.sinks.k1.hostname = 127.0.0.1\na1.sinks.k1.port = {port}\na1.sinks.k1.compression-type = {compression}\n"
        );
        let sending = Start::new(sender.path(), flow).started();
        let lines: Vec<String> = (0..20_000).map(|i| format!("event {i}")).collect();
        crate::util::Client::connect(netcat).send(format!("{}\n", lines.join("\n")));
        wait_for(&out, lines);
        if compression == "zstd" {
            assert!(sending.log().contains("compressed with zstd"), "{}", sending.log());
        }
        assert!(sending.stop().success());
        assert!(receiving.stop().success());
    }
}
