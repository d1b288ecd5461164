//! The first flow of Flume's guide, and what an operator does wrong on the first day.

use std::fs;
use std::net::TcpListener;

use crate::util::{Client, Start, eventually, free_port, millrace, output, scratch};

/// Flume's user guide, "A simple example", with another port.
fn guide(port: u16) -> String {
    format!(
        "# example.conf: A single-node Flume configuration\n\n\
         # Name the components on this agent\n\
         a1.sources = r1\na1.sinks = k1\na1.channels = c1\n\n\
         # Describe/configure the source\n\
         a1.sources.r1.type = netcat\na1.sources.r1.bind = localhost\na1.sources.r1.port = {port}\n\n\
         # Describe the sink\n\
         a1.sinks.k1.type = logger\n\n\
         # Use a channel which buffers events in memory\n\
         a1.channels.c1.type = memory\na1.channels.c1.capacity = 1000\na1.channels.c1.transactionCapacity = 100\n\n\
         # Bind the source and sink to the channel\n\
         a1.sources.r1.channels = c1\na1.sinks.k1.channel = c1\n"
    )
}

#[test]
fn the_guides_example_runs_unchanged() {
    let (dir, port) = (scratch(), free_port());
    let agent = Start::new(dir.path(), guide(port)).arg("-Dflume.root.logger=INFO,console").started();
    let mut telnet = Client::connect(port);
    assert_eq!(telnet.send("hello_world\r\n").answer(), "OK");
    assert_eq!(telnet.send("are you ready?\r\n").answer(), "OK");
    agent
        .wait_log("Event: { headers:{} body: 68 65 6C 6C 6F 5F 77 6F 72 6C 64 0D             hello_world. }");
    agent.wait_log(
        "Event: { headers:{} body: 61 72 65 20 79 6F 75 20 72 65 61 64 79 3F 0D    are you ready?. }",
    );
    assert_eq!(agent.stop().code(), Some(0));
}

#[test]
fn the_published_command_line_with_its_typo_starts_it() {
    let (dir, port) = (scratch(), free_port());
    fs::write(dir.path().join("netcat.conf"), guide(port)).unwrap();
    let mut command = crate::util::flume_ng();
    command.current_dir(dir.path()).args([
        "agent",
        "--conf",
        "conf",
        "--conf-file",
        "netcat.conf",
        "--name",
        "a1",
        "-Dflume.root.logger==INFO,console",
    ]);
    let log = fs::File::create(dir.path().join("log")).unwrap();
    let mut child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    assert_eq!(Client::connect(port).send("hello_world\r\n").answer(), "OK");
    let text = || fs::read_to_string(dir.path().join("log")).unwrap();
    eventually("the event is logged", || text().contains("hello_world. }").then_some(()));
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Runs a flow that must be refused: exit code and everything it said.
fn refused(dir: &std::path::Path, flow: &str) -> (i32, String) {
    let file = dir.join("flow.properties");
    fs::write(&file, flow).unwrap();
    let mut command = millrace();
    command.current_dir(dir).args(["agent", "-n", "a1", "-c", ".", "-f", "flow.properties"]).env("HOME", dir);
    let (code, out, err) = output(command);
    (code, out + &err)
}

fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "does not say {part:?}:\n{text}");
    }
}

#[test]
fn bad_values_are_refused_with_place_and_remedy() {
    let dir = scratch();
    let cases: &[(&str, &str, &[&str])] = &[
        (
            "r1.port = PORT",
            "r1.port = 99999",
            &["a1.sources.r1.port = \"99999\"", "flow.properties:11", "1 to 65535"],
        ),
        ("r1.type = netcat", "r1.type = netcatt", &["a1.sources.r1.type = \"netcatt\"", "netcat ?"]),
        ("c1.type = memory", "c1.type = memroy", &["a1.channels.c1.type = \"memroy\"", "memory ?"]),
        ("k1.type = logger", "k1.type = loger", &["a1.sinks.k1.type = \"loger\"", "logger ?"]),
        ("r1.channels = c1", "r1.channels = c2", &["a1.sources.r1.channels", "\"c2\"", "c1"]),
        ("k1.channel = c1", "k1.chanel = c1", &["a1.sinks.k1.channel", "required"]),
    ];
    for (good, bad, parts) in cases {
        let flow = guide(44444)
            .replace("r1.port = 44444", "r1.port = PORT")
            .replace(good, bad)
            .replace("PORT", "44444");
        let (code, text) = refused(dir.path(), &flow);
        assert_eq!(code, 2, "{bad}:\n{text}");
        says(&text, parts);
    }
}

#[test]
fn a_port_in_use_is_refused_and_named() {
    let (dir, port) = (scratch(), free_port());
    let taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let (code, text) = refused(dir.path(), &guide(port));
    assert_eq!(code, 1, "{text}");
    says(&text, &["a1.sources.r1.port", &port.to_string(), "in use", "ss -ltnp"]);
    drop(taken);
}

#[test]
fn a_second_agent_on_the_port_is_refused_although_shards_share_it() {
    let (dir, other, port) = (scratch(), scratch(), free_port());
    let first = Start::new(dir.path(), guide(port)).arg("--shards").arg("2").started();
    let (code, text) = refused(other.path(), &guide(port));
    assert_eq!(code, 1, "{text}");
    says(&text, &["in use"]);
    assert_eq!(Client::connect(port).send("still here\n").answer(), "OK");
    assert_eq!(first.stop().code(), Some(0));
}

#[test]
fn every_complaint_comes_in_one_pass() {
    let dir = scratch();
    let flow = guide(44444)
        .replace("port = 44444", "port = x")
        .replace("c1.type = memory", "c1.type = memroy")
        .replace("k1.type = logger", "k1.type = loger");
    let (code, text) = refused(dir.path(), &flow);
    assert_eq!(code, 2);
    says(&text, &["a1.sources.r1.port", "a1.channels.c1.type", "a1.sinks.k1.type"]);
}
