//! No password shows: not in complaints, not in the log, not in the metrics, not in `describe`.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use millrace::config::PropertySpec;
use millrace::registry;

use crate::util::{Start, free_port, millrace, output, scratch};

const PLANTED: &str = "hunter2-Zx";

/// A flow with one component of every kind; `lines` come last.
fn flow(source: &str, channel: &str, sink: &str, lines: &str) -> String {
    format!(
        "a1.sources = r1\na1.channels = c1\na1.sinks = k1\na1.sources.r1.channels = c1\na1.sinks.k1.channel = c1\n\
         a1.sources.r1.type = {source}\na1.channels.c1.type = {channel}\na1.sinks.k1.type = {sink}\n{lines}\n"
    )
}

/// Every secret property there is: a flow that has it, and its key below the agent.
fn planted() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut plant = |specs: &[&dyn PropertySpec], prefix: &str, flow: &dyn Fn(&str) -> String| {
        for spec in specs.iter().filter(|spec| spec.is_secret()) {
            let member = if spec.is_family() { "x" } else { "" };
            let key = format!("a1.{prefix}{}{member}", spec.name());
            // TLS on, so that the value is not only read but used.
            let ssl = if specs.iter().any(|s| s.name() == "ssl") {
                format!("a1.{prefix}ssl = true\n")
            } else {
                String::new()
            };
            found.push((flow(&format!("{ssl}{key} = {PLANTED}")), key));
        }
    };
    for entry in registry::SOURCES {
        plant(entry.properties, "sources.r1.", &|lines| flow(entry.class, "memory", "null", lines));
    }
    for entry in registry::SINKS {
        plant(entry.properties, "sinks.k1.", &|lines| flow("seq", "memory", entry.class, lines));
    }
    for entry in registry::CHANNELS {
        plant(entry.properties, "channels.c1.", &|lines| flow("seq", entry.class, "null", lines));
    }
    found
}

fn check(name: &str, text: &str, shown: &mut String) {
    let dir = scratch();
    let file = dir.path().join("flow.properties");
    fs::write(&file, text).unwrap();
    let mut command = millrace();
    command.args(["check", "-n", "a1", "-f"]).arg(&file);
    let (_, out, err) = output(command);
    assert!(!out.contains(PLANTED) && !err.contains(PLANTED), "{name}\n{out}{err}");
    shown.push_str(&out);
    shown.push_str(&err);
}

#[test]
fn no_complaint_shows_a_secret() {
    let planted = planted();
    assert!(planted.len() >= 8, "{planted:?}");
    let mut shown = String::new();
    for (text, key) in &planted {
        check(key, text, &mut shown);
        // A slip of the keyboard in the key does not give it away either, nor a component nobody listed.
        check(
            key,
            &text.replace(
                &format!("{key} ="),
                &format!("{}x{} =", &key[..key.len() - 1], &key[key.len() - 1..]),
            ),
            &mut shown,
        );
        check(
            key,
            &text.replace(
                &format!("{key} ="),
                &format!("{} =", key.replace(".r1.", ".r9.").replace(".k1.", ".k9.")),
            ),
            &mut shown,
        );
        check(key, &format!("{text}\n{key} = {PLANTED}again\n"), &mut shown);
    }
    assert!(shown.contains("[secret]"), "the complaints are about the secrets:\n{shown}");
}

#[test]
fn describe_knows_what_is_secret() {
    let mut command = millrace();
    command.args(["describe", "--markdown"]);
    let (_, page, _) = output(command);
    for (_, key) in planted() {
        let name = key.rsplit('.').next().unwrap();
        assert!(page.contains(name), "{name}");
    }
}

#[test]
fn a_running_agent_shows_no_secret() {
    let keystore = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/keystore/server.p12");
    let dir = scratch();
    let (port, metrics) = (free_port(), free_port());
    // The password of the test's store; and one that is wrong, in another flow.
    let text = |password: &str| {
        let lines = format!(
            "a1.sources.r1.bind = 127.0.0.1\na1.sources.r1.port = {port}\na1.sources.r1.ssl = true\n\
             a1.sources.r1.keystore = {keystore}\na1.sources.r1.keystore-password = {password}"
        );
        flow("avro", "memory", "null", &lines)
    };
    fs::write(dir.path().join("flume-env.sh"), format!("export SOME_TOKEN={PLANTED}\n")).unwrap();
    let agent = Start::new(dir.path(), text("changeit"))
        .arg("-Dflume.monitoring.type=http")
        .arg(format!("-Dflume.monitoring.port={metrics}"))
        .arg("-Dflume.root.logger=DEBUG,console")
        .arg(format!("-Djavax.net.ssl.trustStorePassword={PLANTED}"))
        .started();
    let mut seen = String::new();
    for path in ["/metrics", "/metrics/prometheus"] {
        let mut stream = TcpStream::connect(("127.0.0.1", metrics)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").unwrap();
        stream.read_to_string(&mut seen).unwrap();
    }
    assert!(seen.contains("CHANNEL.c1"), "{seen}");
    seen += &agent.log();
    assert!(seen.contains("SOME_TOKEN"), "flume-env.sh is named by its names:\n{seen}");
    agent.stop();

    let mut agent = Start::new(dir.path(), text(PLANTED)).spawn();
    assert!(!agent.wait().success());
    seen += &agent.log();
    assert!(seen.contains("keystore"), "the wrong password is complained about:\n{seen}");
    assert!(!seen.contains("changeit") && !seen.contains(PLANTED), "{seen}");
}
