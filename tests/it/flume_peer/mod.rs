//! Avro and Thrift hops between this program and Apache Flume itself, in both directions.

mod avro_client;
mod clients;
mod containers;
mod hops;
mod kerberos;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::peers::require_flume;
use crate::util::{Agent, Client, Start, free_port, within};

/// A JVM on two busy cores takes its time.
const PATIENCE: Duration = Duration::from_secs(120);
/// Events a test sends along each way.
const EVENTS: usize = 250;
/// Compression of sources and sinks.
const DEFLATE: &str = "compression-type = deflate";

fn key_store(name: &str) -> String {
    format!("{}/tests/fixtures/keystore/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Properties of a source with TLS.
fn server_tls() -> String {
    format!("ssl = true\nkeystore = {}\nkeystore-password = changeit", key_store("server.jks"))
}

/// Properties of a sink with TLS.
fn client_tls(store: &str) -> String {
    format!("ssl = true\ntruststore = {}\ntruststore-password = changeit", key_store(store))
}

/// An agent of Flume's; killed when dropped.
struct Flume {
    child: Child,
    log: PathBuf,
}

impl Drop for Flume {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Flume {
    /// Starts agent `f1` of a release and waits until it listens.
    fn start(
        script: &Path,
        release: &str,
        dir: &Path,
        flow: &str,
        kerberos: Option<&str>,
        ports: &[u16],
    ) -> Self {
        let (conf, log) = (dir.join("flume.conf"), dir.join("flume.log"));
        fs::write(&conf, flow).unwrap();
        let child = Command::new(script)
            .env("FLUME_RELEASE", release)
            .args(["agent", "-n", "f1", "-f"])
            .arg(&conf)
            .envs(kerberos.map(|conf| ("FLUME_KERBEROS", conf)))
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let flume = Self { child, log };
        let deadline = Instant::now() + PATIENCE;
        for port in ports {
            while TcpStream::connect(("127.0.0.1", *port)).is_err() {
                assert!(
                    Instant::now() < deadline,
                    "Flume {release} does not listen on {port}:\n{}",
                    flume.log()
                );
                std::thread::park_timeout(Duration::from_millis(20));
            }
        }
        flume
    }
    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// A sink and the source it delivers to, of one kind.
struct Hop {
    name: &'static str,
    kind: &'static str,
    /// Further properties of the source.
    source: String,
    /// Further properties of the sink.
    sink: String,
}

fn hop(name: &'static str, kind: &'static str, source: impl Into<String>, sink: impl Into<String>) -> Hop {
    Hop { name, kind, source: source.into(), sink: sink.into() }
}

/// The text of a flow as it grows.
#[derive(Default)]
struct Flow {
    agent: &'static str,
    sources: Vec<String>,
    channels: Vec<String>,
    sinks: Vec<String>,
    text: String,
}

impl Flow {
    fn new(agent: &'static str) -> Self {
        Self { agent, ..Self::default() }
    }
    fn set(&mut self, component: &str, lines: &str) {
        for line in lines.lines().filter(|l| !l.is_empty()) {
            writeln!(self.text, "{}.{component}.{line}", self.agent).unwrap();
        }
    }
    fn channel(&mut self, name: &str) {
        self.set(&format!("channels.{name}"), "type = memory\ncapacity = 10000\ntransactionCapacity = 1000");
        self.channels.push(name.to_owned());
    }
    fn source(&mut self, name: &str, channels: &[String], lines: &str) {
        self.set(&format!("sources.{name}"), &format!("channels = {}\n{lines}", channels.join(" ")));
        self.sources.push(name.to_owned());
    }
    fn sink(&mut self, name: &str, channel: &str, lines: &str) {
        self.set(&format!("sinks.{name}"), &format!("channel = {channel}\n{lines}"));
        self.sinks.push(name.to_owned());
    }
    /// A source on a port whose events become the lines of files in a directory, headers first.
    fn files_from(&mut self, name: &str, source: &str, directory: &Path) {
        fs::create_dir_all(directory).unwrap();
        self.channel(name);
        self.source(name, &[name.to_owned()], source);
        let directory = directory.display();
        self.sink(
            name,
            name,
            &format!(
                "type = file_roll\nsink.directory = {directory}\nsink.rollInterval = 0\nsink.serializer = header_and_text"
            ),
        );
    }
    fn text(&self) -> String {
        let mut text = self.text.clone();
        for (what, names) in
            [("sources", &self.sources), ("channels", &self.channels), ("sinks", &self.sinks)]
        {
            writeln!(text, "{}.{what} = {}", self.agent, names.join(" ")).unwrap();
        }
        text
    }
}

fn listening(kind: &str, port: u16, more: &str) -> String {
    format!("type = {kind}\nbind = 127.0.0.1\nport = {port}\n{more}")
}

/// Events as `header_and_text` writes them: part of the headers, and the body.
fn events(header: &str, label: &str, count: usize) -> Vec<(String, String)> {
    (0..count).map(|i| (header.to_owned(), format!("{label} {i}"))).collect()
}

/// Headers and how often it arrived, of each body in the files of a directory.
fn arrived(directory: &Path) -> BTreeMap<String, (String, usize)> {
    let mut found: BTreeMap<String, (String, usize)> = BTreeMap::new();
    for line in crate::util::lines(directory) {
        // The last line may be half written.
        let Some((headers, body)) = line.rsplit_once("} ") else { continue };
        found.entry(body.to_owned()).or_insert_with(|| (headers.to_owned(), 0)).1 += 1;
    }
    found
}

/// Waits until every event has arrived, and checks that each came once with its headers and nothing else came.
fn expect(directory: &Path, expected: &[(String, String)], log: impl Fn() -> String) {
    let deadline = Instant::now() + PATIENCE;
    let found = loop {
        let found = arrived(directory);
        if expected.iter().all(|(_, body)| found.contains_key(body)) {
            break found;
        }
        if Instant::now() > deadline {
            let missing: Vec<_> =
                expected.iter().filter(|(_, body)| !found.contains_key(body)).map(|e| &e.1).collect();
            panic!(
                "{}: {} of {} are missing, {:?} among them\n{}",
                directory.display(),
                missing.len(),
                expected.len(),
                missing[0],
                log()
            );
        }
        std::thread::park_timeout(Duration::from_millis(20));
    };
    for (header, body) in expected {
        let (headers, times) = &found[body];
        assert!(headers.contains(header), "{}: {body:?} has the headers {headers}", directory.display());
        assert_eq!(*times, 1, "{}: {body:?}", directory.display());
    }
    assert_eq!(found.len(), expected.len(), "{}: more than was sent", directory.display());
}

/// One agent of ours and one of Flume's, each with a netcat source whose events go through every hop to files
/// of the other.
struct Exchange {
    ours: Agent,
    theirs: Flume,
    /// Ports of our sources, hop by hop.
    ports: Vec<u16>,
    /// Files of what came to us and of what came to them: one directory per hop below it.
    to_us: PathBuf,
    to_them: PathBuf,
}

impl Exchange {
    /// Starts both. `to_us` are hops with our source, `to_them` with theirs.
    fn start(
        script: &Path,
        release: &str,
        dir: &Path,
        to_us: &[Hop],
        to_them: &[Hop],
        run: &Run<'_>,
    ) -> Self {
        let (in_us, in_them) = (dir.join("to_us"), dir.join("to_them"));
        let ports = |count| (0..count).map(|_| free_port()).collect::<Vec<u16>>();
        let (us, them) = (ports(to_us.len()), ports(to_them.len()));
        let (mut ours, mut theirs) = (Flow::new("a1"), Flow::new("f1"));
        let build = |receiver: &mut Flow, sender: &mut Flow, hops: &[Hop], ports: &[u16], files: &Path| {
            for (hop, port) in hops.iter().zip(ports) {
                let name = format!("in-{}", hop.name);
                receiver.files_from(&name, &listening(hop.kind, *port, &hop.source), &files.join(hop.name));
                let name = format!("out-{}", hop.name);
                sender.channel(&name);
                let to = format!("type = {}\nhostname = localhost\nport = {port}\n{}", hop.kind, hop.sink);
                sender.sink(&name, &name, &to);
            }
            let netcat = free_port();
            let channels: Vec<_> = hops.iter().map(|h| format!("out-{}", h.name)).collect();
            let stamp = "interceptors = i1\ninterceptors.i1.type = static\ninterceptors.i1.key = origin";
            let stamp = format!("{stamp}\ninterceptors.i1.value = agent {}", sender.agent);
            sender.source("r1", &channels, &listening("netcat", netcat, &stamp));
            netcat
        };
        let to_them_port = build(&mut theirs, &mut ours, to_them, &them, &in_them);
        let to_us_port = build(&mut ours, &mut theirs, to_us, &us, &in_us);
        let mut awaited = them.clone();
        awaited.push(to_us_port);
        let mut start = Start::new(dir, ours.text());
        for (key, value) in run.env {
            start = start.env(key, value);
        }
        let ours = start.started();
        let theirs = Flume::start(script, release, dir, &theirs.text(), run.kerberos, &awaited);
        for port in [to_us_port, to_them_port] {
            let mut client = Client::connect(port);
            for i in 0..EVENTS {
                client.send(format!("event {i}\n"));
            }
            (0..EVENTS).for_each(|_| assert_eq!(client.answer(), "OK"));
        }
        Self { ours, theirs, ports: us, to_us: in_us, to_them: in_them }
    }
    fn logs(&self) -> String {
        format!("{}\n{}", self.ours.log(), self.theirs.log())
    }
    /// Checks what was sent through the netcat sources.
    fn check(&self, to_us: &[Hop], to_them: &[Hop]) {
        for hop in to_them {
            expect(&self.to_them.join(hop.name), &events("origin=agent a1", "event", EVENTS), || self.logs());
        }
        for hop in to_us {
            expect(&self.to_us.join(hop.name), &events("origin=agent f1", "event", EVENTS), || self.logs());
        }
    }
}

/// How the agents of an exchange are run.
#[derive(Default)]
struct Run<'a> {
    /// Environment of ours.
    env: &'a [(&'a str, &'a str)],
    /// Kerberos' configuration for theirs.
    kerberos: Option<&'a str>,
}

/// Runs a command of the peer's to its end.
fn run(script: &Path, release: &str, arguments: &[String]) -> String {
    let output =
        Command::new(script).env("FLUME_RELEASE", release).args(arguments).stdin(Stdio::null()).output();
    let output = output.unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "Flume {release} {arguments:?}: {text}");
    text
}
