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

/// A flow in which a value of everything inside a source or a sink group comes from a config filter.
fn filtered() -> Vec<(String, String)> {
    const PARTS: &str = "a1.configfilters = f1\na1.configfilters.f1.type = env\na1.sinkgroups = g1\n\
        a1.sinkgroups.g1.sinks = k1\na1.sources.r1.interceptors = i1\n";
    let mut found = Vec::new();
    let mut plant = |specs: &[&dyn PropertySpec], prefix: &str, class: &str| {
        let others = [
            ("sources.r1.interceptors.i1.", "host"),
            ("sinkgroups.g1.processor.", "failover"),
            ("sources.r1.selector.", "replicating"),
        ];
        let mut types = format!("a1.{prefix}type = {class}\n");
        others
            .iter()
            .filter(|(p, _)| *p != prefix)
            .for_each(|(p, t)| types += &format!("a1.{p}type = {t}\n"));
        // A lone value of a property is often no more complete than none; so everything is set, each to the secret.
        let key = |spec: &dyn PropertySpec| {
            let member = match (spec.is_family(), prefix) {
                (false, _) => "",
                (true, "sinkgroups.g1.processor.") => "k1",
                (true, _) => "x",
            };
            format!("a1.{prefix}{}{member}", spec.name())
        };
        let all: String = specs
            .iter()
            .filter(|s| s.name() != "type")
            .map(|s| format!("{} = ${{f1['PW']}}\n", key(*s)))
            .collect();
        found.push((flow("seq", "memory", "null", &format!("{PARTS}{types}{all}")), format!("{class}, all")));
        for spec in specs {
            let name = key(*spec);
            let lines = format!("{PARTS}{types}{name} = ${{f1['PW']}}\n");
            found.push((flow("seq", "memory", "null", &lines), name));
        }
    };
    for entry in registry::INTERCEPTORS {
        plant(entry.properties, "sources.r1.interceptors.i1.", entry.class);
    }
    for entry in registry::SELECTORS {
        plant(entry.properties, "sources.r1.selector.", entry.class);
    }
    for entry in registry::SINK_PROCESSORS {
        plant(entry.properties, "sinkgroups.g1.processor.", entry.class);
    }
    for (key, class) in [("sources.r1.channels", ""), ("sinks.k1.channel", ""), ("sinkgroups.g1.sinks", "")] {
        let lines = format!("{PARTS}a1.{key}{class} = ${{f1['PW']}} c1\n");
        found.push((flow("seq", "memory", "null", &lines), key.to_owned()));
    }
    found
}

#[test]
fn no_complaint_shows_what_a_config_filter_gave() {
    let filtered = filtered();
    let mut shown = String::new();
    for (text, name) in &filtered {
        let dir = scratch();
        let file = dir.path().join("flow.properties");
        fs::write(&file, text).unwrap();
        let mut command = millrace();
        command.env("PW", PLANTED).args(["check", "-n", "a1", "-f"]).arg(&file);
        let (_, out, err) = output(command);
        assert!(!out.contains(PLANTED) && !err.contains(PLANTED), "{name}\n{text}\n{out}{err}");
        shown.push_str(&out);
        shown.push_str(&err);
    }
    assert!(shown.matches("[secret]").count() > 10, "the complaints are about the secrets:\n{shown}");
}

#[test]
fn a_config_filter_that_fails_shows_nothing() {
    let dir = scratch();
    let tell = dir.path().join("tell");
    let told = format!("#!/bin/sh\necho {PLANTED}\nexit 3\n");
    fs::write(&tell, told).unwrap();
    fs::set_permissions(&tell, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    fs::write(dir.path().join("pw"), PLANTED).unwrap();
    let store = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/keystore/credentials.jceks");
    let filters = [
        ("env", String::new()),
        ("external", format!("a1.configfilters.f1.command = {}\n", tell.display())),
        (
            "external",
            "a1.configfilters.f1.command = cat\na1.configfilters.f1.charset = nonsense\n".to_owned(),
        ),
        (
            "hadoop",
            format!(
                "a1.configfilters.f1.credential.provider.path = localjceks://file{store}\n\
                 a1.configfilters.f1.credstore.java-keystore-provider.password-file = {}/pw\n",
                dir.path().display()
            ),
        ),
        (
            "hadoop",
            format!("a1.configfilters.f1.credential.provider.path = jceks://hdfs@{PLANTED}\n")
                .replace(PLANTED, "h"),
        ),
    ];
    for (name, lines) in filters {
        let lines = format!(
            "a1.configfilters = f1\na1.configfilters.f1.type = {name}\n{lines}a1.sinks.k1.x = ${{f1['NOSUCH']}}\n"
        );
        let file = dir.path().join("flow.properties");
        fs::write(&file, flow("seq", "memory", "null", &lines)).unwrap();
        let mut command = millrace();
        command.env("PW", PLANTED).env("HADOOP_CREDSTORE_PASSWORD_FILE", PLANTED);
        command.args(["check", "-n", "a1", "-f"]).arg(&file);
        let (_, out, err) = output(command);
        let shown = out + &err;
        assert!(!shown.contains(PLANTED), "{name}\n{shown}");
        assert!(shown.contains("f1"), "it is complained about: {shown}");
    }
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

    let parts = "a1.configfilters = f1\na1.configfilters.f1.type = env\na1.sources.r1.interceptors = i1 i2\n\
        a1.sources.r1.interceptors.i1.type = static\na1.sources.r1.interceptors.i1.value = ${f1['PW']}\n\
        a1.sources.r1.interceptors.i2.type = regex_filter\na1.sources.r1.interceptors.i2.regex = ${f1['PW']}\n\
        a1.sources.r1.interceptors.i2.excludeEvents = true\na1.sources.r1.selector.type = multiplexing\n\
        a1.sources.r1.selector.header = ${f1['PW']}\na1.sources.r1.selector.default = c1\n\
        a1.sources.r1.totalEvents = 100\na1.sinkgroups = g1\na1.sinkgroups.g1.sinks = k1\n\
        a1.sinkgroups.g1.processor.type = failover\na1.sinkgroups.g1.processor.priority.k1 = 5\n";
    let agent = Start::new(dir.path(), flow("seq", "memory", "null", parts))
        .env("PW", PLANTED)
        .arg("-Dflume.root.logger=DEBUG,console")
        .arg("-Dorg.apache.flume.log.printconfig=true")
        .arg("-Dflume.monitoring.type=http")
        .arg(format!("-Dflume.monitoring.port={metrics}"))
        .started();
    for path in ["/metrics", "/metrics/prometheus"] {
        seen += &crate::http::get(metrics, path);
    }
    assert!(agent.stop().success());
    seen += &fs::read_to_string(dir.path().join("agent.log")).unwrap();

    let mut agent = Start::new(dir.path(), text(PLANTED)).spawn();
    assert!(!agent.wait().success());
    seen += &agent.log();
    assert!(seen.contains("keystore"), "the wrong password is complained about:\n{seen}");
    assert!(!seen.contains("changeit") && !seen.contains(PLANTED), "{seen}");
}
