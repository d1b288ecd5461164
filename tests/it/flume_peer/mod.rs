//! Avro and Thrift hops between this program and Apache Flume 1.11 itself, in both directions.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::peers::require_peer;
use crate::util::{Start, free_port, scratch, within};

/// A JVM on two busy cores takes its time.
const PATIENCE: Duration = Duration::from_secs(120);
const EVENTS: usize = 250;

fn key_store(name: &str) -> String {
    format!("{}/tests/fixtures/keystore/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Killed when dropped.
struct Jvm(Child);
impl Drop for Jvm {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How often each line stands in the files of a directory.
fn lines(directory: &Path) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        for line in fs::read_to_string(entry.path()).unwrap_or_default().lines() {
            *counts.entry(line.to_owned()).or_insert(0) += 1;
        }
    }
    counts
}

/// Waits until `expected` different lines have arrived, and checks that each came `times` times.
fn expect(directory: &Path, expected: usize, times: usize, log: impl Fn() -> String) {
    let counts = {
        let wait = || {
            let counts = lines(directory);
            let enough = counts.len() >= expected && counts.values().sum::<usize>() >= expected * times;
            enough.then_some(counts)
        };
        let waited =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| within(PATIENCE, "the events", wait)));
        waited.unwrap_or_else(|_| {
            let counts = lines(directory);
            panic!(
                "{} of {expected} lines, {} copies\n{}",
                counts.len(),
                counts.values().sum::<usize>(),
                log()
            )
        })
    };
    assert_eq!(counts.len(), expected);
    let wrong: Vec<_> = counts.iter().filter(|(_, n)| **n != times).take(5).collect();
    assert!(wrong.is_empty(), "not {times} times: {wrong:?}");
}

#[test]
fn flumes_clients_deliver_to_us() {
    let Some(flume) = require_peer("flume") else { return };
    let dir = scratch();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let ports: Vec<u16> = (0..7).map(|_| free_port()).collect();
    let tls = format!("ssl = true\nkeystore = {}\nkeystore-password = changeit", key_store("server.jks"));
    let kinds = [
        ("plain", "avro", String::new()),
        ("deflate", "avro", "compression-type = deflate".to_owned()),
        ("tls", "avro", tls.clone()),
        ("both", "avro", format!("{tls}\ncompression-type = deflate")),
        ("compact", "thrift", String::new()),
        ("binary", "thrift", "protocol = binary".to_owned()),
        ("thrifttls", "thrift", tls.clone()),
    ];
    let mut flow = String::from(
        "a1.channels = c1\na1.sinks = k1\na1.channels.c1.type = memory\na1.channels.c1.capacity = 10000\n",
    );
    flow.push_str(&format!("a1.sinks.k1.type = file_roll\na1.sinks.k1.channel = c1\na1.sinks.k1.sink.rollInterval = 0\na1.sinks.k1.sink.directory = {}\n", out.display()));
    flow.push_str(&format!("a1.sources = {}\n", kinds.iter().map(|k| k.0).collect::<Vec<_>>().join(" ")));
    for ((name, kind, extra), port) in kinds.iter().zip(&ports) {
        flow.push_str(&format!("a1.sources.{name}.type = {kind}\na1.sources.{name}.channels = c1\na1.sources.{name}.bind = 127.0.0.1\na1.sources.{name}.port = {port}\n"));
        extra.lines().for_each(|line| flow.push_str(&format!("a1.sources.{name}.{line}\n")));
    }
    let agent = Start::new(dir.path(), flow).started();
    let trust = format!("ssl=true,truststore={},truststore-password=changeit", key_store("trust.jks"));
    let host = |index: usize| format!("hosts=h1,hosts.h1=127.0.0.1:{}", ports[index]);
    let dead = free_port();
    let clients = [
        format!("client.type=default,{},batch=100", host(0)),
        format!("client.type=default,{},batch=0", host(0)),
        format!("client.type=default,{},batch=100,compression-type=deflate,compression-level=6", host(1)),
        format!("client.type=default,{},batch=100,{trust}", host(2)),
        format!("client.type=default,{},batch=100,{trust},compression-type=deflate", host(3)),
        format!("client.type=thrift,{},batch=100", host(4)),
        format!("client.type=thrift,{},batch=7,protocol=binary", host(5)),
        format!("client.type=thrift,{},batch=100,{trust}", host(6)),
        format!(
            "client.type=default_failover,hosts=h1;h2,hosts.h1=127.0.0.1:{dead},hosts.h2=127.0.0.1:{},batch=50",
            ports[0]
        ),
        format!(
            "client.type=default_loadbalance,hosts=h1;h2,hosts.h1=127.0.0.1:{dead},hosts.h2=127.0.0.1:{},batch=50",
            ports[0]
        ),
    ];
    let clients: Vec<String> =
        clients.iter().enumerate().map(|(i, c)| format!("label=client{i},count={EVENTS},{c}")).collect();
    let sent = Command::new(&flume).arg("send").args(&clients).output().unwrap();
    let text = String::from_utf8_lossy(&sent.stderr).into_owned();
    assert!(sent.status.success(), "{text}\n{}", agent.log());
    expect(&out, clients.len() * EVENTS, 1, || agent.log());

    let log4j =
        Command::new(&flume).args(["log4j", "127.0.0.1", &ports[0].to_string(), "20"]).output().unwrap();
    assert!(log4j.status.success(), "{}", String::from_utf8_lossy(&log4j.stderr));
    let file = dir.path().join("lines.txt");
    fs::write(&file, (0..30).map(|i| format!("cli {i}\n")).collect::<String>()).unwrap();
    let cli = Command::new(&flume)
        .args(["avro-client", "-H", "127.0.0.1", "-p", &ports[0].to_string(), "-F"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(cli.status.success(), "{}", String::from_utf8_lossy(&cli.stderr));
    expect(&out, clients.len() * EVENTS + 50, 1, || agent.log());
}

#[test]
fn we_deliver_to_flume() {
    let Some(flume) = require_peer("flume") else { return };
    let dir = scratch();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let tls = format!("ssl = true\nkeystore = {}\nkeystore-password = changeit", key_store("server.jks"));
    let trust =
        format!("ssl = true\ntruststore = {}\ntruststore-password = changeit", key_store("trust.p12"));
    let deflate = "compression-type = deflate";
    let hops = [
        ("plain", "avro", String::new(), String::new()),
        ("zstd", "avro", String::new(), "compression-type = zstd".to_owned()),
        ("deflate", "avro", deflate.to_owned(), format!("{deflate}\ncompression-level = 1")),
        ("tls", "avro", tls.clone(), trust.clone()),
        ("both", "avro", format!("{tls}\n{deflate}"), format!("{trust}\n{deflate}")),
        ("compact", "thrift", String::new(), String::new()),
        ("binary", "thrift", "protocol = binary".to_owned(), "protocol = binary".to_owned()),
        ("thrifttls", "thrift", tls, trust),
    ];
    let ports: Vec<u16> = hops.iter().map(|_| free_port()).collect();
    let names = hops.iter().map(|h| h.0).collect::<Vec<_>>().join(" ");

    let mut theirs = format!(
        "f1.sources = {names}\nf1.channels = c1\nf1.sinks = k1\nf1.channels.c1.type = memory\nf1.channels.c1.capacity = 100000\nf1.channels.c1.transactionCapacity = 1000\n"
    );
    theirs.push_str(&format!("f1.sinks.k1.type = file_roll\nf1.sinks.k1.channel = c1\nf1.sinks.k1.sink.rollInterval = 0\nf1.sinks.k1.sink.directory = {}\n", out.display()));
    let netcat = free_port();
    let mut ours = format!(
        "a1.sources = r1\na1.sources.r1.type = netcat\na1.sources.r1.bind = 127.0.0.1\na1.sources.r1.port = {netcat}\n"
    );
    let channels: Vec<String> = hops.iter().map(|h| format!("c{}", h.0)).collect();
    ours.push_str(&format!(
        "a1.sources.r1.channels = {0}\na1.channels = {0}\na1.sinks = {names}\n",
        channels.join(" ")
    ));
    for ((name, kind, source, sink), port) in hops.iter().zip(&ports) {
        theirs.push_str(&format!("f1.sources.{name}.type = {kind}\nf1.sources.{name}.channels = c1\nf1.sources.{name}.bind = 127.0.0.1\nf1.sources.{name}.port = {port}\n"));
        source.lines().for_each(|line| theirs.push_str(&format!("f1.sources.{name}.{line}\n")));
        ours.push_str(&format!("a1.channels.c{name}.type = memory\na1.channels.c{name}.capacity = 10000\na1.sinks.{name}.type = {kind}\na1.sinks.{name}.channel = c{name}\na1.sinks.{name}.hostname = 127.0.0.1\na1.sinks.{name}.port = {port}\n"));
        sink.lines().for_each(|line| ours.push_str(&format!("a1.sinks.{name}.{line}\n")));
    }
    let conf = dir.path().join("flume.conf");
    fs::write(&conf, theirs).unwrap();
    let flume_log = dir.path().join("flume.log");
    let log = fs::File::create(&flume_log).unwrap();
    let child = Command::new(&flume)
        .args(["agent", "-n", "f1", "-f"])
        .arg(&conf)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let _jvm = Jvm(child);
    for port in &ports {
        within(PATIENCE, "Flume listens", || TcpStream::connect(("127.0.0.1", *port)).ok());
    }
    let agent = Start::new(dir.path(), ours).started();
    let mut client = crate::util::Client::connect(netcat);
    for i in 0..EVENTS {
        client.send(format!("event {i}\n").as_bytes());
    }
    expect(&out, EVENTS, hops.len(), || {
        format!("{}\n{}", agent.log(), fs::read_to_string(&flume_log).unwrap_or_default())
    });
    assert!(agent.log().contains("does not understand zstd"), "the fallback is announced");
}

#[test]
fn flumes_agent_delivers_to_us() {
    let Some(flume) = require_peer("flume") else { return };
    let dir = scratch();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let tls = format!("ssl = true\nkeystore = {}\nkeystore-password = changeit", key_store("server.jks"));
    let trust =
        format!("ssl = true\ntruststore = {}\ntruststore-password = changeit", key_store("trust.jks"));
    let deflate = "compression-type = deflate";
    let hops = [
        ("plain", "avro", String::new(), String::new()),
        ("deflate", "avro", deflate.to_owned(), format!("{deflate}\ncompression-level = 1")),
        ("tls", "avro", tls.clone(), trust.clone()),
        ("both", "avro", format!("{tls}\n{deflate}"), format!("{trust}\n{deflate}")),
        ("compact", "thrift", String::new(), String::new()),
        ("binary", "thrift", "protocol = binary".to_owned(), "protocol = binary".to_owned()),
        ("thrifttls", "thrift", tls, trust),
    ];
    let ports: Vec<u16> = hops.iter().map(|_| free_port()).collect();
    let names = hops.iter().map(|h| h.0).collect::<Vec<_>>().join(" ");
    let mut ours = format!(
        "a1.sources = {names}\na1.channels = c1\na1.sinks = k1\na1.channels.c1.type = memory\na1.channels.c1.capacity = 10000\n\
         a1.sinks.k1.type = file_roll\na1.sinks.k1.channel = c1\na1.sinks.k1.sink.rollInterval = 0\na1.sinks.k1.sink.directory = {}\n",
        out.display()
    );
    let channels: Vec<String> = hops.iter().map(|h| format!("c{}", h.0)).collect();
    let netcat = free_port();
    let mut theirs = format!(
        "f1.sources = r1\nf1.sources.r1.type = netcat\nf1.sources.r1.bind = 127.0.0.1\nf1.sources.r1.port = {netcat}\n\
         f1.sources.r1.channels = {0}\nf1.channels = {0}\nf1.sinks = {names}\n",
        channels.join(" ")
    );
    for ((name, kind, source, sink), port) in hops.iter().zip(&ports) {
        ours.push_str(&format!("a1.sources.{name}.type = {kind}\na1.sources.{name}.channels = c1\na1.sources.{name}.bind = 127.0.0.1\na1.sources.{name}.port = {port}\n"));
        source.lines().for_each(|line| ours.push_str(&format!("a1.sources.{name}.{line}\n")));
        theirs.push_str(&format!("f1.channels.c{name}.type = memory\nf1.channels.c{name}.capacity = 10000\nf1.sinks.{name}.type = {kind}\nf1.sinks.{name}.channel = c{name}\nf1.sinks.{name}.hostname = 127.0.0.1\nf1.sinks.{name}.port = {port}\n"));
        sink.lines().for_each(|line| theirs.push_str(&format!("f1.sinks.{name}.{line}\n")));
    }
    let agent = Start::new(dir.path(), ours).started();
    let conf = dir.path().join("flume.conf");
    fs::write(&conf, theirs).unwrap();
    let flume_log = dir.path().join("flume.log");
    let child = Command::new(&flume)
        .args(["agent", "-n", "f1", "-f"])
        .arg(&conf)
        .stdout(Stdio::null())
        .stderr(fs::File::create(&flume_log).unwrap())
        .spawn()
        .unwrap();
    let _jvm = Jvm(child);
    within(PATIENCE, "Flume listens", || TcpStream::connect(("127.0.0.1", netcat)).ok());
    let mut client = crate::util::Client::connect(netcat);
    for i in 0..EVENTS {
        client.send(format!("event {i}\n").as_bytes());
    }
    expect(&out, EVENTS, hops.len(), || {
        format!("{}\n{}", agent.log(), fs::read_to_string(&flume_log).unwrap_or_default())
    });
}

/// Answers every request with this text.
fn serve(text: &'static str) -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).unwrap_or(0) == 0 {
                    break;
                }
                request.push(byte[0]);
            }
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", text.len());
            let _ = stream.write_all((head + text).as_bytes());
        }
    });
    port
}

/// Bodies that are Avro data, under schemas from a header, from its address and from a fixed address, and
/// whole events: in every codec, to the disk and below `hdfs`, read by the library Flume's users read them with.
#[test]
fn avros_own_library_reads_our_containers() {
    let Some(flume) = require_peer("flume") else { return };
    let dir = scratch();
    let schema = dir.path().join("string.avsc");
    fs::write(&schema, "{ \"type\" : \"string\" }").unwrap();
    let codecs = ["null", "deflate", "snappy", "bzip2", "xz", "zstandard"];
    let fixed = serve(
        r#"{"type":"record","name":"Line","namespace":"x.y","doc":"d","fields":[{"name":"text","type":"string"}]}"#,
    );
    let port = free_port();
    let mut flow = format!(
        "a1.sources = r1\na1.sources.r1.type = http\na1.sources.r1.bind = 127.0.0.1\na1.sources.r1.port = {port}\n"
    );
    let mut list = |kind: &str, codec: &str, index: usize| {
        let name = format!("{kind}{codec}");
        let out = dir.path().join(&name);
        fs::create_dir(&out).unwrap();
        let sink = format!("a1.sinks.{name}");
        let (key, options) = match index % 2 {
            0 => (
                "sink.serializer",
                format!(
                    "{sink}.type = file_roll\n{sink}.sink.directory = {}\n{sink}.sink.rollInterval = 0\n",
                    out.display()
                ),
            ),
            _ => (
                "serializer",
                format!(
                    "{sink}.type = hdfs\n{sink}.hdfs.path = file://{}\n{sink}.hdfs.fileType = DataStream\n{sink}.hdfs.journalDir = {}\n\
                 {sink}.hdfs.rollInterval = 0\n{sink}.hdfs.rollSize = 0\n{sink}.hdfs.rollCount = 0\n",
                    out.display(),
                    dir.path().join("journal").display()
                ),
            ),
        };
        let class = match kind {
            "body" => format!(
                "org.apache.flume.sink.hdfs.AvroEventSerializer$Builder\n{sink}.{key}.schemaURL = http://127.0.0.1:{fixed}/s"
            ),
            _ => "avro_event".to_owned(),
        };
        flow.push_str(&format!(
            "{sink}.channel = c{name}\na1.channels.c{name}.type = memory\n{options}{sink}.{key} = {class}\n\
             {sink}.{key}.compressionCodec = {codec}\n{sink}.{key}.syncIntervalBytes = 100\n"
        ));
        name
    };
    let mut names = Vec::new();
    for (index, codec) in codecs.iter().enumerate() {
        names.push(list("body", codec, index));
        names.push(list("event", codec, index + 1));
    }
    let channels: Vec<String> = names.iter().map(|n| format!("c{n}")).collect();
    flow.push_str(&format!(
        "a1.sinks = {}\na1.channels = {1}\na1.sources.r1.channels = {1}\n",
        names.join(" "),
        channels.join(" ")
    ));
    let agent = Start::new(dir.path(), flow).started();
    let url = format!("file://{}", schema.display());
    let mut events: Vec<String> = Vec::new();
    for _ in 0..25 {
        events.push(
            r#"{"headers":{"flume.avro.schema.literal":"[\"null\",\"string\"]"},"body":"\u0002\u0006one"}"#
                .to_owned(),
        );
        events.push(format!(r#"{{"headers":{{"flume.avro.schema.url":"{url}"}},"body":"\u0006two"}}"#));
        events.push(r#"{"headers":{"k":"v"},"body":"\nthree"}"#.to_owned());
    }
    let body = format!("[{}]", events.join(","));
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(
        client,
        "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let log = agent.log();
    assert!(agent.stop().success(), "{log}");
    let files: Vec<std::path::PathBuf> =
        names.iter().flat_map(|name| crate::util::files(&dir.path().join(name))).collect();
    let read = Command::new(&flume).arg("read-avro").args(&files).output().unwrap();
    assert!(read.status.success(), "{}\n{log}", String::from_utf8_lossy(&read.stderr));
    let text = String::from_utf8(read.stdout).unwrap();
    for name in names {
        let below = format!("{}/", dir.path().join(&name).display());
        let mut counts: HashMap<&str, usize> = HashMap::new();
        let mut ours = false;
        for line in text.lines() {
            match files.iter().any(|f| f.as_os_str() == line) {
                true => ours = line.starts_with(&below),
                false if ours => *counts.entry(line).or_default() += 1,
                false => {}
            }
        }
        let codec = name.trim_start_matches("body").trim_start_matches("event");
        let mut expected: Vec<(String, usize)> = match name.starts_with("body") {
            true => vec![
                (format!("{codec} [\"null\",\"string\"]"), 1),
                (format!("{codec} \"string\""), 1),
                (format!("{codec} {{\"type\":\"record\",\"name\":\"Line\",\"namespace\":\"x.y\",\"doc\":\"d\",\"fields\":[{{\"name\":\"text\",\"type\":\"string\"}}]}}"), 1),
                ("one".to_owned(), 25),
                ("two".to_owned(), 25),
                ("{\"text\": \"three\"}".to_owned(), 25),
            ],
            false => vec![
                (format!("{codec} {{\"type\":\"record\",\"name\":\"Event\",\"fields\":[{{\"name\":\"headers\",\"type\":{{\"type\":\"map\",\"values\":\"string\"}}}},{{\"name\":\"body\",\"type\":\"bytes\"}}]}}"), 1),
                ("{\"headers\": {\"flume.avro.schema.literal\": \"[\\\"null\\\",\\\"string\\\"]\"}, \"body\": \"\\u0002\\u0006one\"}".to_owned(), 25),
                (format!("{{\"headers\": {{\"flume.avro.schema.url\": \"{url}\"}}, \"body\": \"\\u0006two\"}}"), 25),
                ("{\"headers\": {\"k\": \"v\"}, \"body\": \"\\nthree\"}".to_owned(), 25),
            ],
        };
        let mut found: Vec<(String, usize)> =
            counts.into_iter().map(|(line, n)| (line.to_owned(), n)).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{name}");
    }
}
